"""Absorb: the one place where an event changes a row, called by the worker and the trainer alike.

What happens to an event, in order: `is_duplicate` drops it, or `remember` enters its id and then `note` takes it as
bookkeeping, or `absorb` as a step. A row is a function of its events in their order of application: how they were cut
into batches changes no bit.
"""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core import windows
from stream.core.events import EVENT, N_KINDS, N_KINDS_WINDOWED, Kind
from stream.core.features import FEATURES, LATE, LOG, log2_eighths
from stream.core.rounds import runs
from stream.core.row import (
    HOUR_MS,
    N_AFFINITIES,
    N_FEATURES,
    N_RECENT_IDS,
    N_RECENT_PRODUCTS,
    N_STEPS,
    ROW,
    Rows,
    overlay,
)

Events = NDArray[np.void]
"""An array of `EVENT`."""

SESSION_GAP_MS = 30 * 60_000
"""A session without an id of its own ends after this long without an event (Google Analytics' convention)."""

COUNT_MAX = 2**32 - 1
"""Counters stay there."""
MONEY_MAX = 2**62
"""Sums of money stay there; an amount is at most 10^12, so adding one more does not overflow."""

# numpy compares with an IntEnum ten times slower than with an int.
_SEARCH, _RATING, _PROFILE = int(Kind.SEARCH), int(Kind.RATING), int(Kind.PROFILE)
_PLACED, _CANCELLED, _RETURNED = int(Kind.ORDER_PLACED), int(Kind.ORDER_CANCELLED), int(Kind.ORDER_RETURNED)

# How much an event says about liking its category and brand.
_AFFINITY_WEIGHT = np.zeros(N_KINDS, np.int64)
for _kind, _weight in {
    Kind.PAGE_VIEW: 1,
    Kind.PRODUCT_VIEW: 1,
    Kind.SEARCH: 1,
    Kind.FAVOURITE: 2,
    Kind.CART_ADD: 3,
    Kind.ORDER_PLACED: 5,
    Kind.RATING: 1,
}.items():
    _AFFINITY_WEIGHT[_kind] = _weight

# Categories and brands side by side [n, 2] and their sketches [n, 2, key or weight, place]: both take the same calls.
_LIKED = overlay(EVENT, ["category", "brand"], "u4", (2,))
_SKETCHES = overlay(ROW, ["category", "category_weight", "brand", "brand_weight"], "u4", (2, 2, N_AFFINITIES))

if N_AFFINITIES != 8:  # a bit each in a byte
    raise AssertionError(N_AFFINITIES)
_FIRST_BIT = np.array([8 - byte.bit_length() if byte else -1 for byte in range(256)])  # from the highest on; -1: none

_LOGS = np.array([i for i, feature in enumerate(FEATURES) if feature.scale == LOG])
_NEVER_MS = 2**60  # its logarithm is beyond the largest byte

_SALT = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing


def identity(events: Events) -> NDArray[np.uint64]:
    """What duplicates of one user share, uint64 [n], never 0: event id and source (two may use the same ids)."""
    ids: NDArray[np.uint64] = events["event_id"] ^ (events["source"] * _SALT)
    return np.maximum(ids, np.uint64(1))


def is_duplicate(events: Events, row: NDArray[np.int64], table: Rows) -> NDArray[np.bool_]:
    """Which events were applied before, or stand earlier in this batch, bool [N].

    A row remembers the last 16 events applied to it, those of this batch included: a duplicate that comes after more
    than that is not seen.

    Args:
        events: EVENT [N] of one batch, in the order in which they apply.
        row: [N], each event's row in `table`.
        table: ROW [any], before the batch.
    """
    ids = identity(events)
    duplicate: NDArray[np.bool_] = (table["recent_ids"][row] == ids[:, None]).any(axis=1)
    # That is the answer where a row has one event here. Of the others, those with an id that was seen twice are walked
    # through.
    run = runs(row)
    if len(run.begins) == len(row):
        return duplicate
    pair = ids ^ (row.astype(np.uint64) * _SALT)  # equal by chance: a walk for nothing
    by_pair = np.argsort(pair)
    twice = duplicate.copy()
    twice[by_pair[1:][pair[by_pair[1:]] == pair[by_pair[:-1]]]] = True
    walked = (run.n_events > 1) & np.logical_or.reduceat(twice[run.order], run.begins)
    for begin, n in zip(run.begins[walked].tolist(), run.n_events[walked].tolist(), strict=True):
        at = run.order[begin : begin + n]
        duplicate[at] = _walk(ids[at].tolist(), table[row[at[0]]])
    return duplicate


def _walk(ids: list[int], row: np.void) -> list[bool]:
    """Which events of one row, in order of application, have the id of one of the last 16 applied."""
    ring, oldest = row["recent_ids"].tolist(), int(row["recent_ids_pos"])
    remembered = deque(ring[oldest:] + ring[:oldest], N_RECENT_IDS)
    duplicate = []
    for one in ids:
        duplicate.append(one in remembered)
        if not duplicate[-1]:
            remembered.append(one)
    return duplicate


