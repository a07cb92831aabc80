"""Models of the window kind, and what becomes of a carried state when the kind changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.absorb import absorb
from stream.core.features import dequantise
from stream.core.fold import fold, turns
from stream.core.row import N_FEATURES, N_STATE, N_STEPS, Rows, new_rows, pack, unpack
from stream.scoring.model import Model, load, unscored
from stream.scoring.session import open_session, run_sequence
from tests.scoring.test_model import constants_of, log, run
from training.seeded import seeded_model


def naive(window_bytes: bytes, history: NDArray[np.uint8]) -> float:
    """By the book, in float64: the last 32 of a history [t, F], the newest against the last weights."""
    weights = constants_of(window_bytes)["w"].reshape(N_STEPS, N_FEATURES).astype(np.float64)
    last = dequantise(history[-N_STEPS:]).astype(np.float64)
    return float(1 / (1 + np.exp(-(last * weights[N_STEPS - len(last) :]).sum())))


@pytest.mark.parametrize("n_users", [1, 30])
def test_it_looks_at_the_last_steps_of_the_ring(window_model: Model, window_bytes: bytes, n_users: int) -> None:
    events, row = log(21, n_users, 70 * n_users)
    steps, _ = fold(events, row, new_rows(n_users))
    found = run(window_model, events, row, new_rows(n_users))
    for user in range(n_users):
        history, scores = steps[row == user], found[row == user]
        assert len(history) > N_STEPS
        for t in range(len(history)):
            assert scores[t] == pytest.approx(naive(window_bytes, history[: t + 1]), abs=1e-5)
    assert found.std() > 1e-2


def test_rows_memory_and_sequences_give_the_same_bits(window_model: Model, window_bytes: bytes) -> None:
    events, row = log(22, 1, 3 * N_STEPS)
    steps, _ = fold(events, row, new_rows(1))
    found = run(window_model, events, row, new_rows(1))
    memory = window_model.fresh(1)
    stepped = np.array([window_model.advance(step[None], memory)[0, 0] for step in steps])
    whole = run_sequence(open_session(window_bytes), dequantise(steps[None]), ())[0, :, 0]
    assert found.tobytes() == stepped.tobytes() == whole.tobytes()


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 99))
def test_the_bits_do_not_depend_on_the_company(window_model: Model, seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    memory = window_model.drawn(100, rng)
    steps = rng.integers(0, 256, (100, N_FEATURES), np.uint8)
    whole, parts = memory.copy(), memory.copy()
    scores = window_model.advance(steps, whole)
    found = [window_model.advance(steps[part], parts[part]) for part in (slice(cut), slice(cut, 100))]
    assert np.concatenate(found).tobytes() == scores.tobytes()
    assert parts.tobytes() == whole.tobytes()


def test_it_carries_nothing(model: Model, window_model: Model) -> None:
    """What a recurrent model left in a row is dropped at the user's next event, and only there."""
    events, row = log(23, 20, 400)
    table = new_rows(20)
    run(model, events[:300], row[:300], table)
    before = table.copy()
    assert before["state"].any(axis=1).all()
    run(window_model, events[300:], row[300:], table)
    touched = np.unique(row[300:])
    others = np.setdiff1d(np.arange(20), touched)
    assert len(touched) > 5
    assert not table["state"][touched].any()
    assert not table["model"][touched].any()
    assert table[others].tobytes() == before[others].tobytes()


def test_kinds_change_back_and_forth(model: Model, other_model: Model, window_model: Model) -> None:
    """A recurrent model that comes after one of the window kind finds rows as if no model had been there."""
    events, row = log(24, 25, 25 * 60)
    cuts = [0, 400, 700, 900, 1_200, len(events)]
    order = [model, window_model, model, window_model, other_model]
    table, alone = new_rows(25), new_rows(25)
    for which, begin, end in zip(order, cuts, cuts[1:], strict=False):
        part = slice(begin, end)
        found = run(which, events[part], row[part], table)
        if which is window_model:
            absorb_only(events[part], row[part], alone)
        else:
            assert run(which, events[part], row[part], alone).tobytes() == found.tobytes()
            touched = np.unique(row[part])
            assert table[touched].tobytes() == alone[touched].tobytes()
        table = unpack(pack(table))
    # What a window model says does not depend on who was there before it.
    again = run(window_model, events, row, new_rows(25))
    table = new_rows(25)
    run(model, events[:400], row[:400], table)
    assert run(window_model, events[400:], row[400:], table).tobytes() == again[400:].tobytes()


def absorb_only(events: NDArray[np.void], row: NDArray[np.int64], table: Rows) -> None:
    for turn in turns(events, row, table):
        absorb(turn.events, turn.rows)
        unscored(turn.rows)


def test_a_narrower_state_leaves_nothing_of_a_wider_one(model: Model, narrow_model: Model) -> None:
    events, row = log(25, 10, 300)
    table = new_rows(10)
    run(model, events[:150], row[:150], table)
    found = run(narrow_model, events[150:], row[150:], table)
    fresh = new_rows(10)
    absorb_only(events[:150], row[:150], fresh)
    assert run(narrow_model, events[150:], row[150:], fresh).tobytes() == found.tobytes()
    width = narrow_model.metadata.n_state
    assert width < N_STATE
    touched = np.unique(row[150:])
    assert not table["state"][touched, width:].any()
    assert table["state"][touched, :width].any()


@pytest.fixture(scope="session")
def narrow_model() -> Model:
    return load(seeded_model(9, n_units=20))
