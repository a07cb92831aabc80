"""Segments: new, frequent, dormant, in this order; anybody else is regular."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

Learned = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""From steps [n, F] to numbers of learned segments [n]."""


@unique
class Segment(IntEnum):
    """What a user is to the shop. The lower-case name is what campaign documents say."""

    REGULAR = 0
    NEW = 1
    FREQUENT = 2
    DORMANT = 3


@dataclass(frozen=True, slots=True)
class SegmentRules:
    """Where the segments begin."""

    new_days: int = 30  # new: first seen less than this ago
    frequent_window: str = "30d"
    frequent_more_than: int = 3  # frequent: more orders than this in the window
    dormant_days: int = 30  # dormant: has ordered, and no event for longer than this
    learned: Learned | None = None  # beside these: what a published classifier says of the row's newest step


SEGMENT_RULES = SegmentRules()
