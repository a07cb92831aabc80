"""Absorb: the one place where an event changes a row. The worker and the trainer call the same functions on the same columns.

What happens to an event, in order: `is_duplicate` drops it, or `note` takes it as bookkeeping, or `absorb` takes it as a step.
"""

import numpy as np
from numpy.typing import NDArray

from stream.core import windows
from stream.core.events import N_KINDS, N_KINDS_WINDOWED, Kind
from stream.core.features import LATE, log2_eighths
from stream.core.row import N_FEATURES, N_RECENT_IDS, N_RECENT_PRODUCTS, N_STEPS, Rows

Events = NDArray[np.void]
"""An array of `EVENT`."""

SESSION_GAP_MS = 30 * 60_000
"""A session without an id of its own ends after this long without an event (Google Analytics' convention)."""

U4_MAX = 2**32 - 1

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

_SOURCE_SALT = 0x9E3779B97F4A7C15  # odd: producers of two topics may use the same ids


def identity(events: Events) -> NDArray[np.uint64]:
    """What duplicates have in common within one user: event id and source topic, uint64 [n], never 0."""
    ids: NDArray[np.uint64] = events["event_id"] ^ (events["source"].astype(np.uint64) * np.uint64(_SOURCE_SALT))
    return np.where(ids == 0, np.uint64(1), ids)


def is_duplicate(events: Events, row: NDArray[np.int64], table: Rows) -> NDArray[np.bool_]:
    """Which events were applied before, or stand earlier in this batch, bool [N].

    A row remembers its last 16 events: a duplicate that comes later than that is not seen.

    Args:
        events: EVENT [N] of one batch, as they came.
        row: [N], each event's row in `table`.
        table: ROW [any], before the batch.
    """
    ids = identity(events)
    duplicate: NDArray[np.bool_] = (table["recent_ids"][row] == ids[:, None]).any(axis=1)
    pairs = np.empty(len(ids), [("row", "i8"), ("id", "u8")])
    pairs["row"], pairs["id"] = row, ids
    by_pair = np.lexsort((ids, row))  # stable: the first of equals stays first
    again = pairs[by_pair[1:]] == pairs[by_pair[:-1]]
    duplicate[by_pair[1:][again]] = True
    return duplicate


def apply_order(events: Events) -> NDArray[np.int64]:
    """The order in which a batch applies: event time, then source, then offset; int64 [N]."""
    order: NDArray[np.int64] = np.lexsort((events["offset"], events["source"], events["time_ms"]))
    return order


