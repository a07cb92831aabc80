"""Caps: at most so many offers to a user in so many days of the shop, whichever campaigns made them.

A row counts the offers of the last 32 days, 4 bits a day; day d stands at place d % 32, and which day a place holds
follows from `offer_day`. A day of 15 or more counts as too many for any cap.
"""

import numpy as np
from numpy.typing import NDArray

from stream.core.row import N_OFFER_DAYS, Rows

CAP_MAX = 14
"""Offers in a day that are told apart; a cap of more than that a day is refused."""

_FULL = CAP_MAX + 1
_MANY = 1_000_000
_PLACES = np.arange(N_OFFER_DAYS)


def offers_since(newest: NDArray[np.uint16], counts: NDArray[np.uint8], today: int, n_days: int) -> NDArray[np.int64]:
    """Offers made in the `n_days` days that end today, int64 [n]; `_MANY` or more where a day is full.

    Args:
        newest: `ROW["offer_day"]` [n].
        counts: `ROW["offer_days"]` [n, 16].
        today: day of the shop.
        n_days: at most 31.
    """
    day = _days(newest.astype(np.int64))
    by_day = _unpacked(counts)
    by_day[by_day == _FULL] = _MANY
    offers: NDArray[np.int64] = (by_day * (day > today - n_days)).sum(axis=1)
    return offers


def count_offers(rows: Rows, at: NDArray[np.int64], today: int) -> None:
    """Count an offer made today to each of the rows `at`, which are distinct; in place."""
    newest = rows["offer_day"][at].astype(np.int64)
    now_newest = np.maximum(newest, today)
    by_day = _unpacked(rows["offer_days"][at])
    by_day[_days(now_newest) > newest[:, None]] = 0  # places that days of 32 and more days ago stood in
    held = np.flatnonzero(today > now_newest - N_OFFER_DAYS)  # a clock that stepped back by a month counts nowhere
    place = today % N_OFFER_DAYS
    by_day[held, place] = np.minimum(by_day[held, place] + 1, _FULL)
    rows["offer_day"][at] = now_newest
    rows["offer_days"][at] = by_day[:, ::2] | by_day[:, 1::2] << 4


def join_offer_days(rows: Rows, others: Rows) -> None:
    """Add the offers that other rows count by day, in place.

    Args:
        rows: ROW [n].
        others: ROW [n].
    """
    newest = np.maximum(rows["offer_day"], others["offer_day"]).astype(np.int64)
    total = np.zeros((len(rows), N_OFFER_DAYS), np.int64)
    for some in (rows, others):
        held = _days(newest) <= some["offer_day"].astype(np.int64)[:, None]  # the others are of days too long ago
        total += np.where(held, _unpacked(some["offer_days"]), 0)
    total = np.minimum(total, _FULL)
    rows["offer_day"] = newest
    rows["offer_days"] = total[:, ::2] | total[:, 1::2] << 4


def _days(newest: NDArray[np.int64]) -> NDArray[np.int64]:
    """The day that each place holds, [n, 32]."""
    days: NDArray[np.int64] = newest[:, None] - (newest[:, None] - _PLACES) % N_OFFER_DAYS
    return days


def _unpacked(counts: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[n, 32] from two a byte."""
    by_day = np.empty((len(counts), N_OFFER_DAYS), np.int64)
    by_day[:, ::2], by_day[:, 1::2] = counts & 15, counts >> 4
    return by_day
