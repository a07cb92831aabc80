import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.metrics import (
    auc,
    best_f1_threshold,
    calibration,
    decided,
    differences,
    figures,
    pr_auc,
    pr_curve,
    quality,
    roc_curve,
    under_draws,
    user_draws,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sklearn import metrics as judge


@given(
    pairs=st.lists(st.tuples(st.booleans(), st.integers(1, 20)), min_size=2, max_size=200).filter(
        lambda pairs: len({label for label, _ in pairs}) == 2
    )
)
def test_figures_are_scikit_learns(pairs: list[tuple[bool, int]]) -> None:
    label = np.array([label for label, _ in pairs])
    score = np.array([level / 21 for _, level in pairs], np.float32)  # few levels: many ties
    found = quality(label, score, 0.25)
    assert found.auc == pytest.approx(judge.roc_auc_score(label, score))
    assert found.log_loss == pytest.approx(judge.log_loss(label, score.astype(float)), rel=1e-6)
    assert found.brier == pytest.approx(judge.brier_score_loss(label, score))
    assert found.base_rate == label.mean()
    assert found.base_log_loss == pytest.approx(judge.log_loss(label, np.full(len(label), 0.25)))


def test_certainty_that_is_wrong_costs_much_and_not_everything() -> None:
    assert 15 < quality(np.array([True, False]), np.array([0.0, 1.0], np.float32), 0.5).log_loss < 20


LABELLED = st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(0, 6)), min_size=4, max_size=150).filter(
    lambda rows: len({label for label, _, _ in rows}) == 2
)


@settings(max_examples=25)
@given(rows=LABELLED)
def test_weighted_figures_are_those_of_users_written_out(rows: list[tuple[bool, int, int]]) -> None:
    """The oracle of a bootstrap draw: each user's decision points, repeated as often as the user was drawn."""
    label = np.array([row[0] for row in rows])
    score = np.array([row[1] / 21 for row in rows])
    user = np.unique([row[2] for row in rows], return_inverse=True)[1]
    draws = user_draws(int(user.max()) + 1, 6, 3)
    found = figures(under_draws(label, score, user, draws))
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for draw in draws:
        at = np.repeat(np.arange(len(label)), draw[user])
        if len(set(label[at].tolist())) == 2:
            drawn["auc"].append(judge.roc_auc_score(label[at], score[at]))
        if label[at].any():
            drawn["pr_auc"].append(judge.average_precision_score(label[at], score[at]))
        drawn["log_loss"].append(judge.log_loss(label[at], score[at], labels=[False, True]))
        drawn["brier"].append(judge.brier_score_loss(label[at], score[at]))
    for name, values in drawn.items():
        if values:
            assert found[name][1:] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), rel=1e-6, abs=1e-12)
    assert found["auc"].value == pytest.approx(judge.roc_auc_score(label, score))
    assert found["pr_auc"].value == pytest.approx(judge.average_precision_score(label, score))


@given(rows=LABELLED)
def test_decisions_at_a_threshold_are_scikit_learns(rows: list[tuple[bool, int, int]]) -> None:
    label, score = np.array([row[0] for row in rows]), np.array([row[1] / 20 for row in rows])
    threshold = best_f1_threshold(label, score)
    found = decided(label, score, threshold)
    said = score >= threshold
    assert found.accuracy == pytest.approx(judge.accuracy_score(label, said))
    assert found.precision == pytest.approx(judge.precision_score(label, said))
    assert found.recall == pytest.approx(judge.recall_score(label, said))
    assert found.f1 == pytest.approx(judge.f1_score(label, said))
    assert found.f1 == pytest.approx(max(judge.f1_score(label, score >= level) for level in score))


@given(rows=LABELLED)
def test_curves_enclose_the_areas(rows: list[tuple[bool, int, int]]) -> None:
    label, score = np.array([row[0] for row in rows]), np.array([row[1] / 20 for row in rows])
    roc, pr = roc_curve(label, score), pr_curve(label, score)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(auc(label, score))
    assert np.sum(np.diff(pr.x, prepend=0) * pr.y) == pytest.approx(pr_auc(label, score))


def test_calibration_of_honest_scores_is_good_and_of_doubled_ones_is_not() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 0.5, 50_000)
    label = rng.random(50_000) < score
    honest, doubled = calibration(label, score), calibration(label, 2 * score)
    assert honest.n.sum() == len(label)
    assert honest.error < 0.01
    assert doubled.error == pytest.approx(score.mean(), rel=0.05)
    assert np.abs(honest.rate - honest.score).max() < 0.03


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Users differ much: the interval must come from users; one over decision points would be far too narrow."""
    rng = np.random.default_rng(1)
    held = 0
    for turn in range(60):
        rate = rng.beta(1, 3, 60)  # mean 0.25
        user = np.repeat(np.arange(60), 30)
        label = rng.random(len(user)) < rate[user]
        found = figures(under_draws(label, np.full(len(user), 0.5), user, user_draws(60, 200, turn)))["brier"]
        assert found.value == pytest.approx(0.25)
        said = figures(under_draws(label, np.ones(len(user)), user, user_draws(60, 200, turn)))["brier"]  # 1 - rate
        held += said.low <= 0.75 <= said.high
    assert 50 <= held <= 60


def test_a_difference_on_the_same_users_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(80), 20)
    truth = rng.uniform(0.05, 0.6, 80)[user] * rng.uniform(0.5, 1, len(user))
    label = rng.random(len(user)) < truth
    draws = user_draws(80, 200, 0)
    worse = np.clip(truth + rng.normal(0, 0.1, len(user)), 0.001, 0.999)
    model, other = under_draws(label, truth, user, draws), under_draws(label, worse, user, draws)
    gain = differences(model, other)["auc"]
    one = figures(under_draws(label, truth, user, draws))["auc"]
    assert gain.value > 0
    assert gain.low > 0
    assert gain.high - gain.low < one.high - one.low


def test_what_cannot_be_known_is_null() -> None:
    label, score, user = np.zeros(4, bool), np.array([0.1, 0.2, 0.3, 0.4]), np.arange(4)
    found = figures(under_draws(label, score, user, user_draws(4, 5, 0)))
    assert found["auc"].said() == {"value": None, "ci": [None, None]}
    assert found["brier"].said()["value"] == pytest.approx(0.075)