def note(events: Events, rows: Rows) -> None:
    """Take in one bookkeeping event a row, in place: totals, recency and, of the latest profile, the facts.

    Args:
        events: EVENT [n], kind N_KINDS_WINDOWED and above.
        rows: ROW [n], row i belongs to event i.
    """
    kind = events["kind"]
    each = np.arange(len(events))
    _remember(events, rows, each)
    rows["kind_total"][each, kind] += 1
    rows["kind_last_ms"][each, kind] = np.maximum(rows["kind_last_ms"][each, kind], events["time_ms"])
    newer = np.flatnonzero((kind == Kind.PROFILE) & (events["time_ms"] >= rows["profile_ms"]))
    rows["profile_ms"][newer] = events["time_ms"][newer]
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
    each = np.arange(len(events))
    kind, time_ms, product = events["kind"], events["time_ms"], events["product"]
    last_ms = rows["last_ms"].copy()
    now_ms = np.maximum(last_ms, time_ms)
    new = rows["seq"] == 0

    # counts and recency
    windows.advance(rows, now_ms)
    windows.add(rows, kind, time_ms, now_ms)
    rows["kind_total"][each, kind] += 1
    rows["kind_last_ms"][each, kind] = np.maximum(rows["kind_last_ms"][each, kind], time_ms)
    rows["first_ms"] = np.where(new, time_ms, np.minimum(rows["first_ms"], time_ms))
    rows["last_ms"] = now_ms
    rows["seq"] += 1
    _remember(events, rows, each)
    _follow_session(events, rows, new | (time_ms - last_ms > SESSION_GAP_MS))

    # tastes
    weight = _AFFINITY_WEIGHT[kind]
    category_weight, category_total = _raise_affinity(rows["category"], rows["category_weight"], events["category"], weight)
    _raise_affinity(rows["brand"], rows["brand_weight"], events["brand"], weight)
    recent_products = rows["recent_products"]
    product_seen = ((recent_products == product[:, None]) & (product != 0)[:, None]).sum(axis=1)
    given = np.flatnonzero(product)
    place = rows["recent_products_pos"][given]
    recent_products[given, place] = product[given]
    rows["recent_products_pos"][given] = (place + 1) % N_RECENT_PRODUCTS

    # money, searches, ratings
    if int(kind.max(initial=0)) >= Kind.ORDER_PLACED:
        _take_order_or_feedback(events, rows)
    empty = (kind == Kind.SEARCH) & (events["results"] == 0)
    rows["searches_empty"] += empty
    rows["dwell_s"] = np.minimum(rows["dwell_s"] + (events["dwell_ms"] // 1000).astype(np.int64), U4_MAX)

    # the step
    orders = rows["kind_total"][:, Kind.ORDER_PLACED]
    steps = np.empty((len(events), N_FEATURES), np.uint8)
    steps[:, 0] = kind + LATE * (time_ms < last_ms)
    steps[:, 1] = log2_eighths(np.where(new, 0, now_ms - last_ms) // 1000)
    steps[:, 2] = np.where(orders > 0, log2_eighths((now_ms - rows["kind_last_ms"][:, Kind.ORDER_PLACED]) // 1000), 255)
    steps[:, 3] = log2_eighths((now_ms - rows["first_ms"]) // 1000)
    steps[:, 4] = log2_eighths(windows.count_all(rows, "1h"))
    steps[:, 5] = log2_eighths(windows.count_all(rows, "1d"))
    steps[:, 6] = log2_eighths(windows.count(rows, "7d", Kind.PRODUCT_VIEW))
    steps[:, 7] = log2_eighths(windows.count(rows, "1d", Kind.CART_ADD))
    steps[:, 8] = log2_eighths(windows.count(rows, "7d", Kind.FAVOURITE))
    steps[:, 9] = log2_eighths(windows.count(rows, "30d", Kind.ORDER_PLACED))
    steps[:, 10] = category_weight * 128 // np.maximum(category_total, 1)
    steps[:, 11] = log2_eighths(product_seen)
    steps[:, 12] = log2_eighths(rows["session_events"].astype(np.int64))
    steps[:, 13] = time_ms // 3_600_000 % 24
    steps[:, 14] = log2_eighths(events["price_minor"])
    steps[:, 15] = rows["orders_discounted"].astype(np.int64) * 128 // np.maximum(orders, 1)
    place = rows["step_pos"]
    rows["steps"][each, place] = steps
    rows["step_pos"] = (place + 1) % N_STEPS
    rows["step_count"] = np.minimum(rows["step_count"] + 1, N_STEPS)
    return steps


def _remember(events: Events, rows: Rows, each: NDArray[np.int64]) -> None:
    place = rows["recent_ids_pos"]
    rows["recent_ids"][each, place] = identity(events)
    rows["recent_ids_pos"] = (place + 1) % N_RECENT_IDS


def _follow_session(events: Events, rows: Rows, pause: NDArray[np.bool_]) -> None:
    """Count the event to the session it belongs to; another session id, or a pause where there is none, begins a new one."""
    session = events["session"]
    begins = np.where(session != 0, session != rows["session"], pause)
    rows["session"] = np.where(begins, session, rows["session"])
    rows["session_start_ms"] = np.where(begins, events["time_ms"], rows["session_start_ms"])
    rows["session_events"] = np.where(begins, 1, np.minimum(rows["session_events"].astype(np.int64) + 1, U4_MAX))


def _raise_affinity(
    keys: NDArray[np.uint32], weights: NDArray[np.uint32], key: NDArray[np.uint32], weight: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Add to a bounded sketch of what a user likes, in place.

    The sketch is space-saving (Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams",
    ICDT 2005): exact up to 8 keys, then the lightest makes room and its weight goes over to the new one.

    Returns:
        (the key's weight afterwards, 0 where no key was given; the weight of all), int64 [n] each.
    """
    total = weights.sum(axis=1, dtype=np.int64)
    of_key = np.zeros(len(key), np.int64)
    given = np.flatnonzero(key)
    if not len(given):
        return of_key, total
    key, weight = key[given], weight[given]
    match = keys[given] == key[:, None]
    known = match.any(axis=1)
    place = np.where(known, match.argmax(axis=1), weights[given].argmin(axis=1))
    before = weights[given, place].astype(np.int64)
    after = np.minimum(before + weight, U4_MAX)
    change = known | (weight > 0)  # an event that says nothing drives nobody out
    keys[given, place] = np.where(change, key, keys[given, place])
    weights[given, place] = np.where(change, after, before)
    of_key[given] = np.where(change, after, 0)
    total[given] += np.where(change, after - before, 0)
    return of_key, total


def _take_order_or_feedback(events: Events, rows: Rows) -> None:
    """Sums of money and ratings, for the kinds from ORDER_PLACED on."""
    kind, time_ms = events["kind"], events["time_ms"]
    placed = np.flatnonzero(kind == Kind.ORDER_PLACED)
    first_buy_ms = rows["first_buy_ms"][placed]
    rows["first_buy_ms"][placed] = np.where(first_buy_ms == 0, time_ms[placed], np.minimum(first_buy_ms, time_ms[placed]))
    rows["spend_minor"][placed] += events["amount_minor"][placed]
    rows["discount_minor"][placed] += events["discount_minor"][placed]
    rows["orders_discounted"][placed] += events["discount_minor"][placed] > 0
    back = np.flatnonzero((kind == Kind.ORDER_CANCELLED) | (kind == Kind.ORDER_RETURNED))
    rows["refund_minor"][back] += events["amount_minor"][back]
    rows["rating_sum"] += np.where(kind == Kind.RATING, events["rating"], 0).astype(np.uint32)


def is_step(events: Events) -> NDArray[np.bool_]:
    """Which events are what a user did, and so make a step, bool [N]."""
    steps: NDArray[np.bool_] = events["kind"] < N_KINDS_WINDOWED
    return steps
