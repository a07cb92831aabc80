"""Several models as one: who scores whom, and that nobody's row or score suffers by it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.core.decide import holdout
from stream.core.events import Kind
from stream.core.features import FEATURES
from stream.core.row import N_FEATURES, N_STEPS, Rows, new_rows
from stream.scoring.artefact import ModelRefused
from stream.scoring.control import Mode
from stream.scoring.drift import SCORE, Seen, parse_reference, reference
from stream.scoring.model import Model, load
from stream.scoring.scorer import REBUILD_MAX, Scorer, Trial, Watched, scored_by
from stream.scoring.watch import CALLS, SAMPLE_MIN, SAMPLE_STRIDE, Fault, Limits, Watch
from tests.scoring.bad_models import is_elsewhere, says_nan

LIMITS = Limits(step_us=100, psi_rollback=1.0, psi_retrain=0.25, probation_ms=1_000)


def watched(model: Model) -> Watched:
    return Watched(model, Watch(model.metadata, LIMITS))


def some_rows(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint64], Rows]:
    """Users with full rings, the newest step in its place; their steps and hashes."""
    rng = np.random.default_rng(seed)
    rows = new_rows(n)
    rows["step_count"] = N_STEPS
    rows["steps"] = rng.integers(0, 256, rows["steps"].shape, np.uint8)
    rows["step_pos"] = 5
    return rows["steps"][:, 4].copy(), rng.integers(0, 2**63, n, np.uint64), rows


def expected(model: Model, steps: NDArray[np.uint8], rows: Rows) -> NDArray[np.float32]:
    return model.score(steps, rows.copy())


def test_one_model_alone(model: Model) -> None:
    steps, users, rows = some_rows(50)
    scored = scored_by(model).score(steps, users, rows.copy())
    assert scored.scores.tobytes() == expected(model, steps, rows).tobytes()
    assert set(scored.model.tolist()) == {model.hash}
    scored = Scorer().score(steps, users, rows)
    assert np.isnan(scored.scores).all()
    assert set(scored.model.tolist()) == {0}


def test_a_canary_scores_a_sticky_share_alone(model: Model, other_model: Model) -> None:
    steps, users, rows = some_rows(4_000)
    small, large = (
        Scorer(watched(model), trial=Trial(watched(other_model), Mode.CANARY, share)) for share in (0.1, 0.3)
    )
    scored = small.score(steps, users, rows.copy())
    theirs = scored.model == other_model.hash
    assert theirs.mean() == pytest.approx(0.1, abs=0.02)
    assert (theirs == holdout(users, other_model.hash, 0.1)).all()
    assert (large.score(steps, users, rows.copy()).model == other_model.hash)[theirs].all()
    by_each = {one.hash: expected(one, steps, rows) for one in (model, other_model)}
    wanted = np.where(theirs[:, None], by_each[other_model.hash], by_each[model.hash])
    assert scored.scores.tobytes() == wanted.tobytes()
    after = rows.copy()
    small.score(steps, users, after)
    assert (after["model"] == scored.model).all()


def test_a_shadow_scores_and_changes_nothing(model: Model, other_model: Model) -> None:
    steps, users, rows = some_rows(200)
    trial = Trial(watched(other_model), Mode.SHADOW, 1.0)
    alone, beside = rows.copy(), rows.copy()
    wanted = scored_by(model).score(steps, users, alone)
    scored = Scorer(watched(model), trial=trial).score(steps, users, beside)
    assert scored.scores.tobytes() == wanted.scores.tobytes()
    assert beside.tobytes() == alone.tobytes()
    difference = np.abs(expected(other_model, steps, rows) - wanted.scores)
    watch = trial.watched.watch
    assert watch.compared == 200
    assert watch.difference_sum == pytest.approx(float(difference.sum()), rel=1e-5)
    assert watch.difference_max == float(difference.max())


def test_after_a_swap_rows_change_over_some_at_a_time(model: Model, other_model: Model) -> None:
    steps, users, rows = some_rows(REBUILD_MAX * 2 + 10)
    scored_by(model).score(steps, users, rows)
    scorer = Scorer(watched(other_model), watched(model))
    seen = []
    for _ in range(4):
        scored = scorer.score(steps, users, rows)
        seen.append(int((scored.model == other_model.hash).sum()))
        assert (rows["model"] == scored.model).all()
        assert np.isfinite(scored.scores).all()
    assert seen == [REBUILD_MAX, 2 * REBUILD_MAX, len(rows), len(rows)]


def test_who_says_what_is_no_probability_is_stood_in_for(model: Model) -> None:
    bad = load(says_nan(7))
    steps, users, rows = some_rows(100)
    names = [feature.name for feature in FEATURES]
    hit = np.arange(100) < 30
    steps[:30, [names.index("kind"), names.index("discount_share"), names.index("category_share")]] = [
        Kind.PRODUCT_VIEW, 0, 0,
    ]  # fmt: skip
    rows["steps"][:, 4] = steps
    wanted = expected(model, steps, rows)
    one = watched(bad)
    scored = Scorer(one, watched(model)).score(steps, users, rows.copy())
    assert np.isfinite(scored.scores).all()
    assert scored.scores[hit].tobytes() == wanted[hit].tobytes()
    assert (scored.model == np.where(hit, np.uint64(model.hash), np.uint64(bad.hash))).all()
    found = one.watch.fault(0, 0)
    assert found is not None
    assert (found.fault, found.figure) == (Fault.NAN, 30)
    # From then on nobody asks it.
    again = Scorer(one, watched(model)).score(steps, users, rows.copy())
    assert again.scores.tobytes() == wanted.tobytes()
    # Without anybody else there is no score, and no state is carried on.
    lonely = rows.copy()
    scored = Scorer(watched(bad)).score(steps, users, lonely)
    assert np.isnan(scored.scores[hit]).all()
    assert (lonely["model"] == scored.model).all()
    assert (scored.model == np.where(hit, 0, np.uint64(bad.hash))).all()


def test_a_slow_model_is_found_by_most_of_its_calls(model: Model) -> None:
    watch = Watch(model.metadata, LIMITS)
    for call in range(CALLS):
        watch.note_time(0.020 if call % 2 else 0.001, 10)
    assert watch.fault(0, 0) is None  # half of them: other threads had their turns
    watch.note_time(0.020, 10)
    found = watch.fault(0, 0)
    assert found is not None
    assert found.fault == Fault.LATENCY
    replaying = Watch(model.metadata, LIMITS)
    for _ in range(2 * CALLS):
        replaying.note_time(0.020, 2_000)  # 10 us each
    assert replaying.fault(0, 0) is None


def test_scores_that_are_not_as_in_training_are_found_on_probation() -> None:
    one = watched(load(is_elsewhere(3)))
    steps, users, rows = some_rows(SAMPLE_MIN)
    scorer = Scorer(one)
    for _ in range(SAMPLE_STRIDE - 1):
        scorer.score(steps, users, rows.copy())
    assert one.watch.fault(0, 0) is None
    scorer.score(steps, users, rows.copy())
    found = one.watch.fault(0, LIMITS.probation_ms - 1)
    assert found is not None
    assert found.fault == Fault.SCORE_DRIFT
    assert one.watch.fault(0, LIMITS.probation_ms) is None
    assert SCORE in one.watch.drifted()


# --- PSI


def naive_psi(then: list[float], now: list[float], n: int) -> float:
    """By the definition, half an event more in each bin."""
    total = 0.0
    for a, e in zip(now, then, strict=True):
        share_now, share_then = (a * n + 0.5) / (n + 0.5 * len(now)), (e * n + 0.5) / (n + 0.5 * len(now))
        total += (share_now - share_then) * np.log(share_now / share_then)
    return total


def test_psi_is_the_definition_s() -> None:
    rng = np.random.default_rng(1)
    steps = rng.integers(0, 256, (5_000, N_FEATURES), np.uint8)
    steps[:, 0] = rng.integers(0, 4, 5_000)
    scores = rng.uniform(0, 1, 5_000)
    said = reference(steps, scores)
    assert said["kind"]["edges"] == [0, 1, 2]
    assert len(said[SCORE]["share"]) == 10
    seen = Seen(parse_reference(said), 10**9)
    now, now_scores = steps[:2_000].copy(), scores[:2_000].astype(np.float32) ** 2
    now[:, 0] = rng.choice(4, 2_000, p=[0.7, 0.1, 0.1, 0.1])
    seen.add(now, now_scores)
    found = seen.psi()
    kinds = [float((now[:, 0] == kind).mean()) for kind in range(4)]
    assert found["kind"] == pytest.approx(naive_psi(said["kind"]["share"], kinds, 2_000), rel=1e-6)
    edges = [-np.inf, *said[SCORE]["edges"], np.inf]
    bins = [float(((now_scores > low) & (now_scores <= high)).mean()) for low, high in itertools.pairwise(edges)]
    assert found[SCORE] == pytest.approx(naive_psi(said[SCORE]["share"], bins, 2_000), rel=1e-6)
    assert found["kind"] > 0.25
    assert found["gap"] < 0.05


def test_old_events_are_forgotten() -> None:
    rng = np.random.default_rng(2)
    steps = rng.integers(0, 256, (1_000, N_FEATURES), np.uint8)
    scores = rng.uniform(0, 1, 1_000).astype(np.float32)
    seen = Seen(parse_reference(reference(steps, scores)), 1_000)
    seen.add(steps, scores / np.float32(100))
    before = seen.psi()[SCORE]
    for _ in range(12):
        seen.add(steps, scores)
    assert seen.n <= 2_000
    assert seen.psi()[SCORE] < 0.01 < before


@pytest.mark.parametrize("bad", [{}, {"kind": 5}, None])
def test_reference_bins_that_cannot_be_read_are_refused(model: Model, bad: object) -> None:
    said = reference(np.zeros((5, N_FEATURES), np.uint8), np.zeros(5))
    broken = {**said, "kind": {"edges": [1, 1], "share": [0.5, 0.5, 0.0]}} if bad is None else bad
    with pytest.raises(ModelRefused, match="reference bins of kind"):
        Watch(replace(model.metadata, data={"reference": broken}))