def remember(events: Events, row: NDArray[np.int64], table: Rows) -> None:
    """Enter the ids of a whole batch into the rows, in place, so that `is_duplicate` knows them.

    Args:
        events: EVENT [N], in the order in which they apply, duplicates dropped.
        row: [N], each event's row in `table`.
        table: ROW [any].
    """
    run = runs(row)
    turn = run.turns()
    rows = row[run.order[run.begins]]
    pos = table["recent_ids_pos"][rows].astype(np.int64)
    stays = turn >= np.repeat(run.n_events - N_RECENT_IDS, run.n_events)  # others would be overwritten at once
    at = run.order[stays]
    table["recent_ids"][row[at], ((np.repeat(pos, run.n_events) + turn) % N_RECENT_IDS)[stays]] = identity(events)[at]
    table["recent_ids_pos"][rows] = (pos + run.n_events) % N_RECENT_IDS


def apply_order(events: Events) -> NDArray[np.int64]:
    """The order in which a batch applies: event time, then source, then offset; int64 [N]."""
    order: NDArray[np.int64] = np.lexsort((events["offset"], events["source"], events["time_ms"]))
    return order


def is_step(events: Events) -> NDArray[np.bool_]:
    """Which events are what a user did, and so make a step, bool [N]."""
    steps: NDArray[np.bool_] = events["kind"] < N_KINDS_WINDOWED
    return steps


def note(events: Events, rows: Rows) -> None:
    """Take in one bookkeeping event a row, in place: totals, recency and, of the latest profile, the facts.

    Args:
        events: EVENT [n], kind N_KINDS_WINDOWED and above.
        rows: ROW [n], row i belongs to event i.
    """
    kind, time_ms = events["kind"], events["time_ms"]
    _count_kind(rows, kind, time_ms)
    newer = np.flatnonzero((kind == _PROFILE) & (time_ms >= rows["profile_ms"]))  # of equal times the one applied last
    rows["profile_ms"][newer] = time_ms[newer]
    for fact in ("registered_ms", "birthday", "tier", "consent", "objection"):
        rows[fact][newer] = events[fact][newer]


