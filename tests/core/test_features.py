import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.core.features import FEATURES, LOG, SCALES, SHARE, dequantise, log2_eighths
from stream.core.row import N_FEATURES
from tests.core import oracle

DOCS = Path(__file__).resolve().parents[2] / "docs" / "features.md"


@given(st.lists(st.integers(0, 2**62), min_size=1))
@example([0, 1, 2, 3, 7, 8, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 10**12, 2**50, 2**62])
def test_log2_equals_the_oracle(n: list[int]) -> None:
    """Up to 2^53 by the definition; beyond it every number is 255 anyway."""
    assert log2_eighths(np.array(n)).tolist() == [oracle.log2_eighths(m) for m in n]


def test_log2_equals_the_oracle_at_every_step_of_the_scale() -> None:
    powers = [2**e * eighth // 8 for e in range(54) for eighth in range(8, 16)]
    n = sorted({p + d for p in powers for d in (-2, -1, 0, 1) if p + d >= 0})
    found = log2_eighths(np.array(n))
    assert found.tolist() == [oracle.log2_eighths(m) for m in n]
    assert (np.diff(found.astype(int)) >= 0).all()


def test_below_zero_is_zero() -> None:
    assert log2_eighths(np.array([-1, -(2**62)])).tolist() == [0, 0]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)
def test_scales_are_powers_of_two(feature: object) -> None:
    """So that byte * scale is exact in float32."""
    assert np.log2(feature.scale) % 1 == 0  # type: ignore[attr-defined]


def test_every_byte_dequantises_exactly() -> None:
    steps = np.repeat(np.arange(256, dtype=np.uint8)[:, None], N_FEATURES, axis=1)
    values = dequantise(steps)
    assert values.dtype == np.float32
    assert values.astype(np.float64).tolist() == [[b * f.scale for f in FEATURES] for b in range(256)]
    assert dequantise(steps.reshape(8, 32, N_FEATURES)).shape == (8, 32, N_FEATURES)


def test_names_are_distinct() -> None:
    assert len({f.name for f in FEATURES}) == len(FEATURES) == N_FEATURES == len(SCALES)


def test_the_document_lists_the_features() -> None:
    scale_of = {"1": 1.0, "1/8": LOG, "1/128": SHARE}
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\S+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [(int(place), name, scale_of[scale], meaning) for place, name, scale, meaning in rows] == [
        (i, f.name, f.scale, f.meaning) for i, f in enumerate(FEATURES)
    ]
