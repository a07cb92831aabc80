from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.absorb import COUNT_MAX, MONEY_MAX, apply_order, identity, is_duplicate, is_step
from stream.core.events import EVENT, KINDS_OF_SOURCE, N_KINDS, N_KINDS_WINDOWED, SOURCES, Kind
from stream.core.fold import fold
from stream.core.row import Rows, new_rows
from tests.core import oracle
from tests.core.logs import Log, as_columns, random_log
from tests.core.oracle import Event

NOON_MS = 1_700_049_600_000
MINUTE_MS = 60_000


def row_of(*events: Event, of: Rows | None = None) -> np.void:
    table = new_rows(1) if of is None else of
    fold(*as_columns([(0, e) for e in events]), table)
    return table[0]


def test_the_kinds_that_the_oracle_knows_by_number() -> None:
    assert (oracle.PRODUCT_VIEW, oracle.SEARCH, oracle.CART_ADD, oracle.FAVOURITE) == (
        Kind.PRODUCT_VIEW,
        Kind.SEARCH,
        Kind.CART_ADD,
        Kind.FAVOURITE,
    )
    assert (oracle.ORDER_PLACED, oracle.ORDER_CANCELLED, oracle.ORDER_RETURNED, oracle.RATING, oracle.PROFILE) == (
        Kind.ORDER_PLACED,
        Kind.ORDER_CANCELLED,
        Kind.ORDER_RETURNED,
        Kind.RATING,
        Kind.PROFILE,
    )
    assert (oracle.N_KINDS, oracle.N_KINDS_WINDOWED) == (N_KINDS, N_KINDS_WINDOWED)
    assert oracle.Event._fields == tuple(sorted(EVENT.names or (), key=oracle.Event._fields.index))


def test_every_kind_comes_from_one_source() -> None:
    kinds = Counter(kind for source in SOURCES for kind in KINDS_OF_SOURCE[source].values())
    assert kinds == Counter(Kind)
    events, _ = as_columns([(0, Event(NOON_MS, kind, 1)) for kind in Kind])
    assert is_step(events).tolist() == [kind < N_KINDS_WINDOWED for kind in Kind]


# --- duplicates


def test_the_memory_of_ids_is_sixteen_long() -> None:
    for between, applied in ((0, 1), (14, 15), (15, 16), (16, 18)):
        events = [Event(NOON_MS, 0, i) for i in (1, *range(2, 2 + between), 1)]
        assert row_of(*events)["seq"] == applied


@pytest.mark.parametrize("chunk", [1, 5, 2_000])
def test_a_duplicate_changes_no_bit(chunk: int) -> None:
    draw = Random(8)
    log = [(u, e) for u, e in random_log(draw, 300, 6) if e.event_id <= 300]
    once: Log = []
    twice: Log = []
    for u, e in log:
        once.append((u, e))
        twice += [(u, e), (u, e)]
    tables = []
    for one in (once, twice):
        table = new_rows(6)
        fold(*as_columns(one), table, chunk)
        tables.append(table.tobytes())
    assert tables[0] == tables[1]


def test_sources_may_use_the_same_ids_and_so_may_users() -> None:
    log = [(u, Event(NOON_MS, 0, 5, source)) for source in range(5) for u in (0, 1)]
    events, row = as_columns(log)
    assert len(set(identity(events).tolist())) == 5
    assert not is_duplicate(events, row, new_rows(2)).any()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), max_size=120), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_duplicates_equal_the_oracle_wherever_a_batch_begins(ids: list[tuple[int, int]], cut: int) -> None:
    log = [(u, Event(NOON_MS, 0, i)) for u, i in ids]
    table = new_rows(3)
    fold(*as_columns(log[:cut]), table)
    before = table.tobytes()
    if log[cut:]:
        found = is_duplicate(*as_columns(log[cut:]), table).tolist()
        applies = {u: iter(oracle.which_apply([e for v, e in log if v == u])) for u in range(3)}
        assert found == [not next(applies[u]) for u, _ in log][cut:]
    assert table.tobytes() == before  # it only looks


