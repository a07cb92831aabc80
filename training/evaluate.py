"""Judge a model file on events: figures with intervals, by events seen, against yardsticks on the same users.

The model is stepped as a worker steps it. Users that it was trained on are left out where that is known: from the file
`training.npz` beside the model.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.scoring.artefact import PURCHASE
from stream.scoring.model import Model
from training.dataset import Dataset, of_users
from training.errors import TrainingError
from training.metrics import (
    Drawn,
    calibration,
    decided,
    differences,
    figures,
    pr_curve,
    roc_curve,
    under_draws,
    user_draws,
)
from training.serve import carried
from training.yardsticks import Beside, crossed_scores, fitted_scores

EVENTS_SEEN = (1, 2, 5, 10, 20, 50)
"""Figures are given for decision points after so many events of the user and fewer than the next number."""

N_DRAWS = 1_000
_DRAWN_POINTS_MAX = 200_000_000  # draws times decision points: larger data sets have narrow intervals and need fewer
_N_DRAWS_MIN = 100
_CURVE_POINTS = 200
THRESHOLD = 0.5
"""Of models that say nothing of one."""


class Judged(NamedTuple):
    """The decision points that count, and what was said of them."""

    label: NDArray[np.bool_]
    """[N]."""
    score: NDArray[np.float64]
    """[N]."""
    user: NDArray[np.int64]
    """[N], 0 to U - 1."""
    seen: NDArray[np.int64]
    """[N], events of the user so far, this one included."""
    time_ms: NDArray[np.int64]
    """[N]."""
    yardsticks: dict[str, NDArray[np.float64]]
    """[N] each."""


def unseen(dataset: Dataset, kept: Beside | None) -> Dataset:
    """The users that the model was not trained on; all of them where it is not known who was.

    Raises:
        TrainingError: nobody is left, or those left have labels of one class only.
    """
    if kept is not None:
        new = ~np.isin(dataset.user, kept.user)
        if not new.any():
            raise TrainingError(
                f"the model was trained on all of these {len(dataset.user)} users: nothing to judge it by"
            )
        dataset = of_users(dataset, new)
    n, buys = int(dataset.known.sum()), int(dataset.label[dataset.known].sum())
    if buys in {0, n}:
        raise TrainingError(
            f"{len(dataset.user)} users with {n} decision points, {buys} of them with a purchase to come: both "
            "outcomes are needed to judge a model"
        )
    return dataset


def judge(model: Model, dataset: Dataset, kept: Beside | None, seed: int = 0) -> Judged:
    """Score every decision point by the model and by the yardsticks.

    Args:
        model: verified.
        dataset: of `unseen`.
        kept: of the training users; None: yardsticks are fitted to other users of this data set.
        seed: of the yardsticks.

    Raises:
        TrainingError: the model does not say how likely a purchase is.
    """
    if model.metadata.answers != PURCHASE:
        text = f"the model answers with a {model.metadata.answers}, no probability of a purchase; its figures are in "
        raise TrainingError(text + "its metadata, which `models show FILE` prints")
    known = dataset.known
    lengths = np.diff(dataset.starts)
    yardsticks = crossed_scores(dataset, seed) if kept is None else fitted_scores(kept, dataset.steps, seed)
    return Judged(
        label=dataset.label[known],
        score=carried(model, dataset)[known, 0].astype(np.float64),
        user=np.repeat(np.arange(len(lengths)), lengths)[known],
        seen=(np.arange(len(known)) - np.repeat(dataset.starts[:-1], lengths) + 1)[known],
        time_ms=dataset.time_ms[known],
        yardsticks={name: score[known] for name, score in yardsticks.items()},
    )


def evaluation(model: Model, judged: Judged, kept: Beside | None, seed: int = 0) -> dict[str, Any]:
    """Everything as JSON; docs/training.md says what each field is.

    Args:
        model: whose scores these are.
        judged: of `judge`.
        kept: as for `judge`.
        seed: of the bootstrap.
    """
    label, score, user = judged.label, judged.score, judged.user
    draws = user_draws(int(user.max()) + 1, n_draws(len(label)), seed)
    ours = under_draws(label, score, user, draws)
    threshold = model.metadata.metrics.get("threshold") or THRESHOLD
    return {
        **{name: figure.said() for name, figure in figures(ours).items()},
        "events": len(label),
        "users": len(np.unique(user)),
        "base_rate": float(label.mean()),
        "by_events_seen": by_events_seen(judged, draws),
        "baselines": _baselines(judged, draws, ours, kept),
        "at_threshold": {name: _known(value) for name, value in decided(label, score, threshold)._asdict().items()},
        "calibration": _calibration(judged),
        "after_training": _after_training(model, judged, draws),
        "curves": {"roc": _thinned(*roc_curve(label, score)), "pr": _thinned(*pr_curve(label, score))},
        "bootstrap_draws": len(draws),
        "users_seen_in_training": "left out" if kept is not None else "not known: no training.npz beside the model",
        "horizon_ms": model.metadata.horizon_ms,
        "model": {"sha256": model.hex, "architecture": model.metadata.architecture},
    }


def n_draws(n_points: int) -> int:
    """Bootstrap draws for so many decision points."""
    return int(np.clip(_DRAWN_POINTS_MAX // n_points, _N_DRAWS_MIN, N_DRAWS))


def by_events_seen(judged: Judged, draws: NDArray[np.int64]) -> dict[str, Any]:
    """Figures of the decision points after 1, 2 to 4, 5 to 9 events and so on, by the first number as text."""
    said = {}
    for first, end in zip(EVENTS_SEEN, [*EVENTS_SEEN[1:], np.iinfo(np.int64).max], strict=True):
        said[str(first)] = _part(judged, (judged.seen >= first) & (judged.seen < end), draws)
    return said


def _after_training(model: Model, judged: Judged, draws: NDArray[np.int64]) -> dict[str, Any] | None:
    """Figures of what happened after the last event that the model was trained on; None where nothing did."""
    end_ms = model.metadata.data.get("to_ms")
    if not isinstance(end_ms, int) or not (judged.time_ms > end_ms).any():
        return None
    return {"from_ms": end_ms, **_part(judged, judged.time_ms > end_ms, draws)}


def _part(judged: Judged, at: NDArray[np.bool_], draws: NDArray[np.int64]) -> dict[str, Any]:
    said: dict[str, Any] = {"events": int(at.sum()), "users": len(np.unique(judged.user[at]))}
    if not said["events"]:
        return {**said, "base_rate": None}
    drawn = under_draws(judged.label[at], judged.score[at], judged.user[at], draws)
    return {
        **{name: figure.said() for name, figure in figures(drawn).items()},
        **said,
        "base_rate": float(judged.label[at].mean()),
    }


def _baselines(judged: Judged, draws: NDArray[np.int64], ours: dict[str, Drawn], kept: Beside | None) -> dict[str, Any]:
    label, user = judged.label, judged.user
    rate = float(label.mean() if kept is None else kept.label.mean())
    said: dict[str, Any] = {}
    for name, score in {"base_rate": np.full(len(label), rate), **judged.yardsticks}.items():
        theirs = under_draws(label, score, user, draws)
        said[name] = {
            **{figure: found.said() for figure, found in figures(theirs).items()},
            "difference": {figure: found.said() for figure, found in differences(ours, theirs).items()},
        }
    fitted_to = "other users of the judged events" if kept is None else "the users that the model was trained on"
    return {**said, "fitted_to": fitted_to}


def _calibration(judged: Judged) -> dict[str, Any]:
    found = calibration(judged.label, judged.score)
    return {"score": found.score.tolist(), "rate": found.rate.tolist(), "n": found.n.tolist(), "error": found.error}


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, list[float]]:
    at = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE_POINTS)).astype(int))
    return {"x": x[at].round(6).tolist(), "y": y[at].round(6).tolist()}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
