"""How good scores are: figures of the field, in numpy, computed from labels and scores alone.

Decision points of one user are not independent, so intervals come from a bootstrap over users (Efron, "Bootstrap
methods: another look at the jackknife", 1979; whole users drawn with replacement): a draw gives every user a weight,
and every figure can be computed under weights.

    draws = user_draws(n_users, 1_000, seed)
    model = under_draws(label, score, user, draws)
    figures(model)["auc"]               Figure(value, low, high)
    differences(model, other)["auc"]    the same users in both, hence much narrower than two intervals
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_CLIP = 1e-7  # a score of exactly 0 or 1 that is wrong would cost an infinite loss

Labels = NDArray[np.bool_]
Scores = NDArray[np.floating]
Weights = NDArray[np.floating] | NDArray[np.integer]


class Quality(NamedTuple):
    """Of scores against labels."""

    auc: float
    """Area under the ROC curve."""
    log_loss: float
    brier: float
    base_rate: float
    """Share of decision points that end in a purchase."""
    base_log_loss: float
    """Log loss of always saying the rate that was expected beforehand: what a useful model must beat."""


class Parity(NamedTuple):
    """Largest absolute differences between scores."""

    one_step: float
    """TensorFlow against ONNX, single steps from drawn states, states included."""
    sequence: float
    """Stepping through ONNX against the whole sequence at once in TensorFlow, state never rounded."""


def quality(label: Labels, score: Scores, expected_rate: float) -> Quality:
    """All of them.

    Args:
        label: [N], both outcomes must occur.
        score: [N], probabilities.
        expected_rate: what one would say of everybody who knew the training users only.
    """
    base = log_loss(label, np.full(len(label), expected_rate))
    return Quality(auc(label, score), log_loss(label, score), brier(label, score), float(label.mean()), base)


# --- figures


def auc(label: Labels, score: Scores, weight: Weights | None = None) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann and Whitney, 1947).

    NaN where one of the outcomes has no weight.
    """
    return _auc(Ranked.of(label, score), _ones(label) if weight is None else weight)


def pr_auc(label: Labels, score: Scores, weight: Weights | None = None) -> float:
    """Area under precision over recall as a step function: average precision, tied scores taken together.

    NaN where there is no positive.
    """
    return _pr_auc(Ranked.of(label, score), _ones(label) if weight is None else weight)


def log_loss(label: Labels, score: Scores, weight: Weights | None = None) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(np.average(_losses(label, score), weights=weight))


def brier(label: Labels, score: Scores, weight: Weights | None = None) -> float:
    """Mean squared error of the probability."""
    return float(np.average(_squares(label, score), weights=weight))


def _losses(label: Labels, score: Scores) -> NDArray[np.float64]:
    p = np.clip(score.astype(np.float64), _CLIP, 1 - _CLIP)
    losses: NDArray[np.float64] = -np.log(np.where(label, p, 1 - p))
    return losses


def _squares(label: Labels, score: Scores) -> NDArray[np.float64]:
    return np.square(score.astype(np.float64) - label)


def _ones(label: Labels) -> NDArray[np.float64]:
    return np.ones(len(label))


