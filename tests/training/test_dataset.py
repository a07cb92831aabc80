from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import N_KINDS_WINDOWED, Kind
from stream.core.fold import fold
from stream.core.row import new_rows
from training.dataset import FAR, Dataset, build, next_order, split_by_user
from training.errors import TrainingError
from training.log import EventLog

HOUR_MS = 3_600_000
HORIZONS_MS = (HOUR_MS, 24 * HOUR_MS, 7 * 24 * HOUR_MS)
MakeLog = Callable[..., EventLog]

happened = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 400), st.booleans()),  # user, seconds, whether it is an order
    min_size=1,
    max_size=60,
)


@given(said=happened, horizon_s=st.integers(0, 200))
def test_labels_are_what_a_loop_over_the_whole_log_finds(said: list[tuple[int, int, bool]], horizon_s: int) -> None:
    row = np.array([user for user, _, _ in said])
    time_ms = np.array([1_700_000_000_000 + second * 1000 for _, second, _ in said])
    order = np.array([buys for _, _, buys in said])
    expected = [
        any(
            other_user == user and buys and second < other_second <= second + horizon_s
            for other_user, other_second, buys in said
        )
        for user, second, _ in said
    ]
    assert (next_order(row, time_ms, order).until_ms <= horizon_s * 1000).tolist() == expected


def test_too_many_users_for_one_line_of_time_are_refused() -> None:
    row = np.array([0, 2**40])
    time_ms = np.array([1_000_000_000_000, 1_700_000_000_000])
    with pytest.raises(TrainingError, match="split the log"):
        next_order(row, time_ms, np.array([False, True]))


@pytest.mark.parametrize("horizon_ms", HORIZONS_MS)
def test_labels_use_every_order_and_steps_only_what_a_user_did(make: MakeLog, horizon_ms: int) -> None:
    log = make(seed=3, n_users=20, n_events=800)
    events = log.events.copy()
    events["kind"][5::7] = Kind.PROFILE  # bookkeeping: no step, no decision point
    dataset = build(EventLog(log.users, log.row, events), horizon_ms)
    end_ms = int(events["time_ms"][events["kind"] < N_KINDS_WINDOWED].max())
    expected = []
    for user in range(20):
        mine = events[(log.row == user) & (events["kind"] < N_KINDS_WINDOWED)]
        orders = mine["time_ms"][mine["kind"] == Kind.ORDER_PLACED]
        for event in mine:
            t = event["time_ms"]
            expected.append((t, any(t < o <= t + horizon_ms for o in orders), t <= end_ms - horizon_ms))
    found = list(zip(dataset.time_ms, dataset.label, dataset.known, strict=True))
    assert sorted(found) == sorted(expected)
    assert 0 < dataset.label.sum() < len(dataset.label)
    assert not dataset.known.all()


def test_further_labels_are_those_of_further_horizons(log: EventLog) -> None:
    near = build(log, HOUR_MS)
    for place, times in enumerate(FAR):
        far = build(log, HOUR_MS * times)
        np.testing.assert_array_equal(near.far_label[:, place], far.label)
        np.testing.assert_array_equal(near.far_known[:, place], far.known)
        assert not np.array_equal(near.label, far.label)


def test_steps_are_those_of_the_log_in_its_own_order(log: EventLog) -> None:
    """Building takes users side by side, for speed; it must not show."""
    steps, applied = fold(log.events, log.row, new_rows(len(log.users)))
    assert applied.all()
    dataset = build(log, HOUR_MS)
    expected = np.concatenate([steps[log.row == user] for user in range(len(log.users))])
    np.testing.assert_array_equal(dataset.steps, expected)
    assert dataset.starts.tolist() == np.r_[0, np.cumsum(np.bincount(log.row))].tolist()
    np.testing.assert_array_equal(dataset.user, [log.events["user"][log.row == u][0] for u in range(len(log.users))])


@pytest.mark.parametrize("cut", [1, 700, 3_000, 5_999])
def test_the_future_changes_no_feature(log: EventLog, cut: int) -> None:
    whole = build(log, HOUR_MS)
    place = np.concatenate(
        [np.flatnonzero(log.row == user) for user in range(len(log.users))]
    )  # of each step in the log

    def past_of(events: np.ndarray, row: np.ndarray) -> np.ndarray:
        steps, _ = fold(events, row, new_rows(len(log.users)))
        return steps[:cut]

    deleted = past_of(log.events[:cut], log.row[:cut])
    rng = np.random.default_rng(cut)
    scrambled = np.r_[np.arange(cut), cut + rng.permutation(len(log.events) - cut)]
    changed = log.events[scrambled].copy()
    changed["kind"][cut:] = rng.integers(0, N_KINDS_WINDOWED, len(changed) - cut)
    expected = whole.steps[np.argsort(place)][:cut]
    np.testing.assert_array_equal(deleted, expected)
    np.testing.assert_array_equal(past_of(changed, log.row[scrambled]), expected)


