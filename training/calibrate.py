"""Scores as probabilities: Platt's scaling, folded into the head so that the graph stays as it is.

Platt, "Probabilistic outputs for support vector machines" (1999): score = sigmoid(slope * logit + shift), both fitted
on users that the network was not trained on. A network that is too sure of itself gets a slope below 1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SLOPE_MIN, SLOPE_MAX = 0.1, 2.0
"""Few users may say anything about a slope: the order of scores is kept, and they are not blown up."""

_PRIOR = 10.0  # users' worth of belief that the network is right as it is
_NEWTON_STEPS = 25


class Scaling(NamedTuple):
    """Score = sigmoid(slope * logit + shift)."""

    slope: float
    shift: float


def scaling(logit: NDArray[np.float64], label: NDArray[np.bool_], n_users: int) -> Scaling:
    """The scaling with the least log loss, by Newton's method, within the bounds of the slope.

    A user's decision points say much the same, so all of them together count as much as `n_users` independent ones:
    taken for independent, those of 50 users shifted scores by 0.7 where other users did not ask for it.

    Args:
        logit: [N], of the network.
        label: [N].
        n_users: whose decision points these are.
    """
    weight = n_users / len(label)
    features = np.stack([logit, np.ones_like(logit)], axis=1)
    prior = np.array([1.0, 0.0])
    found = prior.copy()
    for _ in range(_NEWTON_STEPS):
        score = _sigmoid(features @ found)
        gradient = weight * (features.T @ (score - label)) + _PRIOR * (found - prior)
        curvature = weight * ((features * (score * (1 - score))[:, None]).T @ features) + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found -= step / max(1.0, float(np.abs(step).max()))  # far from the solution, whole steps may overshoot
    slope = float(np.clip(found[0], SLOPE_MIN, SLOPE_MAX))
    return Scaling(slope, float(found[1]) if slope == found[0] else _shift(slope * logit, label, weight))


def _shift(logit: NDArray[np.float64], label: NDArray[np.bool_], weight: float) -> float:
    """The shift alone, for a given slope."""
    shift = 0.0
    for _ in range(_NEWTON_STEPS):
        score = _sigmoid(logit + shift)
        gradient = weight * float((score - label).sum()) + _PRIOR * shift
        shift -= gradient / (weight * float((score * (1 - score)).sum()) + _PRIOR)
    return shift


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
