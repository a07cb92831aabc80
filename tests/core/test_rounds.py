import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from stream.core.rounds import by_steps, plan, runs, turn_of

BATCHES = st.lists(st.integers(0, 6) | st.integers(0, 10**9), max_size=60)


def seen_before(row: list[int]) -> list[int]:
    return [row[:i].count(r) for i, r in enumerate(row)]


@given(BATCHES)
@example([])
@example([3, 3, 3])
def test_rounds_hold_every_event_once_in_turn(row: list[int]) -> None:
    planned = plan(np.array(row, np.int64))
    assert sorted(planned.order.tolist()) == list(range(len(row)))
    assert sorted(planned.rows.tolist()) == sorted(set(row))
    turn = seen_before(row)
    n_before = len(planned.rows)
    for number, (round_, n) in enumerate(planned.rounds()):
        at = planned.order[round_].tolist()
        assert [turn[i] for i in at] == [number] * n
        assert [row[i] for i in at] == planned.rows[:n].tolist()  # a slice of the rows, from the first on
        assert 0 < n <= n_before
        n_before = n
    assert len(list(planned.rounds())) == max(turn, default=-1) + 1


@given(st.lists(st.tuples(st.integers(0, 6) | st.integers(0, 10**9), st.booleans()), max_size=60))
def test_rows_numbered_by_steps_need_not_move(batch: list[tuple[int, bool]]) -> None:
    key = np.array([k for k, _ in batch], np.int64)
    step = np.array([s for _, s in batch], np.bool_)
    found, row = by_steps(key, step)
    assert sorted(found.tolist()) == sorted(set(key.tolist()))
    assert found[row].tolist() == key.tolist()
    planned = plan(row[step])
    assert planned.rows.tolist() == list(range(len(planned.rows)))


@given(BATCHES)
def test_turn_counts_the_events_before(row: list[int]) -> None:
    assert turn_of(np.array(row, np.int64)).tolist() == seen_before(row)


@given(BATCHES)
def test_runs_put_the_events_of_a_row_side_by_side(row: list[int]) -> None:
    run = runs(np.array(row, np.int64))
    expected = {r: [i for i, s in enumerate(row) if s == r] for r in sorted(set(row))}
    found = [run.order[b : b + n].tolist() for b, n in zip(run.begins.tolist(), run.n_events.tolist(), strict=True)]
    assert found == list(expected.values())
    turn = seen_before(row)
    assert run.turns().tolist() == [turn[i] for i in run.order.tolist()]
