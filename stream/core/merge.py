"""Merge: the row of an anonymous id into the row of the user whom it turned out to be.

What is a function of the set of events comes out as if one row had absorbed them all: windows, totals, sums, recencies,
first times, offers by day, the profile; tastes too, where both together know no more than 8. What depends on an order
that rows do not keep is settled by rule: rings are joined, that of the row whose clock is behind first, and the newest
entries are kept (of event ids, the newest of both in turn); the session is that of the row whose clock is ahead. The
hidden state is rebuilt from the joined steps at the next event. Saturated counts stay saturated.

An offer that is open stays the user's own; that of the anonymous id is forgotten, so what it reserved stays reserved.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core import windows
from stream.core.absorb import COUNT_MAX, MONEY_MAX
from stream.core.caps import join_offer_days
from stream.core.row import N_AFFINITIES, N_RECENT_IDS, N_RECENT_PRODUCTS, N_STEPS, Rows, new_rows

YOUNG_EVENTS = N_RECENT_IDS // 2
"""A row with fewer events is young: it still remembers every id since its first event, or since it was cleared."""
_SENT = 1
"""Among the ids that a row remembers: it was sent to a user, so that it begins anew is not because it was erased."""

_COUNTS = ("dwell_s", "orders_discounted", "searches_empty", "rating_sum", "offers_made", "kind_total")
_MONEY = ("spend_minor", "refund_minor", "discount_minor")
_LATEST = ("kind_last_ms", "offer_last_ms", "last_ms")
_EARLIEST = ("first_ms", "first_buy_ms")  # 0 = never
_PROFILE = ("registered_ms", "birthday", "tier", "consent", "objection", "profile_ms")
_SESSION = ("session", "session_start_ms", "session_events")


def merge(users: Rows, others: Rows) -> None:
    """Merge rows into those of users, in place; the fences stay the users' own.

    Args:
        users: ROW [n].
        others: ROW [n], row i into that of user i.
    """
    ahead = others["last_ms"] > users["last_ms"]
    newer = others["profile_ms"] > users["profile_ms"]  # of equal times the user's own
    windows.join(users, others)
    join_offer_days(users, others)
    for i in range(len(users)):
        _join_rings(users[i], others[i], other_is_behind=not ahead[i])
        for name in ("category", "brand"):
            _join_tastes(users[i], others[i], name)
    for names, which in ((_SESSION, ahead), (_PROFILE, newer)):
        for name in names:
            np.copyto(users[name], others[name], where=which)
    for name in _COUNTS:
        _add(users, others, name, COUNT_MAX)
    for name in _MONEY:
        _add(users, others, name, MONEY_MAX)
    for name in _LATEST:
        np.maximum(users[name], others[name], out=users[name])
    for name in _EARLIEST:
        never = 2**63 - 1
        first, of_other = (np.where(rows[name] == 0, never, rows[name]) for rows in (users, others))
        both = np.minimum(first, of_other)
        users[name] = np.where(both == never, 0, both)
    users["seq"] += others["seq"]
    users["model"] = 0
    users["state"] = 0


def cleared(rows: Rows) -> Rows:
    """What is left of rows that were merged into others: their fences, so that no event is applied again."""
    left = new_rows(len(rows))
    left["fence"] = rows["fence"]
    remember(left, _SENT)
    return left


def await_row(rows: Rows, claim: int) -> bool:
    """Have a user's row, [1], remember that another one was claimed for it; whether that changed it.

    A row that is not young needs no reminder: it will not be young again, unless it is erased.
    """
    if not _is_young(rows) or (rows["recent_ids"] == claim).any():
        return False
    remember(rows, claim)
    return True


def erased_since(rows: Rows, claim: int) -> bool:
    """Whether a user's row, [1], was erased after another one was claimed for it: then that one must not come in.

    A user who came back with YOUNG_EVENTS events meanwhile is not told apart from one who was never erased.
    """
    return _is_young(rows) and not np.isin(rows["recent_ids"], (claim, _SENT)).any()


def _is_young(rows: Rows) -> bool:
    return int(rows["kind_total"].sum()) < YOUNG_EVENTS


def remember(rows: Rows, one: int) -> None:
    """Enter an id into the rows' memory of ids, in place."""
    for row in rows:
        at = int(row["recent_ids_pos"])
        row["recent_ids"][at] = one
        row["recent_ids_pos"] = (at + 1) % N_RECENT_IDS


def is_blank(rows: Rows) -> NDArray[np.bool_]:
    """Which rows hold nothing to be merged, bool [n]: no event was applied since they were made or cleared."""
    blank: NDArray[np.bool_] = (rows["kind_total"] == 0).all(axis=1)
    return blank


def _add(users: Rows, others: Rows, name: str, most: int) -> None:
    users[name] = np.minimum(users[name].astype(np.int64) + others[name], most)


def _ring(row: np.void, name: str, pos: str, held: int) -> list[Any]:
    """Entries of a ring, the oldest first."""
    size = len(row[name])
    at = int(row[pos])
    return [row[name][(at - held + i) % size] for i in range(held)]


def _put(row: np.void, name: str, pos: str, entries: list[Any]) -> None:
    """Fill a ring, the oldest first, with the newest of the entries."""
    size = len(row[name])
    newest = entries[-size:]
    row[name] = 0
    if newest:
        row[name][: len(newest)] = newest
    row[pos] = len(newest) % size


def _join_rings(user: np.void, other: np.void, *, other_is_behind: bool) -> None:
    first, second = (other, user) if other_is_behind else (user, other)
    steps = [_ring(row, "steps", "step_pos", int(row["step_count"])) for row in (first, second)]
    steps = [[step.copy() for step in of_row] for of_row in steps]
    _put(user, "steps", "step_pos", steps[0] + steps[1])
    user["step_count"] = min(len(steps[0]) + len(steps[1]), N_STEPS)
    products = [
        [n for n in _ring(row, "recent_products", "recent_products_pos", N_RECENT_PRODUCTS) if n]
        for row in (first, second)
    ]
    _put(user, "recent_products", "recent_products_pos", products[0] + products[1])
    ids = [[n for n in _ring(row, "recent_ids", "recent_ids_pos", N_RECENT_IDS) if n] for row in (other, user)]
    newest_first = [one for pair in _zip_longest(ids[1][::-1], ids[0][::-1]) for one in pair]
    _put(user, "recent_ids", "recent_ids_pos", newest_first[:N_RECENT_IDS][::-1])


def _zip_longest(a: list[Any], b: list[Any]) -> list[list[Any]]:
    return [[*a[i : i + 1], *b[i : i + 1]] for i in range(max(len(a), len(b)))]


def _join_tastes(user: np.void, other: np.void, name: str) -> None:
    """Sum the weights by key; of more than 8 keys the heaviest are kept."""
    weight_of: dict[int, int] = {}
    for row in (user, other):
        for key, weight in zip(row[name].tolist(), row[f"{name}_weight"].tolist(), strict=True):
            if key:
                weight_of[key] = min(weight_of.get(key, 0) + weight, COUNT_MAX)
    heaviest = sorted(weight_of.items(), key=lambda kept: -kept[1])[:N_AFFINITIES]
    for field, values in ((name, [k for k, _ in heaviest]), (f"{name}_weight", [w for _, w in heaviest])):
        user[field] = 0
        user[field][: len(values)] = values
