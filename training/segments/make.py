"""From a log to a file of segments: draw steps, group them, name the groups, learn to tell them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stream.core.segments import Segment
from stream.scoring.artefact import ModelRefused
from stream.scoring.segments import load_segmenter
from training.errors import TrainingError
from training.log import EventLog
from training.segments.classify import CLASSIFIERS, exported, fitted, judge, kept_apart
from training.segments.clusters import Clusters, Named, find, named
from training.segments.sample import USED, Sample, draw


class Made(NamedTuple):
    """A file of segments, and what it was made of."""

    data: bytes
    figures: dict[str, Any]
    sample: Sample
    clusters: Clusters
    named: Named


def make(
    log: EventLog, method: str, k: int | None, classifier: str | None, previous: dict[str, Any] | None, seed: int
) -> Made:
    """Learn segments.

    1. Steps of many users, with the rules' segments.
    2. Groups, numbers and names.
    3. Classifiers fitted to four fifths of the users and judged on the others: for the groups, and for the rules.
    4. The one chosen, fitted to all, as a file that passes a worker's verification, or there is none.

    Args:
        log: all events, in the order in which they apply.
        method: kmeans or dbscan.
        k: of k-means; None = by silhouette.
        classifier: which one goes to workers; None: the best F1 on users kept apart.
        previous: metadata of the file whose names are to be kept.
        seed: of all that is drawn.

    Raises:
        TrainingError: the log is not enough to learn segments from.
    """
    with threadpool_limits(1):  # as elsewhere: on a busy machine scikit-learn's threads wait for each other
        return _make(log, method, k, classifier, previous, seed)


def _make(
    log: EventLog, method: str, k: int | None, classifier: str | None, previous: dict[str, Any] | None, seed: int
) -> Made:
    # 1.
    sample = draw(log, seed)
    if len(np.unique(sample.user)) < 10:
        raise TrainingError(f"{len(np.unique(sample.user))} users are too few for segments")
    x = sample.used()
    # 2.
    clusters = find(x, method, k, seed)
    names = named(clusters, x.std(axis=0, dtype=np.float64), x.mean(axis=0, dtype=np.float64), previous)
    inside = np.flatnonzero(clusters.label >= 0)
    number = np.array(names.number, np.int64)[clusters.label[inside]]
    # 3.
    test = kept_apart(sample.user, seed)
    judged = _judged(sample.steps[inside], number, test[inside], seed, rules=False)
    rules = _judged(sample.steps, sample.rule.astype(np.int64), test, seed, rules=True)
    chosen = classifier or max(CLASSIFIERS, key=lambda name: float(judged[name]["f1"]))
    # 4.
    figures = {
        "method": method,
        "users": len(log.users),
        "steps": len(sample.steps),
        **clusters.figures,
        "segments": _segments(clusters, names),
        "classifier": chosen,
        "classifiers": judged,
        "rules": {
            "share": {one.name.lower(): float((sample.rule == one).mean()) for one in Segment},
            "classifiers": rules,
        },
    }
    said = {
        "names": dict(zip(map(str, names.number), names.name, strict=True)),
        "centres": dict(zip(map(str, names.number), clusters.centre.round(6).tolist(), strict=True)),
        "centre_features": list(USED),
        "numbers_used": max([*names.number, int(previous["numbers_used"]) if previous else 0]),
        "method": method,
        "classifier": chosen,
        "figures": figures,
    }
    data = exported(fitted(chosen, sample.steps[inside], number, seed), sample.steps[inside], said)
    load_segmenter(data)
    return Made(data, figures, sample, clusters, names)


def _judged(
    steps: NDArray[np.uint8], label: NDArray[np.int64], test: NDArray[np.bool_], seed: int, *, rules: bool
) -> dict[str, dict[str, float]]:
    """Figures of each classifier; empty where one side lacks users or there is one segment only."""
    train = label[~test]
    if not test.any() or len(np.unique(train)) < 2:
        return {name: {"accuracy": 0.0, "f1": 0.0, "majority": 0.0} for name in CLASSIFIERS} if not rules else {}
    return {
        name: judge(fitted(name, steps[~test], train, seed, rules=rules), steps[test], label[test], train)._asdict()
        for name in CLASSIFIERS
    }


def _segments(clusters: Clusters, names: Named) -> list[dict[str, Any]]:
    share = np.bincount(clusters.label[clusters.label >= 0], minlength=len(names.number)) / len(clusters.label)
    return [
        {
            "number": names.number[at],
            "name": names.name[at],
            "known": names.same[at],
            "share": float(share[at]),
            "centre": dict(zip(USED, clusters.centre[at].round(3).tolist(), strict=True)),
        }
        for at in np.argsort(names.number).tolist()
    ]


def previous_of(path: Path) -> dict[str, Any]:
    """The metadata of an earlier file.

    Raises:
        TrainingError: it is no file of segments, or of other features.
        OSError: it cannot be read.
    """
    try:
        found = load_segmenter(path.read_bytes()).metadata
    except ModelRefused as refused:
        raise TrainingError(f"{path}: {refused.text}") from refused
    if found["centre_features"] != list(USED):
        theirs = json.dumps(found["centre_features"])
        raise TrainingError(f"{path}: learned from {theirs}; this version learns from {json.dumps(USED)}")
    return dict(found)