def absorb(events: Events, rows: Rows) -> NDArray[np.uint8]:
    """Apply one event a row, in place, and say what the model sees of it.

    Args:
        events: EVENT [n], kind below N_KINDS_WINDOWED.
        rows: ROW [n], row i belongs to event i.

    Returns:
        steps, uint8 [n, F], see `features`. They are in the rows' rings already.
    """
    kind, time_ms = events["kind"], events["time_ms"]
    last_ms = rows["last_ms"].copy()
    now_ms = np.maximum(last_ms, time_ms)
    new = last_ms == 0
    late = time_ms < last_ms

    # counts and recency
    windows.add(rows, kind, time_ms)
    _count_kind(rows, kind, time_ms)
    first_ms = np.where(new, time_ms, np.minimum(rows["first_ms"], time_ms))
    rows["first_ms"] = first_ms
    rows["last_ms"] = now_ms
    rows["seq"] += 1
    session_events = _follow_session(events, rows, late, time_ms - last_ms > SESSION_GAP_MS)

    # tastes
    category_weight, category_total = _raise_affinities(events, rows)
    product_seen = _see_product(events["product"], rows)

    # money, ratings, searches
    if (kind >= _PLACED).any():
        _take_order_or_rating(events, rows)
    empty = rows["searches_empty"]
    empty += (kind == _SEARCH) & (events["results"] == 1) & (empty < COUNT_MAX)
    rows["dwell_s"] = np.minimum(rows["dwell_s"] + events["dwell_ms"].astype(np.int64) // 1000, COUNT_MAX)

    # the step: values feature by feature, then their logarithms
    orders = rows["kind_total"][:, _PLACED]
    value = np.empty((N_FEATURES, len(events)), np.int64)
    value[0] = kind + LATE * late
    value[1] = np.where(new, 0, now_ms - last_ms)
    value[2] = np.where(orders > 0, now_ms - rows["kind_last_ms"][:, _PLACED], _NEVER_MS)
    value[3] = now_ms - first_ms
    value[1:4] //= 1000
    value[4] = windows.count_all(rows, "1h")
    value[5] = windows.count_all(rows, "1d")
    value[6] = windows.count(rows, "7d", Kind.PRODUCT_VIEW)
    value[7] = windows.count(rows, "1d", Kind.CART_ADD)
    value[8] = windows.count(rows, "7d", Kind.FAVOURITE)
    value[9] = windows.count(rows, "30d", _PLACED)
    value[10] = category_weight * 128 // np.maximum(category_total, 1)
    value[11] = product_seen
    value[12] = session_events
    value[13] = time_ms // HOUR_MS % 24
    value[14] = events["price_minor"]
    value[15] = rows["orders_discounted"].astype(np.int64) * 128 // np.maximum(orders, 1)
    value[_LOGS] = log2_eighths(value[_LOGS])
    steps = value.T.astype(np.uint8, order="C")

    place = rows["step_pos"]
    rows["steps"][np.arange(len(events)), place] = steps
    rows["step_pos"] = (place + 1) % N_STEPS
    rows["step_count"] = np.minimum(rows["step_count"] + 1, N_STEPS)
    return steps


def _count_kind(rows: Rows, kind: NDArray[np.uint8], time_ms: NDArray[np.int64]) -> None:
    each = np.arange(len(rows))
    totals, latest_ms = rows["kind_total"], rows["kind_last_ms"]
    total = totals[each, kind]
    totals[each, kind] = total + (total < COUNT_MAX)
    latest_ms[each, kind] = np.maximum(latest_ms[each, kind], time_ms)


def _follow_session(
    events: Events, rows: Rows, late: NDArray[np.bool_], pause: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """Count the event to its session; another session id, or a pause where none is given, begins a new one.

    A late event of another session leaves the session as it is: it belongs to one that is over.

    Returns:
        events of the session that the row is in afterwards, uint32 [n].
    """
    session = events["session"]
    named = session != 0
    other = named & (session != rows["session"])
    begins = np.where(named, other & ~late, pause)
    so_far = rows["session_events"]
    n_events: NDArray[np.uint32] = so_far + (~(other & late) & (so_far < COUNT_MAX))
    n_events[begins] = 1
    rows["session_events"] = n_events
    np.copyto(rows["session"], session, where=begins)
    np.copyto(rows["session_start_ms"], events["time_ms"], where=begins)
    return n_events


def _raise_affinities(events: Events, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Add to the bounded sketches of the categories and brands that a user likes, in place.

    The sketch is space-saving (Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in
    data streams", ICDT 2005): exact up to 8 keys, then the lightest makes room and its weight goes over to the new one.

    Returns:
        (weight of the event's category afterwards, 0 where none was given or it is not held; weight of all categories),
        int64 [n].
    """
    sketches = rows.view(_SKETCHES)["all"]
    given = events.view(_LIKED)["all"]
    i, which = np.nonzero(given)
    key, weight = given[i, which], _AFFINITY_WEIGHT[events["kind"]][i]
    sketch = sketches[i, which]
    found = np.packbits(sketch[:, 0] == key[:, None])  # the 8 places of a sketch as one byte
    place = _FIRST_BIT[found]
    new = ((found == 0) & (weight > 0)).nonzero()[0]  # an event of no weight drives nobody out
    place[new] = sketch[new, 1].argmin(axis=1)
    held = (place >= 0).nonzero()[0]
    i, which, key, place = i[held], which[held], key[held], place[held]
    after = np.minimum(sketch[held, 1, place] + weight[held], COUNT_MAX)
    sketches[i, which, 0, place] = key
    sketches[i, which, 1, place] = after

    of_category = np.zeros((len(events), 2), np.int64)
    of_category[i, which] = after
    total: NDArray[np.int64] = sketches[:, 0, 1].sum(axis=1, dtype=np.int64)
    return of_category[:, 0], total


def _see_product(product: NDArray[np.uint32], rows: Rows) -> NDArray[np.int64]:
    """How often the product is among the user's last ones, int64 [n]; then it is the latest of them."""
    ring = rows["recent_products"]
    seen: NDArray[np.int64] = (ring == product[:, None]).sum(axis=1)
    seen[product == 0] = 0
    given = product.nonzero()[0]
    place = rows["recent_products_pos"][given]
    ring[given, place] = product[given]
    rows["recent_products_pos"][given] = (place + 1) % N_RECENT_PRODUCTS
    return seen


def _take_order_or_rating(events: Events, rows: Rows) -> None:
    """Sums of money and ratings, for the kinds from ORDER_PLACED on."""
    kind = events["kind"]
    placed = (kind == _PLACED).nonzero()[0]
    if len(placed):
        time_ms, first_ms = events["time_ms"][placed], rows["first_buy_ms"][placed]
        rows["first_buy_ms"][placed] = np.where(first_ms == 0, time_ms, np.minimum(first_ms, time_ms))
        _add(rows["spend_minor"], placed, events["amount_minor"], MONEY_MAX)
        _add(rows["discount_minor"], placed, events["discount_minor"], MONEY_MAX)
        _add(rows["orders_discounted"], placed, events["discount_minor"] > 0, COUNT_MAX)
    back = ((kind == _CANCELLED) | (kind == _RETURNED)).nonzero()[0]
    if len(back):
        _add(rows["refund_minor"], back, events["amount_minor"], MONEY_MAX)
    rated = (kind == _RATING).nonzero()[0]
    if len(rated):
        _add(rows["rating_sum"], rated, events["rating"], COUNT_MAX)


def _add(sums: NDArray[Any], at: NDArray[np.int64], amount: NDArray[Any], most: int) -> None:
    sums[at] = np.minimum(sums[at].astype(np.int64) + amount[at], most)
