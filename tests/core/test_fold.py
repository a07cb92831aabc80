from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.absorb import is_step
from stream.core.fold import fold
from stream.core.rounds import by_steps
from stream.core.row import ROW, Rows, new_rows, pack, unpack
from tests.core import oracle
from tests.core.logs import Log, as_columns, logs, of_user, random_log, users

# Fields of a row that events do not determine: the model, the decisions and the store write them.
NOT_OF_EVENTS = {
    *("fence", "model", "state", "offer_used", "offers_made", "offer_last_ms", "offer_day", "offer_days"),
    *("open_offer", "open_campaign", "open_cost"),
}


def folded(log: Log, n_users: int, chunk: int = 2_000) -> tuple[Rows, NDArray[np.uint8], NDArray[np.bool_]]:
    events, row = as_columns(log)
    table = new_rows(n_users)
    steps, applied = fold(events, row, table, chunk)
    return table, steps, applied


def told(row: np.void) -> dict[str, Any]:
    return {name: row[name].tolist() for name in ROW.names or ()}


def check_against_oracle(log: Log, n_users: int) -> None:
    table, steps, applied = folded(log, n_users)
    empty = told(new_rows(1)[0])
    for user in range(n_users):
        events = of_user(log, user)
        mine = np.array([u == user for u, _ in log], bool)
        assert applied[mine].tolist() == oracle.which_apply(events)
        assert steps[mine].tolist() == oracle.steps(events)
        assert told(table[user]) == {**empty, **oracle.row(events)}


def test_the_oracle_speaks_of_every_field() -> None:
    assert oracle.row([]).keys() | NOT_OF_EVENTS == set(ROW.names or ())
    assert not oracle.row([]).keys() & NOT_OF_EVENTS


@given(logs())
@settings(max_examples=200, deadline=None)
def test_rows_and_steps_equal_the_oracle(log: Log) -> None:
    check_against_oracle(log, 5)


@pytest.mark.parametrize("seed", range(2))
def test_rows_and_steps_of_long_logs_equal_the_oracle(seed: int) -> None:
    check_against_oracle(random_log(Random(seed), 1_500, 30), 30)


@given(logs(n_max=200, n_users_max=8))
@settings(max_examples=60, deadline=None)
def test_rows_in_the_order_of_the_rounds_come_to_the_same(log: Log) -> None:
    """Then they are changed where they stand, otherwise in a copy."""
    events, row = as_columns(log)
    found, place = by_steps(row, is_step(events))
    table, moved = new_rows(8), new_rows(len(found))
    steps, applied = fold(events, row, table)
    steps_moved, applied_moved = fold(events, place, moved)
    assert moved.tobytes() == table[found].tobytes()
    assert steps_moved.tobytes() == steps.tobytes()
    assert applied_moved.tolist() == applied.tolist()


@given(logs(n_max=200, n_users_max=8), st.sampled_from([1, 2, 7, 64]))
@settings(max_examples=60, deadline=None)
def test_cutting_a_log_elsewhere_changes_no_bit(log: Log, chunk: int) -> None:
    whole, steps, applied = folded(log, 8)
    cut, steps_cut, applied_cut = folded(log, 8, chunk)
    assert whole.tobytes() == cut.tobytes()
    assert steps.tobytes() == steps_cut.tobytes()
    assert applied.tolist() == applied_cut.tolist()


@given(logs(n_max=200, n_users_max=8), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_storing_and_restoring_after_any_batch_changes_no_bit(log: Log, chunk: int) -> None:
    whole, steps, _ = folded(log, 8)
    events, row = as_columns(log)
    table = new_rows(8)
    for start in range(0, len(log), chunk):
        part = slice(start, start + chunk)
        steps_of_part, _ = fold(events[part], row[part], table)
        assert steps_of_part.tobytes() == steps[part].tobytes()
        table = unpack(pack(table))
    assert table.tobytes() == whole.tobytes()


@given(logs(n_max=200, n_users_max=8), st.randoms(use_true_random=True))
@settings(max_examples=60, deadline=None)
def test_how_users_interleave_changes_no_bit(log: Log, draw: Random) -> None:
    queues = {user: of_user(log, user) for user in users(log)}
    other: Log = []
    while queues:
        user = draw.choice(list(queues))
        other.append((user, queues[user].pop(0)))
        if not queues[user]:
            del queues[user]
    table, steps, _ = folded(log, 8)
    table_other, steps_other, _ = folded(other, 8)
    assert table.tobytes() == table_other.tobytes()
    for user in users(log):
        mine, mine_other = ([u == user for u, _ in one] for one in (log, other))
        assert steps[mine].tobytes() == steps_other[mine_other].tobytes()
