"""Segments: new, frequent, dormant, in this order; anybody else is regular."""

from dataclasses import dataclass
from enum import IntEnum, unique


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


SEGMENT_RULES = SegmentRules()
