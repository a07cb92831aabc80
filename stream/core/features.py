"""The step: what the model sees of one event, F small numbers.

Each is stored as one unsigned byte and means `byte * scale`. Scales are powers of two, so the float32 value is exact,
and quantities are put on a logarithmic scale by looking at the bits of a float, not by calling `log`: the same byte on
every machine.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.row import N_FEATURES

LATE = 128
"""Added to the kind's code where the event was late."""


class Feature(NamedTuple):
    """One place of the step: value = byte * scale."""

    name: str
    scale: float
    meaning: str


LOG = 2.0**-3  # log2(1 + n) in eighths
SHARE = 2.0**-7  # 128 = all

FEATURES = (
    Feature("kind", 1.0, "code of the event kind, plus 128 if the event was late"),
    Feature("gap", LOG, "log2(1 + seconds since the user's latest event); 0 if there is none or this one is late"),
    Feature("since_buy", LOG, "log2(1 + seconds since the latest order, this one included); 255 = never bought"),
    Feature("tenure", LOG, "log2(1 + seconds since the earliest event)"),
    Feature("events_1h", LOG, "log2(1 + events in 1 h)"),
    Feature("events_1d", LOG, "log2(1 + events in 1 d)"),
    Feature("views_7d", LOG, "log2(1 + product views in 7 d)"),
    Feature("carts_1d", LOG, "log2(1 + cart additions in 1 d)"),
    Feature("favourites_7d", LOG, "log2(1 + favourites in 7 d)"),
    Feature("buys_30d", LOG, "log2(1 + orders in 30 d)"),
    Feature(
        "category_share", SHARE, "weight of this event's category among the user's categories, this event included"
    ),
    Feature("product_seen", LOG, "log2(1 + times this product is among the last 16 before this event)"),
    Feature("session_events", LOG, "log2(1 + events of the session)"),
    Feature("hour", 1.0, "hour of day of this event, UTC, 0 to 23"),
    Feature("price", LOG, "log2(1 + unit price in minor units); 0 = not given"),
    Feature("discount_share", SHARE, "share of the user's orders bought on discount"),
)
if len(FEATURES) != N_FEATURES:
    raise AssertionError(len(FEATURES))

PROTECTED = (
    *("age", "gender", "sex", "race", "ethnicity", "ethnic_origin", "religion", "belief", "nationality", "disability"),
    *("health", "pregnancy", "marital_status", "sexual_orientation", "political_opinion", "trade_union", "genetic"),
)
"""Attributes that no feature may tell of and no condition may name, whatever the law of the place: the contract has no
field for them either."""

SCALES = np.array([f.scale for f in FEATURES], np.float32)


def log2_eighths(n: NDArray[np.int64]) -> NDArray[np.uint8]:
    """log2(1 + n) in eighths, linear between powers of two, at most 255.

    The exponent and the top three mantissa bits of the float64 1 + n are that number already (Mitchell, "Computer
    multiplication and division using binary logarithms", 1962). Integer operations: exact on every machine.
    """
    bits = (np.maximum(n, 0) + 1).astype(np.float64).view(np.int64)
    return np.minimum((bits >> 49) - (1023 << 3), 255).astype(np.uint8)


def dequantise(steps: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [..., F] from stored steps uint8 [..., F]; exact."""
    return steps * SCALES
