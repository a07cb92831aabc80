"""Events as columns: what a producer said, reduced to what a row can use.

One event is one record of `EVENT`. Strings never reach the core: ids arrive as 64-bit hashes (`user`, `event_id`,
`session`, `offer`) or 32-bit ones (`product`, `category`, `brand`), made by the codec with xxh3; 0 stands for "not
given".
"""

from enum import IntEnum, unique

import numpy as np


@unique
class Kind(IntEnum):
    """What happened. The numbers are stored in rows and models: append, never renumber."""

    PAGE_VIEW = 0
    PRODUCT_VIEW = 1
    SEARCH = 2
    CART_ADD = 3
    CART_REMOVE = 4
    FAVOURITE = 5
    CHECKOUT_START = 6
    SERVICE_USE = 7
    ORDER_PLACED = 8
    ORDER_CANCELLED = 9
    ORDER_RETURNED = 10
    RATING = 11
    COMPLAINT = 12
    OFFER_SEEN = 13
    OFFER_DISMISSED = 14
    OFFER_REDEEMED = 15
    OFFER_ISSUED = 16
    OFFER_EXPIRED = 17
    OFFER_RELEASED = 18
    PROFILE = 19


N_KINDS = len(Kind)
N_KINDS_WINDOWED = 16
"""The first 16 kinds are what a user does: they are counted in rolling windows, make steps and move the row's clock.
The rest is bookkeeping about the user: it sets facts and totals and nothing else."""

SILENCE = N_KINDS
"""What triggers where no event came (`stream.core.silence`): no kind of event, so rows have no place for it."""

SOURCES = ("clickstream", "orders", "feedback", "redemptions", "customers")
"""Source topics. The index is the place in a row's fence and in the applied record: append, never reorder."""

KINDS_OF_SOURCE: dict[str, dict[str, Kind]] = {
    "clickstream": {
        "page_view": Kind.PAGE_VIEW,
        "product_view": Kind.PRODUCT_VIEW,
        "search": Kind.SEARCH,
        "cart_add": Kind.CART_ADD,
        "cart_remove": Kind.CART_REMOVE,
        "favourite": Kind.FAVOURITE,
        "checkout_start": Kind.CHECKOUT_START,
        "service_use": Kind.SERVICE_USE,
    },
    "orders": {"placed": Kind.ORDER_PLACED, "cancelled": Kind.ORDER_CANCELLED, "returned": Kind.ORDER_RETURNED},
    "feedback": {
        "rating": Kind.RATING,
        "complaint": Kind.COMPLAINT,
        "offer_seen": Kind.OFFER_SEEN,
        "offer_dismissed": Kind.OFFER_DISMISSED,
    },
    "redemptions": {
        "issued": Kind.OFFER_ISSUED,
        "redeemed": Kind.OFFER_REDEEMED,
        "expired": Kind.OFFER_EXPIRED,
        "released": Kind.OFFER_RELEASED,
    },
    "customers": {"profile": Kind.PROFILE},
}

TIERS = ("", "basic", "silver", "gold", "platinum")
"""Membership tiers by code; 0 is "not given"."""

CONSENT_UNKNOWN, CONSENT_NO, CONSENT_YES = 0, 1, 2

TIME_MIN_MS = 946_684_800_000
"""2000-01-01T00:00:00Z: an earlier event time is a dead letter."""

TIME_AHEAD_MAX_MS = 3_600_000
"""How far an event time may lie after its record's timestamp: later is a dead letter."""

EVENT = np.dtype(
    [
        ("time_ms", "i8"),  # event time, UTC
        ("offset", "i8"),  # in its source topic's partition
        ("user", "u8"),  # xxh3-64 of the user id's bytes
        ("event_id", "u8"),  # xxh3-64 of the producer's event id, never 0
        ("session", "u8"),
        ("offer", "u8"),  # xxh3-64 of the offer id that the event speaks of
        ("price_minor", "i8"),  # unit price of the product; orders: the total before discount
        ("amount_minor", "i8"),  # orders: what was paid; redemptions: what the offer was worth
        ("discount_minor", "i8"),  # orders: price_minor - amount_minor as the shop states it
        ("registered_ms", "i8"),  # customers
        ("product", "u4"),
        ("category", "u4"),
        ("brand", "u4"),
        ("dwell_ms", "u4"),
        ("quantity", "u4"),
        ("results", "u4"),  # search: results found plus 1; 0 = not given
        ("birthday", "u2"),  # customers: month * 32 + day
        ("kind", "u1"),
        ("source", "u1"),  # index into SOURCES
        ("rating", "u1"),  # 1 to 5
        ("tier", "u1"),  # index into TIERS
        ("consent", "u1"),  # CONSENT_*
        ("objection", "u1"),
    ]
)