# --- order


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), max_size=20))
def test_a_batch_applies_by_time_then_source_then_offset(coordinates: list[tuple[int, int, int]]) -> None:
    events = np.zeros(len(coordinates), EVENT)
    for event, (time_ms, source, offset) in zip(events, coordinates, strict=True):
        event["time_ms"], event["source"], event["offset"] = time_ms, source, offset
    assert [coordinates[i] for i in apply_order(events)] == sorted(coordinates)


# --- profile


def profile(time_ms: int, event_id: int, consent: int = 0, objection: int = 0, tier: int = 0) -> Event:
    return Event(time_ms, Kind.PROFILE, event_id, 4, consent=consent, objection=objection, tier=tier)


def facts(row: np.void) -> tuple[int, int, int, int]:
    return int(row["profile_ms"]), int(row["consent"]), int(row["objection"]), int(row["tier"])


def test_the_latest_profile_by_event_time_holds_whatever_the_order() -> None:
    old, new = profile(NOON_MS, 1, consent=2, tier=3), profile(NOON_MS + 1, 2, consent=1, objection=1)
    assert facts(row_of(old, new)) == facts(row_of(new, old)) == (NOON_MS + 1, 1, 1, 0)


def test_of_profiles_of_one_time_the_one_applied_last_holds() -> None:
    one, other = profile(NOON_MS, 1, consent=2), profile(NOON_MS, 2, consent=1, objection=1)
    assert facts(row_of(one, other)) == (NOON_MS, 1, 1, 0)
    assert facts(row_of(other, one)) == (NOON_MS, 2, 0, 0)


def test_bookkeeping_alone_leaves_the_clock_and_the_steps_alone() -> None:
    row = row_of(profile(NOON_MS, 1, consent=2), Event(NOON_MS + 5, Kind.OFFER_ISSUED, 2, 3))
    assert (row["last_ms"], row["first_ms"], row["seq"], row["step_count"]) == (0, 0, 0, 0)
    assert row["recent_ids_pos"] == 2
    # The first event after it is a user's first event: in time, session and step.
    table = new_rows(1)
    table[0] = row
    row = row_of(Event(NOON_MS - 7, Kind.PAGE_VIEW, 3), of=table)
    assert (row["last_ms"], row["first_ms"], row["seq"]) == (NOON_MS - 7, NOON_MS - 7, 1)
    assert (row["session_start_ms"], row["session_events"]) == (NOON_MS - 7, 1)
    assert row["steps"][0].tolist() == oracle.step([Event(NOON_MS - 7, Kind.PAGE_VIEW, 3)])


# --- sessions


def session_of(*events: Event) -> tuple[int, int, int]:
    row = row_of(*events)
    return int(row["session"]), int(row["session_start_ms"]) - NOON_MS, int(row["session_events"])


def test_a_late_event_of_another_session_leaves_the_session_as_it_is() -> None:
    current = [Event(NOON_MS + i, 0, i, session=7) for i in (1, 2, 3)]
    assert session_of(*current, Event(NOON_MS, 0, 9, session=6)) == (7, 1, 3)
    assert session_of(*current, Event(NOON_MS, 0, 9, session=7)) == (7, 1, 4)
    assert session_of(*current, Event(NOON_MS, 0, 9)) == (7, 1, 4)
    assert session_of(*current, Event(NOON_MS + 4, 0, 9, session=6)) == (6, 4, 1)


def test_without_an_id_a_session_ends_after_half_an_hour() -> None:
    first, gap_ms = Event(NOON_MS, 0, 1, session=7), 30 * MINUTE_MS
    assert session_of(first, Event(NOON_MS + gap_ms, 0, 2)) == (7, 0, 2)
    assert session_of(first, Event(NOON_MS + gap_ms + 1, 0, 2)) == (0, gap_ms + 1, 1)
    assert session_of(first, Event(NOON_MS + gap_ms + 1, 0, 2, session=7)) == (7, 0, 2)


