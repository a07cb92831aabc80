"""Merge: two rows that each absorbed a part of the events hold what one row of all of them would hold."""

from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.absorb import COUNT_MAX
from stream.core.caps import count_offers
from stream.core.events import N_KINDS
from stream.core.fold import fold
from stream.core.merge import cleared, is_blank, merge
from stream.core.row import N_RECENT_IDS, N_STEPS, Rows, new_rows, pack, unpack
from stream.core.windows import COUNT_MAX as TILE_MAX
from tests.core import oracle
from tests.core.logs import Log, as_columns, random_log
from tests.core.oracle import Event

NOON_MS = 1_700_049_600_000

OF_THE_SET = (
    *("last_ms", "first_ms", "seq", "dwell_s", "first_buy_ms", "spend_minor", "refund_minor", "discount_minor"),
    *("orders_discounted", "searches_empty", "rating_sum", "profile_ms", "kind_total", "kind_last_ms"),
    *("count_1h", "count_1d", "count_7d", "count_30d"),
)
"""Fields that are a function of the set of events, so the oracle says what they must be."""


def halves(log: Log) -> tuple[Rows, list[Event], list[Event]]:
    """Two rows, and the events that each absorbed; ids are all different."""
    parts: tuple[list[Event], list[Event]] = ([], [])
    for i, (which, event) in enumerate(log):
        parts[which].append(event._replace(event_id=i + 1))
    table = new_rows(2)
    fold(*as_columns([(u, e) for u in (0, 1) for e in parts[u]]), table)
    return table, *parts


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 60))
def test_what_the_set_of_events_determines(seed: int, n: int) -> None:
    table, mine, theirs = halves(random_log(Random(seed), n, 2))
    before = table.copy()
    users, others = table[:1], table[1:]
    merge(users, others)
    assert others.tobytes() == before[1:].tobytes()
    wanted = oracle.row([*mine, *theirs])
    for name in OF_THE_SET:
        assert users[0][name].tolist() == wanted[name], name
    for name in ("category", "brand"):
        sketches = [
            dict(oracle.sketch([e for e in part if e.kind < oracle.N_KINDS_WINDOWED], name)) for part in (mine, theirs)
        ]
        keys = {key for sketch in sketches for key in sketch if key}
        if len(keys) <= 8:
            held = dict(zip(users[0][name].tolist(), users[0][f"{name}_weight"].tolist(), strict=True))
            assert {k: w for k, w in held.items() if k} == {k: sum(s.get(k, 0) for s in sketches) for k in keys}
    of_profile = ("registered_ms", "birthday", "tier", "consent", "objection")
    later = before[1] if before[1]["profile_ms"] > before[0]["profile_ms"] else before[0]
    assert [users[0][name] for name in of_profile] == [later[name] for name in of_profile]
    assert users[0]["fence"].tolist() == before[0]["fence"].tolist()
    assert unpack(pack(users)).tobytes() == users.tobytes()


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 60))
def test_rings(seed: int, n: int) -> None:
    """Joined by the rows' clocks, the newest kept; of ids, half of each."""
    table, mine, theirs = halves(random_log(Random(seed), n, 2))
    made = [oracle.row(part) for part in (mine, theirs)]
    steps = [[tuple(s) for s in ordered(row, "steps", "step_pos", row["step_count"])] for row in made]
    products = [[p for p in ordered(row, "recent_products", "recent_products_pos", 16) if p] for row in made]
    ids = [[i for i in ordered(row, "recent_ids", "recent_ids_pos", 16) if i] for row in made]
    first, second = (0, 1) if made[1]["last_ms"] > made[0]["last_ms"] else (1, 0)
    users = table[:1]
    merge(users, table[1:])
    row = {name: users[0][name].tolist() for name in users.dtype.names or ()}
    assert [tuple(s) for s in ordered(row, "steps", "step_pos", row["step_count"])] == (steps[first] + steps[second])[
        -N_STEPS:
    ]
    found = [p for p in ordered(row, "recent_products", "recent_products_pos", 16) if p]
    assert found == (products[first] + products[second])[-16:]
    held = [i for i in row["recent_ids"] if i]
    assert len(held) == min(16, len(ids[0]) + len(ids[1]))
    half = N_RECENT_IDS // 2
    for own, other in ((ids[0], ids[1]), (ids[1], ids[0])):
        kept = max(half, N_RECENT_IDS - len(other))
        assert set(own[-kept:]) <= set(held)
    # It goes on as a row does: an event more, and the memory of ids knows the newest.
    event = Event(max(row["last_ms"], NOON_MS) + 1, 0, 10**6)
    seq = users[0]["seq"] + 1
    fold(*as_columns([(0, event), (0, event)]), users)
    assert users[0]["seq"] == seq
    assert (users[0]["model"], not users[0]["state"].any()) == (0, True)


def ordered(row: dict[str, Any], name: str, pos: str, held: int) -> list[Any]:
    """A ring's entries, the oldest first."""
    size = len(row[name])
    return [row[name][(row[pos] - held + i) % size] for i in range(held)]


def test_a_session_goes_on_with_the_row_that_is_ahead() -> None:
    table = new_rows(4)
    table["session"], table["session_events"], table["last_ms"] = [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 12, 11]
    merge(table[:2], table[2:])
    assert (table["session"][:2].tolist(), table["session_events"][:2].tolist()) == ([3, 4], [7, 8])


def test_counts_that_are_full_stay_full() -> None:
    table = new_rows(2)
    table["last_ms"] = NOON_MS
    table["count_1h"], table["kind_total"], table["dwell_s"] = TILE_MAX - 1, COUNT_MAX - 1, COUNT_MAX
    merge(table[:1], table[1:])
    assert (table[0]["count_1h"] == TILE_MAX).all()
    assert (table[0]["kind_total"] == COUNT_MAX).all()
    assert table[0]["dwell_s"] == COUNT_MAX


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(20_000, 20_050)), max_size=60))
def test_offers_by_day_add_up(offers: list[tuple[int, int]]) -> None:
    """As if one row had counted them in the order of days."""
    table, one = new_rows(2), new_rows(1)
    for which, day in sorted(offers, key=lambda offer: offer[1]):
        count_offers(table, np.array([which]), day)
        count_offers(one, np.array([0]), day)
    merge(table[:1], table[1:])
    if offers:
        assert table[0]["offer_day"] == one[0]["offer_day"]
    assert table[0]["offer_days"].tolist() == one[0]["offer_days"].tolist()


def test_what_is_left_of_a_row() -> None:
    table = new_rows(2)
    table["fence"][0], table["spend_minor"][0], table["kind_total"][0] = 7, 5, np.arange(N_KINDS)
    left = cleared(table)
    assert is_blank(table).tolist() == [False, True]
    assert is_blank(left).all()
    assert left["fence"].tolist() == table["fence"].tolist()
    assert len(pack(left)[0]) < len(pack(table)[0])
