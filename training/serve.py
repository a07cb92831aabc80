"""What a worker would score: the artefact itself, stepped over whole histories with the state that a row keeps."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.row import N_STEPS
from stream.scoring.model import Model
from training.dataset import Dataset


def carried(model: Model, dataset: Dataset) -> NDArray[np.float32]:
    """Scores with the state carried since each user's first event, rounded after every step; float32 [N, A]."""
    starts = dataset.starts[:-1]
    lengths = np.diff(dataset.starts)
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[longest_first], lengths[longest_first]
    memory = model.fresh(len(starts))
    scores = np.empty((len(dataset.steps), len(model.metadata.arms)), np.float32)
    for turn in range(int(lengths[0])):
        n = int(np.searchsorted(-lengths, -turn, side="left"))  # users with more than `turn` steps: the first n
        at = starts[:n] + turn
        scores[at] = model.advance(dataset.steps[at], memory[:n])
    return scores


def rebuilt(model: Model, dataset: Dataset, at: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores of chosen steps as after a change of model: from zero over the last N_STEPS, the step itself included.

    Args:
        model: the model.
        dataset: whose steps.
        at: [n], places in `dataset.steps`.
    """
    first = dataset.starts[np.searchsorted(dataset.starts, at, side="right") - 1]
    memory = model.fresh(len(at))
    scores = np.empty((len(at), len(model.metadata.arms)), np.float32)
    for ago in range(N_STEPS - 1, -1, -1):
        held = np.flatnonzero(at - ago >= first)
        if len(held):
            after = memory[held]
            scores[held] = model.advance(dataset.steps[at[held] - ago], after)
            memory[held] = after
    return scores


class Agreement(NamedTuple):
    """How far scores after a rebuild are from carried ones, over steps that have more history than a ring holds."""

    steps: int
    median: float
    p99: float
    max: float


def agreement(model: Model, dataset: Dataset, scores: NDArray[np.float32], at_most: int = 5_000) -> Agreement | None:
    """Compare on steps spread evenly over those with a longer history; None where there is none.

    Args:
        model: the model.
        dataset: whose steps.
        scores: `carried(model, dataset)`.
        at_most: steps to look at.
    """
    place = np.arange(len(dataset.steps)) - np.repeat(dataset.starts[:-1], np.diff(dataset.starts))
    long = np.flatnonzero(place >= N_STEPS)
    if not len(long):
        return None
    at = long[:: -(-len(long) // at_most)]
    difference = np.abs(rebuilt(model, dataset, at) - scores[at]).max(axis=1)
    median, p99 = np.quantile(difference, [0.5, 0.99]).tolist()
    return Agreement(len(at), median, p99, float(difference.max()))