# --- bounds


def test_bounds_are_what_the_types_hold() -> None:
    assert COUNT_MAX == oracle.U4_MAX == np.iinfo(np.uint32).max
    assert MONEY_MAX == 2**62


@pytest.mark.parametrize(
    ("field", "kind", "gives"),
    [
        ("session_events", Kind.PAGE_VIEW, {}),
        ("dwell_s", Kind.PAGE_VIEW, {"dwell_ms": 1000}),
        ("searches_empty", Kind.SEARCH, {"results": 1}),
        ("orders_discounted", Kind.ORDER_PLACED, {"discount_minor": 1}),
        ("rating_sum", Kind.RATING, {"rating": 1}),
        ("spend_minor", Kind.ORDER_PLACED, {"amount_minor": 1}),
        ("discount_minor", Kind.ORDER_PLACED, {"discount_minor": 1}),
        ("refund_minor", Kind.ORDER_CANCELLED, {"amount_minor": 1}),
        ("refund_minor", Kind.ORDER_RETURNED, {"amount_minor": 1}),
    ],
)
def test_sums_stay_at_their_bound(field: str, kind: Kind, gives: dict[str, int]) -> None:
    most = MONEY_MAX if field.endswith("minor") else COUNT_MAX
    table = new_rows(1)
    table[field] = most - 2
    table["last_ms"] = table["session_start_ms"] = NOON_MS
    for i, expected in enumerate((most - 1, most, most, most), 1):
        assert row_of(Event(NOON_MS, kind, i, **gives), of=table)[field] == expected


def test_sums_of_money_do_not_overflow() -> None:
    table = new_rows(1)
    table["spend_minor"] = MONEY_MAX
    assert row_of(Event(NOON_MS, Kind.ORDER_PLACED, 1, amount_minor=10**12), of=table)["spend_minor"] == MONEY_MAX
    assert MONEY_MAX + 10**12 < 2**63


@pytest.mark.parametrize("kind", [Kind.PAGE_VIEW, Kind.PROFILE])
def test_totals_of_kinds_stay_at_their_bound(kind: Kind) -> None:
    table = new_rows(1)
    table["kind_total"] = COUNT_MAX - 1
    row_of(*(Event(NOON_MS, kind, i) for i in (1, 2, 3)), of=table)
    assert table["kind_total"][0].tolist() == [COUNT_MAX - (k != kind) for k in range(N_KINDS)]


@pytest.mark.parametrize("field", ["category", "brand"])
def test_affinities_stay_at_their_bound(field: str) -> None:
    table = new_rows(1)
    table[field][0, :2] = 5, 6
    table[f"{field}_weight"][0, :2] = COUNT_MAX - 4, 10
    row = row_of(*(Event(NOON_MS, Kind.CART_ADD, i, **{field: 5}) for i in (1, 2)), of=table)
    assert row[f"{field}_weight"].tolist() == [COUNT_MAX, 10, 0, 0, 0, 0, 0, 0]
    if field == "category":
        assert row["steps"][1][10] == COUNT_MAX * 128 // (COUNT_MAX + 10)
    # A new key takes the lightest place, and with it the weight.
    table[f"{field}_weight"] = COUNT_MAX
    table[field] = np.arange(1, 9)
    row = row_of(Event(NOON_MS, Kind.CART_ADD, 3, **{field: 99}), of=table)
    assert row[field].tolist() == [99, 2, 3, 4, 5, 6, 7, 8]
    assert row[f"{field}_weight"].tolist() == [COUNT_MAX] * 8


def test_discounted_orders_are_at_most_all_orders() -> None:
    """So the share fits its byte even where both counters stay at their bound."""
    table = new_rows(1)
    table["kind_total"][0, Kind.ORDER_PLACED] = table["orders_discounted"] = COUNT_MAX
    row = row_of(Event(NOON_MS, Kind.ORDER_PLACED, 1, discount_minor=1), of=table)
    assert row["steps"][0][15] == 128