class Ranked(NamedTuple):
    """Scores put in order once, for many weights."""

    order: NDArray[np.int64]
    """[N], highest score first."""
    positive: NDArray[np.bool_]
    """[N], labels in that order."""
    last: NDArray[np.int64]
    """[G], where each group of equal scores ends."""

    @staticmethod
    def of(label: Labels, score: Scores) -> "Ranked":
        """Rank scores."""
        order = np.argsort(-score, kind="stable")
        ranked = score[order]
        last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], np.full(min(len(ranked), 1), fill_value=True)])
        return Ranked(order, label[order], last)

    def counts(self, weight: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight of positives and of negatives at or above each distinct score, float64 [G] each."""
        ordered = weight[self.order].astype(np.float64)
        positives = np.cumsum(np.where(self.positive, ordered, 0.0))[self.last]
        return positives, np.cumsum(ordered)[self.last] - positives


def _auc(ranked: Ranked, weight: Weights) -> float:
    tp, fp = ranked.counts(weight)
    if not len(tp) or tp[-1] <= 0 or fp[-1] <= 0:
        return float("nan")
    area = np.sum(np.diff(fp, prepend=0.0) * (tp + np.r_[0.0, tp[:-1]]) / 2)
    return float(area / (tp[-1] * fp[-1]))


def _pr_auc(ranked: Ranked, weight: Weights) -> float:
    tp, fp = ranked.counts(weight)
    if not len(tp) or tp[-1] <= 0:
        return float("nan")
    precision = tp / np.maximum(tp + fp, np.finfo(np.float64).tiny)
    return float(np.sum(np.diff(tp, prepend=0.0) * precision) / tp[-1])


# --- curves


class Curve(NamedTuple):
    """Points of a curve, float64 [P] each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def roc_curve(label: Labels, score: Scores) -> Curve:
    """Share of negatives (x) and of positives (y) at or above each distinct score, from (0, 0) to (1, 1)."""
    tp, fp = Ranked.of(label, score).counts(_ones(label))
    return Curve(np.r_[0.0, fp / fp[-1]], np.r_[0.0, tp / tp[-1]])


def pr_curve(label: Labels, score: Scores) -> Curve:
    """Recall (x) and precision (y) at each distinct score."""
    tp, fp = Ranked.of(label, score).counts(_ones(label))
    return Curve(tp / tp[-1], tp / (tp + fp))


class Calibration(NamedTuple):
    """What was said and what came, in bins of equally many decision points; [bins] each."""

    score: NDArray[np.float64]
    """Mean score."""
    rate: NDArray[np.float64]
    """Share of positives."""
    n: NDArray[np.int64]
    error: float
    """Expected calibration error: mean of |score - rate| over decision points (Naeini et al., AAAI 2015)."""


def calibration(label: Labels, score: Scores, bins: int = 10) -> Calibration:
    """Bins by quantiles of the score; fewer than asked for where scores are few."""
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    said = np.array([score[part].astype(np.float64).mean() for part in parts])
    came = np.array([label[part].mean() for part in parts])
    n = np.array([len(part) for part in parts])
    return Calibration(said, came, n, float(np.average(np.abs(said - came), weights=n)))


class Decided(NamedTuple):
    """Of saying yes from a threshold on; precision and F1 are NaN where nothing is said, recall where nothing came."""

    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float


def decided(label: Labels, score: Scores, threshold: float) -> Decided:
    """Accuracy, precision, recall and F1 of `score >= threshold`."""
    said = score >= threshold
    tp = float((said & label).sum())
    precision = tp / said.sum() if said.any() else float("nan")
    recall = tp / label.sum() if label.any() else float("nan")
    f1 = 2 * tp / (said.sum() + label.sum()) if said.any() or label.any() else float("nan")
    return Decided(threshold, float((said == label).mean()), precision, recall, float(f1))


def best_f1_threshold(label: Labels, score: Scores) -> float:
    """The score from which saying yes has the highest F1 on these: chosen on users other than those judged."""
    ranked = Ranked.of(label, score)
    tp, fp = ranked.counts(_ones(label))
    best = int(np.argmax(2 * tp / (tp + fp + tp[-1])))
    return float(score[ranked.order[ranked.last[best]]])


# --- intervals


class Figure(NamedTuple):
    """A figure with its 95 % interval; NaN where it cannot be computed."""

    value: float
    low: float
    high: float

    def said(self) -> dict[str, Any]:
        """As JSON: {value, ci: [low, high]}, null for what is not known."""
        return {"value": _known(self.value), "ci": [_known(self.low), _known(self.high)]}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def user_draws(n_users: int, n_draws: int, seed: int) -> NDArray[np.int64]:
    """How often each user comes in each bootstrap sample, int64 [n_draws, n_users]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_users, np.full(n_users, 1 / n_users), n_draws)


def interval(value: float, drawn: NDArray[np.float64]) -> Figure:
    """A figure and the 2.5 and 97.5 % quantiles of the same under bootstrap draws; draws without a value are left out.

    Args:
        value: on the users as they are.
        drawn: [R], the figure under each draw.
    """
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Figure(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [0.025, 0.975]).tolist()
    return Figure(value, low, high)


class Drawn(NamedTuple):
    """A figure on the users as they are, and under each bootstrap draw."""

    value: float
    under: NDArray[np.float64]
    """[R]."""


def under_draws(label: Labels, score: Scores, user: NDArray[np.int64], draws: NDArray[np.int64]) -> dict[str, Drawn]:
    """AUC, PR-AUC, log loss and Brier score under bootstrap draws.

    Args:
        label: [N].
        score: [N].
        user: [N], each decision point's user, 0 to U - 1.
        draws: [R, U], of `user_draws`; the same for scores that are to be compared.
    """
    ranked = Ranked.of(label, score)
    losses, squares = _losses(label, score), _squares(label, score)
    measures: dict[str, Callable[[NDArray[np.float64]], float]] = {
        "auc": lambda weight: _auc(ranked, weight),
        "pr_auc": lambda weight: _pr_auc(ranked, weight),
        "log_loss": lambda weight: _mean(losses, weight),
        "brier": lambda weight: _mean(squares, weight),
    }
    found = np.empty((len(measures), len(draws)))
    for at, draw in enumerate(draws):
        weight = draw[user].astype(np.float64)
        found[:, at] = [of(weight) for of in measures.values()]
    ones = np.ones(len(user))
    return {name: Drawn(of(ones), under) for (name, of), under in zip(measures.items(), found, strict=True)}


def figures(drawn: dict[str, Drawn]) -> dict[str, Figure]:
    """Each figure with its interval."""
    return {name: interval(one.value, one.under) for name, one in drawn.items()}


def differences(drawn: dict[str, Drawn], other: dict[str, Drawn]) -> dict[str, Figure]:
    """By how much each figure is above another score's, both under the same draws."""
    return {name: interval(one.value - other[name].value, one.under - other[name].under) for name, one in drawn.items()}


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    total = float(weight.sum())
    return float(values @ weight) / total if total > 0 else float("nan")
