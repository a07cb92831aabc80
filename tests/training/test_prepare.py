import math

import numpy as np
import pytest

from stream.core.events import N_KINDS, Kind
from stream.core.features import LATE, dequantise
from stream.core.row import N_FEATURES
from training.prepare import Standard, hour_table, kind_table, standard


def test_kinds_and_lateness() -> None:
    table = kind_table()
    for code in range(256):
        kind, late = code % LATE, code >= LATE
        expected = [float(kind == k) for k in range(N_KINDS)] + [float(late)]
        assert table[code].tolist() == expected
    assert table[Kind.CART_ADD + LATE].sum() == 2


def test_hours_go_round() -> None:
    table = hour_table()
    for hour in range(24):
        assert table[hour].tolist() == pytest.approx(
            [math.sin(math.tau * hour / 24), math.cos(math.tau * hour / 24)], abs=1e-6
        )
    np.testing.assert_allclose(table[24:48], table[:24], atol=1e-5)


def test_standard_leaves_constants_unscaled() -> None:
    values = dequantise(np.random.default_rng(0).integers(0, 256, (500, N_FEATURES), np.uint8))
    values[:, 5] = 3
    found = standard(values)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.delete(found.variance, 5), np.delete(values.var(axis=0), 5), rtol=1e-4)
    assert found.variance[5] == 1


def test_the_layer_is_the_tables(fitted: object) -> None:
    """TensorFlow's layer against the same by hand."""
    del fitted  # TensorFlow is loaded by it
    from training.models.prepared import Prepared

    steps = np.random.default_rng(1).integers(0, 256, (300, N_FEATURES), np.uint8)
    steps[::3, 2], steps[::4, 14] = 255, 0
    values = dequantise(steps)
    of = Standard(values.mean(axis=0), values.var(axis=0))
    found = Prepared(of)(values).numpy()
    flags = np.stack([steps[:, 2] == 255, steps[:, 14] == 0], axis=1)
    deviations = np.clip((values - of.mean) / np.sqrt(of.variance), -8, 8)
    expected = np.concatenate([kind_table()[steps[:, 0]], hour_table()[steps[:, 13]], flags, deviations], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
