from itertools import combinations
from math import factorial

import numpy as np
import pytest

from stream.core.features import FEATURES
from stream.core.row import N_FEATURES, N_STEPS
from stream.explain.shapley import EARLIER, GROUPS, STEPS_SHOWN, background, by_group, by_step, score_of
from stream.explain.words import groups_said, picture, steps_said
from stream.scoring.model import Model, load
from training.seeded import seeded_model, seeded_window_model


@pytest.fixture(scope="module", params=["recurrent", "window"])
def model(request: pytest.FixtureRequest) -> Model:
    return load(seeded_model(3) if request.param == "recurrent" else seeded_window_model(3))


@pytest.fixture(scope="module")
def steps() -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 100, (20, N_FEATURES), np.uint8)
    drawn[:, 0] %= 16  # kinds
    return drawn


def test_every_feature_is_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(feature.name for feature in FEATURES)


@pytest.mark.parametrize("held", [1, 2, 9, N_STEPS])
def test_a_history_is_scored_as_a_worker_scores_it(model: Model, held: int) -> None:
    history = np.random.default_rng(held).integers(0, 100, (held, N_FEATURES), np.uint8)
    memory = model.fresh(1)
    scores = [model.advance(step[None], memory) for step in history]
    assert score_of(model, [history])[0] == pytest.approx(float(scores[-1][0, 0]), abs=1e-6)


def test_group_values_add_up_and_are_shapleys(model: Model, steps: np.ndarray) -> None:
    """Against the definition, summed over all coalitions by hand."""
    stand_ins = background(model)[:4]
    found = by_group(model, steps, stand_ins)
    assert found.base + found.values.sum() == pytest.approx(found.score, abs=1e-6)
    assert found.score == pytest.approx(score_of(model, [steps])[0], abs=1e-6)
    places = {name: [[f.name for f in FEATURES].index(one) for one in of] for name, of in GROUPS.items()}

    def worth(known: frozenset[str]) -> float:
        histories = []
        for other in stand_ins:
            history = np.repeat(other[None], len(steps), axis=0)
            for name in known:
                history[:, places[name]] = steps[:, places[name]]
            histories.append(history)
        return float(score_of(model, histories).mean())

    asked = {frozenset(c): worth(frozenset(c)) for k in range(8) for c in combinations(GROUPS, k)}
    n = len(GROUPS)
    for at, name in enumerate(found.names):
        expected = sum(
            factorial(len(known)) * factorial(n - len(known) - 1) / factorial(n) * (asked[known | {name}] - value)
            for known, value in asked.items()
            if name not in known
        )
        assert found.values[at] == pytest.approx(expected, abs=1e-6)


def test_steps_add_up_to_what_the_history_changes(model: Model, steps: np.ndarray) -> None:
    found = by_step(model, steps)
    assert found.names == [EARLIER, *(f"{ago} before" for ago in range(STEPS_SHOWN, 0, -1))]
    assert found.base == pytest.approx(score_of(model, [steps[-1:]])[0], abs=1e-6)
    assert found.base + found.values.sum() == pytest.approx(score_of(model, [steps])[0], abs=1e-6)
    short = by_step(model, steps[:2])
    assert short.names == ["1 before"]
    assert short.values[0] == pytest.approx(short.score - short.base, abs=1e-6)


def test_it_is_told_in_words_and_drawn(model: Model, steps: np.ndarray) -> None:
    groups, last = by_group(model, steps, background(model)[:2]), by_step(model, steps)
    said = groups_said(groups)
    assert f"score {100 * groups.score:.2f} %" in said[0]
    points = [float(line.split()[0]) for line in said[1:]]
    assert [abs(one) for one in points] == sorted((abs(one) for one in points), reverse=True)
    assert len(steps_said(last, steps)) == 1 + len(last.names)
    assert picture("t", groups, last).startswith(b"\x89PNG")
    assert picture("t", groups, None).startswith(b"\x89PNG")
