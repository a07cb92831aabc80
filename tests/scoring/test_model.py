import hashlib
import itertools
import json
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from stream.core.absorb import absorb
from stream.core.events import EVENT, N_KINDS_WINDOWED
from stream.core.features import dequantise
from stream.core.fold import fold, turns
from stream.core.row import N_FEATURES, N_STEPS, Rows, new_rows, pack, unpack
from stream.scoring.artefact import METADATA_KEY, metadata_json
from stream.scoring.model import Model, load, unscored
from stream.scoring.session import Halves
from training.artefact import with_metadata
from training.seeded import seeded_model

N_UNITS = 50


def random_steps(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, N_FEATURES), np.uint8)


def random_state(seed: int, n: int) -> NDArray[np.float16]:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 2 * N_UNITS)).astype(np.float16)


def constants_of(data: bytes) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer}


def naive_step(
    constants: dict[str, NDArray[Any]], step: NDArray[np.uint8], h: NDArray[np.float64], c: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """One user, one event, by the book (ONNX operator LSTM: gates i, o, f, c), in float64."""
    x = dequantise(step).astype(np.float64)
    kind, late, hour = int(step[0]) % 128, step[0] >= 128, int(step[13])
    hot = [1.0 if k == kind else 0.0 for k in range(20)]
    angle = 2 * np.pi * hour / 24
    flags = [float(step[2] == 255), float(step[14] == 0)]
    standard = np.clip((x - constants["mean"]) / constants["deviation"], -8, 8)
    prepared = np.concatenate([hot, [float(late)], [np.sin(angle), np.cos(angle)], flags, standard])
    z = constants["w"][0] @ prepared + constants["r"][0] @ h + constants["b"][0, :200] + constants["b"][0, 200:]
    i, o, f = (1 / (1 + np.exp(-z[g * N_UNITS : (g + 1) * N_UNITS])) for g in range(3))
    c = f * c + i * np.tanh(z[3 * N_UNITS :])
    h = o * np.tanh(c)
    logit = (h @ constants["head_w"] + constants["head_b"]).item()
    return 1 / (1 + np.exp(-logit)), h, c


# --- what a good model does


def test_one_step_is_the_textbook_s_lstm(model: Model, seeded_bytes: bytes) -> None:
    constants = constants_of(seeded_bytes)
    steps, state = random_steps(3, 40), random_state(4, 40)
    after = state.copy()
    scores = model.advance(steps, after)
    for at in range(40):
        h, c = state[at, :N_UNITS].astype(float), state[at, N_UNITS:].astype(float)
        score, h, c = naive_step(constants, steps[at], h, c)
        assert scores[at, 0] == pytest.approx(score, abs=1e-5)
        # kept rounded to float16: at most half of the last place away, and the float32 error before it
        np.testing.assert_allclose(after[at].astype(float), np.concatenate([h, c]), rtol=2**-11, atol=2e-5)


def test_metadata_come_back_as_written(model: Model, seeded_bytes: bytes) -> None:
    assert model.metadata.kind == "recurrent"
    assert model.metadata.arms == ("none",)
    assert model.metadata.state == (("h", 50), ("c", 50))
    bare = onnx.load_from_string(seeded_bytes)
    stored = {entry.key: entry.value for entry in bare.metadata_props}
    assert json.loads(metadata_json(model.metadata)) == json.loads(stored[METADATA_KEY])
    np.testing.assert_array_equal(
        load(with_metadata(seeded_bytes, model.metadata)).metadata.golden.steps, model.metadata.golden.steps
    )


def test_the_hash_is_that_of_the_file(model: Model, seeded_bytes: bytes) -> None:
    assert model.hex == hashlib.sha256(seeded_bytes).hexdigest()
    assert f"{model.hash:016x}" == model.hex[:16]


@given(cuts=st.lists(st.integers(1, 299), max_size=12), seed=st.integers(0, 2**32 - 1))
def test_the_bits_do_not_depend_on_the_company(model: Model, cuts: list[int], seed: int) -> None:
    steps, state = random_steps(seed, 300), random_state(seed, 300)
    whole = state.copy()
    scores = model.advance(steps, whole)
    parts = state.copy()
    bounds = [0, *sorted(set(cuts)), 300]
    found = [model.advance(steps[a:b], parts[a:b]) for a, b in itertools.pairwise(bounds)]
    assert np.concatenate(found).tobytes() == scores.tobytes()
    assert parts.tobytes() == whole.tobytes()


def test_several_arms() -> None:
    model = load(seeded_model(5, arms=("none", "ten", "twenty")))
    rows = new_rows(3)
    assert model.score(random_steps(1, 3), rows).shape == (3, 3)
    assert seeded_model(5, arms=("none", "ten", "twenty")) == seeded_model(5, arms=("none", "ten", "twenty"))


def test_an_empty_round(model: Model) -> None:
    assert model.score(random_steps(1, 0), new_rows(0)).shape == (0, 1)


# --- casts


def test_halves_are_numpys_both_ways() -> None:
    halves = Halves()
    known = np.arange(2**16, dtype=np.uint16).view(np.float16)
    known = known[~np.isnan(known)]
    every = known[: len(known) // 64 * 64].reshape(-1, 64)
    assert len(every) > 64
    np.testing.assert_array_equal(halves.to_float(every).view(np.uint32), every.astype(np.float32).view(np.uint32))

    finite = np.sort(every[np.isfinite(every)].astype(np.float32))
    middles = (finite[:-1] + finite[1:]) / 2  # ties go to even
    near = np.concatenate([middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf), finite])
    near = near[np.abs(near) < 65_504][: len(near) // 100 * 100 - 1000].astype(np.float32)
    near = near[: len(near) // 50 * 50].reshape(-1, 50)
    np.testing.assert_array_equal(halves.to_half(near).view(np.uint16), near.astype(np.float16).view(np.uint16))


# --- rebuilding


def log(seed: int, n_users: int, n_events: int) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Events of users in a random order: kinds, times (some late), prices."""
    rng = np.random.default_rng(seed)
    events = np.zeros(n_events, EVENT)
    events["event_id"] = np.arange(1, n_events + 1)
    events["offset"] = np.arange(n_events)
    events["kind"] = rng.integers(0, N_KINDS_WINDOWED, n_events)
    events["time_ms"] = (
        1_700_000_000_000 + np.cumsum(rng.integers(0, 600_000, n_events)) - rng.integers(0, 2, n_events) * 900_000
    )
    events["price_minor"] = rng.integers(0, 10_000, n_events)
    events["category"] = rng.integers(0, 5, n_events)
    events["product"] = rng.integers(0, 40, n_events)
    return events, rng.integers(0, n_users, n_events)


def run(model: Model, events: NDArray[np.void], row: NDArray[np.int64], table: Rows) -> NDArray[np.float32]:
    """Absorb and score a log as a worker does."""
    scores = np.full(len(events), np.nan, np.float32)
    for turn in turns(events, row, table):
        scores[turn.at] = model.score(absorb(turn.events, turn.rows), turn.rows)[:, 0]
    return scores


@pytest.mark.parametrize("n_users", [1, 40, 400])
def test_rebuilt_is_carried_where_the_ring_holds_all(model: Model, other_model: Model, n_users: int) -> None:
    n = min(N_STEPS * n_users, 3_000)
    events, row = log(7, n_users, n)
    keep = np.array([(row[:i] == row[i]).sum() for i in range(n)]) < N_STEPS  # at most 32 events a user
    events, row = events[keep], row[keep]
    half = len(events) // 2

    carried = new_rows(n_users)
    expected = run(model, events, row, carried)
    swapped = new_rows(n_users)
    run(other_model, events[:half], row[:half], swapped)
    found = run(model, events[half:], row[half:], swapped)

    assert found.tobytes() == expected[half:].tobytes()
    touched = np.unique(row[half:])
    assert swapped[touched].tobytes() == carried[touched].tobytes()


def test_the_first_model_rebuilds_from_rows_that_never_had_one(model: Model) -> None:
    events, row = log(8, 30, 500)
    keep = np.array([(row[:i] == row[i]).sum() for i in range(500)]) < N_STEPS
    events, row = events[keep], row[keep]
    late = len(events) - 60
    expected = run(model, events, row, new_rows(30))
    table = new_rows(30)
    for turn in turns(events[:late], row[:late], table):
        absorb(turn.events, turn.rows)
        assert np.isnan(unscored(turn.rows)).all()
    assert run(model, events[late:], row[late:], table).tobytes() == expected[late:].tobytes()


def test_a_full_ring_is_replayed_from_its_oldest_step(model: Model) -> None:
    events, row = log(9, 1, 75)
    table = new_rows(1)
    steps, _ = fold(events, row, new_rows(1))
    for turn in turns(events[:74], row[:74], table):
        absorb(turn.events, turn.rows)
        unscored(turn.rows)
    found = run(model, events[74:], row[74:], table)
    state = np.zeros((1, 100), np.float16)
    expected = [model.advance(steps[at : at + 1], state) for at in range(75 - N_STEPS, 75)]
    assert found.tobytes() == expected[-1].tobytes()
    assert table["state"].tobytes() == state.tobytes()


def test_a_gap_without_a_model_is_not_carried_over(model: Model) -> None:
    """The same model comes back: the state in the row has missed events, so it must not be carried on."""
    events, row = log(10, 5, 100)
    expected = run(model, events, row, new_rows(5))
    table = new_rows(5)
    run(model, events[:40], row[:40], table)
    for turn in turns(events[40:70], row[40:70], table):
        absorb(turn.events, turn.rows)
        unscored(turn.rows)
    assert run(model, events[70:], row[70:], table).tobytes() == expected[70:].tobytes()


def test_storing_and_restoring_changes_no_bit(model: Model) -> None:
    events, row = log(11, 20, 600)
    expected = run(model, events, row, new_rows(20))
    table = new_rows(20)
    found = []
    for start in range(0, 600, 50):
        found.append(run(model, events[start : start + 50], row[start : start + 50], table))
        table = unpack(pack(table))
    assert np.concatenate(found).tobytes() == expected.tobytes()


# --- memory


@pytest.mark.long
def test_many_swaps_keep_the_memory() -> None:
    files = [seeded_model(seed) for seed in range(4)]
    process = psutil.Process()
    rows, steps = new_rows(2_000), random_steps(1, 2_000)

    def swap(times: int) -> int:
        for at in range(times):
            load(files[at % 4]).score(steps, rows)
        return int(process.memory_info().rss)

    before = swap(20)
    assert swap(200) - before < 50_000_000
