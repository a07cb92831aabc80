"""What happens inside the graph before the first layer, as tables and numbers that every builder shares.

The step's `kind` and `hour` are codes, so they go through tables (one-hot with a late flag; sine and cosine of the
day). Two features have a value that means "nothing known": it becomes a flag of its own. Then the whole step is
standardised as it stands, codes included: leaving them out would cost more in the graph than two columns more. Nothing
of this is done outside the graph, so a worker feeds every model the same float32 step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.events import N_KINDS
from stream.core.features import FEATURES, LATE, SCALES

_NAMES = [feature.name for feature in FEATURES]

KIND = _NAMES.index("kind")
HOUR = _NAMES.index("hour")
FLAGS = {"since_buy": 255, "price": 0}
"""Feature -> the byte that means "not known": never bought, no price given."""
FLAGGED = tuple(_NAMES.index(name) for name in FLAGS)
FLAG_VALUES = np.array([byte * SCALES[at] for byte, at in zip(FLAGS.values(), FLAGGED, strict=True)], np.float32)

N_CODES = 256
"""Every byte has a place in the tables, so no step, however odd, can index outside of them."""

DEVIATION_MAX = 8.0
"""Standardised values are cut here: what lies further out than any training step must not drive the network."""

_STEADY = 1e-6
"""A variance below this is that of a constant: such a feature is left unscaled, else an unseen value would explode."""


class Standard(NamedTuple):
    """Mean and variance of each feature over the training steps, float32 [F]."""

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]


def kind_table() -> NDArray[np.float32]:
    """float32 [256, N_KINDS + 1]: one-hot of the kind, all zero for codes of none; then 1 where the event was late."""
    codes = np.arange(N_CODES)
    table = np.zeros((N_CODES, N_KINDS + 1), np.float32)
    kinds = codes % LATE
    known = kinds < N_KINDS
    table[codes[known], kinds[known]] = 1
    table[codes >= LATE, N_KINDS] = 1
    return table


def hour_table() -> NDArray[np.float32]:
    """float32 [256, 2]: sine and cosine of the hour of day."""
    angle = np.arange(N_CODES) * (2 * np.pi / 24)
    return np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def standard(values: NDArray[np.float32]) -> Standard:
    """Mean and variance of the features.

    Args:
        values: dequantised steps, float32 [N, F], N >= 1.
    """
    exact = values.astype(np.float64)
    variance = exact.var(axis=0)
    return Standard(exact.mean(axis=0).astype(np.float32), np.where(variance < _STEADY, 1, variance).astype(np.float32))
