"""What a report is made of: everything worked out once, as arrays and figures, before anything is drawn."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.row import N_STEPS
from stream.explain.shapley import GROUPS, background, by_group
from stream.scoring.drift import Seen, parse_reference
from stream.scoring.model import Model
from stream.scoring.segments import Segmenter
from training.dataset import Dataset, build
from training.errors import TrainingError
from training.evaluate import Judged, evaluation, judge, n_draws, unseen
from training.log import EventLog
from training.metrics import differences, figures, under_draws, user_draws
from training.serve import carried
from training.yardsticks import Beside

EXPLAINED = 80
"""Decision points whose scores are taken apart for the summary."""

DRIFT_MAX = 0.25
"""From which on a feature is said to have moved: the workers' default."""


class Compared(NamedTuple):
    """Against the champion, on the same decision points."""

    sha256: str
    evaluation: dict[str, Any]
    difference: dict[str, Any]
    """The model's figures minus the champion's, paired over users."""
    score: NDArray[np.float64]
    """[N]."""


class Shapley(NamedTuple):
    """Scores taken apart."""

    names: list[str]
    values: NDArray[np.float64]
    """[points, groups]."""


class Gathered(NamedTuple):
    """Of one model on one source of events."""

    model: Model
    metrics: dict[str, Any]
    """What `run` wrote; empty where its file is not there."""
    evaluation: dict[str, Any]
    judged: Judged
    steps: NDArray[np.uint8]
    """[N, F] of the decision points judged."""
    drift: dict[str, float] | None
    """Population stability index by feature, the score's too; None where the file holds no reference."""
    shapley: Shapley | None
    """None where the package is not installed."""
    champion: Compared | None
    segments: Segmenter | None


def gather(
    model: Model,
    log: EventLog,
    kept: Beside | None,
    metrics: dict[str, Any],
    champion: Model | None,
    segments: Segmenter | None,
    seed: int = 0,
) -> Gathered:
    """Judge a model on users it has not seen, take scores apart, compare.

    Args:
        model: verified.
        log: the events.
        kept: of its training users.
        metrics: of `run`.
        champion: to compare with; None = leave that out.
        segments: to split the figures by; None = leave that out.
        seed: of whatever is drawn.

    Raises:
        TrainingError: the events are not enough to judge by.
    """
    dataset = unseen(build(log, model.metadata.horizon_ms), kept)
    judged = judge(model, dataset, kept, seed)
    compared = None if champion is None else _compared(champion, dataset, judged, seed)
    steps = dataset.steps[dataset.known]
    return Gathered(
        model,
        metrics,
        evaluation(model, judged, kept, seed),
        judged,
        steps,
        drift(model, steps, judged.score),
        _shapley(model, dataset, seed),
        compared,
        segments,
    )


def drift(model: Model, steps: NDArray[np.uint8], scores: NDArray[np.float64]) -> dict[str, float] | None:
    """Population stability index by feature and of the score, as workers watch it; None: the file has no reference.

    Raises:
        TrainingError: its reference cannot be read.
    """
    said = model.metadata.data.get("reference")
    if said is None:
        return None
    try:
        seen = Seen(parse_reference(said), keep=len(steps))
    except ValueError as error:
        raise TrainingError(f"model {model.hex[:12]}: {error}") from error
    seen.add(steps, scores.astype(np.float32))
    return seen.psi()


def _compared(champion: Model, dataset: Dataset, judged: Judged, seed: int) -> Compared:
    score = carried(champion, dataset)[dataset.known, 0].astype(np.float64)
    draws = user_draws(int(judged.user.max()) + 1, n_draws(len(judged.label)), seed)
    ours = under_draws(judged.label, judged.score, judged.user, draws)
    theirs = under_draws(judged.label, score, judged.user, draws)
    return Compared(
        champion.hex,
        {name: one.said() for name, one in figures(theirs).items()},
        {name: one.said() for name, one in differences(ours, theirs).items()},
        score,
    )


def _shapley(model: Model, dataset: Dataset, seed: int) -> Shapley | None:
    at = np.flatnonzero(dataset.known)
    drawn = np.random.default_rng(seed).permutation(at)[:EXPLAINED]
    stand_ins = background(model)[:8]
    first = dataset.starts[np.searchsorted(dataset.starts, drawn, side="right") - 1]
    try:
        values = [
            by_group(model, dataset.steps[max(begin, place - N_STEPS + 1) : place + 1], stand_ins).values
            for begin, place in zip(first.tolist(), drawn.tolist(), strict=True)
        ]
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"shap", "numba"}:
            raise
        return None
    return Shapley(list(GROUPS), np.stack(values))


def read_metrics(path: Path) -> dict[str, Any]:
    """The `metrics.json` of `run`; empty where there is none.

    Raises:
        TrainingError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path}: not what `training run` writes: {error}; delete it, or train again") from error
    if not isinstance(said, dict):
        raise TrainingError(f"{path}: not what `training run` writes: no object; delete it, or train again")
    return said