@pytest.mark.parametrize("horizon_ms", HORIZONS_MS)
def test_a_changed_future_changes_labels_only(log: EventLog, horizon_ms: int) -> None:
    whole = build(log, horizon_ms)
    events = log.events.copy()
    orders = np.flatnonzero(events["kind"] == Kind.ORDER_PLACED)
    last = {int(user): int(at) for at, user in zip(orders, log.row[orders], strict=True)}
    # Each user's last order becomes a view: no event after it is looked at, those before it must keep their steps.
    events["kind"][list(last.values())] = Kind.PAGE_VIEW
    other = build(EventLog(log.users, log.row, events), horizon_ms)
    place = np.concatenate([np.flatnonzero(log.row == user) for user in range(len(log.users))])
    user = np.repeat(np.arange(len(log.users)), np.diff(whole.starts))
    before = place < np.array([last.get(int(u), len(events)) for u in user])
    np.testing.assert_array_equal(other.steps[before], whole.steps[before])
    assert (whole.label[before] & ~other.label[before]).sum() >= len(last) / 2
    assert not (other.label & ~whole.label).any()


def test_duplicates_are_no_decision_points(log: EventLog) -> None:
    twice = np.sort(np.r_[np.arange(len(log.events)), np.arange(0, len(log.events), 5)])
    repeated = EventLog(log.users, log.row[twice], log.events[twice])
    for a, b in zip(build(repeated, HOUR_MS), build(log, HOUR_MS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sides_share_no_user_and_keep_all(log: EventLog) -> None:
    dataset = build(log, HOUR_MS)
    split = split_by_user(dataset)
    users = [set(part.user.tolist()) for part in split]
    assert sum(map(len, users)) == len(set.union(*users)) == len(dataset.user)
    assert sum(len(part.steps) for part in split) == len(dataset.steps)
    for part in split:
        for at, user in enumerate(part.user):
            here = slice(part.starts[at], part.starts[at + 1])
            (there,) = np.flatnonzero(dataset.user == user)
            source = slice(dataset.starts[there], dataset.starts[there + 1])
            np.testing.assert_array_equal(part.steps[here], dataset.steps[source])
            np.testing.assert_array_equal(part.label[here], dataset.label[source])


def test_a_user_stays_on_its_side_whatever_else_there_is(log: EventLog) -> None:
    some = np.isin(log.row, np.arange(60))
    whole, part = (
        split_by_user(build(EventLog(log.users, log.row[m], log.events[m]), HOUR_MS)) for m in (some | True, some)
    )
    assert set(part.test.user.tolist()) <= set(whole.test.user.tolist())
    assert set(part.train.user.tolist()) <= set(whole.train.user.tolist())


def test_sides_have_their_share() -> None:
    n = 20_000
    user = np.arange(n, dtype=np.uint64)  # no hash at all: the split must not take the pattern
    label = np.arange(n) % 3 == 0
    far = np.zeros((n, len(FAR)), bool)
    steps = np.zeros((n, 16), np.uint8)
    depth, shown = np.full(n, np.nan, np.float32), np.ones((n, 1), np.float32)
    everything = Dataset(steps, label, np.ones(n, bool), np.arange(n), far, far, depth, shown, np.arange(n + 1), user)
    train, valid, test = (len(part.user) / n for part in split_by_user(everything))
    assert (train, valid, test) == pytest.approx((0.7, 0.1, 0.2), abs=0.015)


def test_logs_that_teach_nothing_are_refused(log: EventLog) -> None:
    nothing = EventLog(log.users, log.row[:0], log.events[:0])
    with pytest.raises(TrainingError, match="no event of the kinds"):
        build(nothing, HOUR_MS)
    with pytest.raises(TrainingError, match="not more than the horizon of"):
        build(EventLog(log.users, log.row[:50], log.events[:50]), 40 * 86_400_000)
    events = log.events.copy()
    events["kind"][events["kind"] == Kind.ORDER_PLACED] = Kind.PAGE_VIEW
    one_class = build(EventLog(log.users, log.row, events), HOUR_MS)
    with pytest.raises(TrainingError, match="both outcomes are needed"):
        split_by_user(one_class)
    alone = np.flatnonzero(log.row == 0)
    one_user = build(EventLog(log.users, log.row[alone], log.events[alone]), HOUR_MS)
    with pytest.raises(TrainingError, match=r"of 1 users, the \w+ part has 0"):
        split_by_user(one_user)


def test_depth_is_what_the_next_order_took_off(log: EventLog) -> None:
    """By hand: each event's next order of the same user within the hour, its discount by its price."""
    rng = np.random.default_rng(4)
    events = log.events.copy()
    orders = events["kind"] == Kind.ORDER_PLACED
    events["discount_minor"] = np.where(orders, events["price_minor"] * rng.integers(0, 5, len(events)) // 10, 0)
    events["price_minor"][orders & (rng.random(len(events)) < 0.2)] = 0
    dataset = build(EventLog(log.users, log.row, events), HOUR_MS)
    found = iter(dataset.depth.tolist())
    n_known = 0
    for user in range(len(log.users)):
        own = events[log.row == user]
        for event in own:
            later = own[(own["kind"] == Kind.ORDER_PLACED) & (own["time_ms"] > event["time_ms"])]
            said = next(found)
            if not len(later) or later[0]["time_ms"] > event["time_ms"] + HOUR_MS or not later[0]["price_minor"]:
                assert np.isnan(said)
            else:
                n_known += 1
                assert said == pytest.approx(later[0]["discount_minor"] / later[0]["price_minor"], abs=1e-6)
    assert n_known > 300
