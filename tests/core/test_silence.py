"""Silences: when they fall due, by a loop over every moment."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.campaign import Silence
from stream.core.events import SILENCE
from stream.core.silence import as_triggers, draws_of, due_ms

MOMENTS = st.integers(1, 60)


def moments_of(rule: Silence, last_ms: int, end_ms: int) -> list[int]:
    """Every moment before `end_ms` at which the silence after `last_ms` falls due, one by one."""
    found = []
    due = last_ms + rule.after_ms
    while due < end_ms:
        found.append(due)
        if not rule.repeat_ms:
            break
        due += rule.repeat_ms
    return found


@given(
    st.builds(Silence, st.integers(1, 30), st.integers(0, 20)),
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
    MOMENTS,
    MOMENTS,
)
def test_the_latest_moment_within_a_sweep_is_found(rule: Silence, last: list[int], begin: int, length: int) -> None:
    end = begin + length
    expected = []
    for last_ms in last:
        within = [due for due in moments_of(rule, last_ms, end) if begin <= due] if last_ms else []
        expected.append(max(within, default=0))
    assert due_ms(rule, np.array(last, np.int64), begin, end).tolist() == expected


@given(st.builds(Silence, st.integers(1, 30), st.just(0)), st.integers(1, 60), st.lists(MOMENTS, min_size=2))
def test_one_sweep_after_another_finds_a_silence_once(rule: Silence, last_ms: int, cuts: list[int]) -> None:
    """However the time is cut into sweeps."""
    cuts = sorted({1, *cuts, 200})
    found = [int(due_ms(rule, np.array([last_ms]), begin, end)[0]) for begin, end in pairwise(cuts)]
    assert [due for due in found if due] == [last_ms + rule.after_ms]


def test_draws_are_a_hash_of_who_was_silent_by_which_rule_and_since_when() -> None:
    month, week = Silence(30 * 86_400_000, 0), Silence(7 * 86_400_000, 0)
    users = list(range(1, 20_001))
    since = np.full(len(users), 1_790_000_000_000)
    one = as_triggers(month, users, since)
    assert set(one["kind"].tolist()) == {SILENCE}
    drawn = draws_of(month, one)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert abs(drawn.mean() - 0.5) < 4 / np.sqrt(12 * len(users))  # four standard errors of a uniform mean
    assert draws_of(month, as_triggers(month, users, since)).tolist() == drawn.tolist()
    for other in (
        draws_of(week, as_triggers(week, users, since)),
        draws_of(month, as_triggers(month, users, since + 1)),
    ):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / np.sqrt(len(users))
