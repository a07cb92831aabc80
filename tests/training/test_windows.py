import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.features import SCALES
from training.dataset import Split
from training.windows import BURN_IN, JUDGED, batches, cut, fill


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=30), seed=st.integers(0, 1_000))
def test_every_step_is_judged_once_in_a_window_of_its_own_user(lengths: list[int], seed: int) -> None:
    starts = np.r_[0, np.cumsum(lengths)]
    windows = cut(starts, np.random.default_rng(seed))
    judged = np.zeros(starts[-1], int)
    for begin, first, end in zip(*windows, strict=True):
        judged[first:end] += 1
        user = np.searchsorted(starts, begin, side="right") - 1
        assert starts[user] <= begin <= first < end <= starts[user + 1]
        assert begin == max(first - BURN_IN, starts[user])  # as many steps as a rebuild replays, or the whole past
        assert end - first <= JUDGED
    assert (judged == 1).all()


def test_cuts_differ_from_epoch_to_epoch() -> None:
    starts = np.arange(0, 5_001, 500)
    rng = np.random.default_rng(1)
    assert cut(starts, rng).judged.tolist() != cut(starts, rng).judged.tolist()


def test_batches_hold_every_window_once(split: Split) -> None:
    rng = np.random.default_rng(2)
    windows = cut(split.train.starts, rng)
    weight = sum(float(batch.weight[..., 0].sum()) for batch in batches(split.train, windows, rng, 16))
    assert weight == split.train.known.sum()


@pytest.mark.parametrize("length", [96, 128])
def test_a_filled_window_is_the_users_steps(split: Split, length: int) -> None:
    data = split.train
    windows = cut(data.starts, np.random.default_rng(3))
    batch = fill(data, windows, length)
    for w, (begin, first, end) in enumerate(zip(*windows, strict=True)):
        n = end - begin
        np.testing.assert_array_equal(batch.x[w, :n], data.steps[begin:end] * SCALES)
        assert not batch.x[w, n:].any()
        np.testing.assert_array_equal(batch.label[w, :n, 0], data.label[begin:end])
        for t in range(length):
            at = min(begin + t, len(data.known) - 1)
            judged = first <= begin + t < end
            assert batch.weight[w, t, 0] == (judged and data.known[at])
            assert batch.weight[w, t, 1:].tolist() == (judged & data.far_known[at]).tolist()
        np.testing.assert_array_equal(batch.label[w, :n, 1:], data.far_label[begin:end])
