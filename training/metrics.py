"""How good scores are: figures of the field, in numpy, computed from labels and scores alone."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_CLIP = 1e-7  # a score of exactly 0 or 1 that is wrong would cost an infinite loss


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


def quality(label: NDArray[np.bool_], score: NDArray[np.float32], expected_rate: float) -> Quality:
    """All of them.

    Args:
        label: [N], both outcomes must occur.
        score: [N], probabilities.
        expected_rate: what one would say of everybody who knew the training users only.
    """
    base = log_loss(label, np.full(len(label), expected_rate))
    return Quality(auc(label, score), log_loss(label, score), brier(label, score), float(label.mean()), base)


def auc(label: NDArray[np.bool_], score: NDArray[np.floating]) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann and Whitney, 1947)."""
    order = np.argsort(score, kind="stable")
    _, first, count = np.unique(score[order], return_index=True, return_counts=True)
    rank = np.repeat(first + (count + 1) / 2, count)  # from 1; tied scores share the mean of their ranks
    positives = int(label.sum())
    negatives = len(label) - positives
    above = float(rank[label[order]].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def log_loss(label: NDArray[np.bool_], score: NDArray[np.floating]) -> float:
    """Mean negative log-likelihood, in nats."""
    p = np.clip(score.astype(np.float64), _CLIP, 1 - _CLIP)
    return float(-np.log(np.where(label, p, 1 - p)).mean())


def brier(label: NDArray[np.bool_], score: NDArray[np.floating]) -> float:
    """Mean squared error of the probability."""
    return float(np.square(score.astype(np.float64) - label).mean())
