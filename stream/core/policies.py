"""Policies: which arm, and how deep, for triggers that a campaign may serve. All of these are deterministic."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.campaign import BySegment, Frequency, Linear, Policy, Threshold
from stream.core.events import Kind
from stream.core.facts import Triggers

NONE = -1
"""The arm "none"."""


class Choice(NamedTuple):
    """What a policy chose."""

    arm: NDArray[np.int16]
    """[n], index into the campaign's arms, or NONE."""
    depth_bp: NDArray[np.int32] | None
    """[n], where the policy sets the depth; None = the arm's own."""


def needs_score(policy: Policy) -> bool:
    """Whether the policy cannot choose without a model's score."""
    return isinstance(policy, Threshold | Linear)


def choose(policy: Policy, score: NDArray[np.float32], triggers: Triggers, at: NDArray[np.int64]) -> Choice:
    """Ask a policy.

    Args:
        policy: of one campaign.
        score: [n], P(purchase) without an offer; NaN = not known, for which a policy that needs it chooses "none".
        triggers: the triggers, of which
        at: [n] are asked about.
    """
    match policy:
        case Threshold():
            # In float64: a threshold of 0.3 means 0.3, not the float32 next to it.
            return _one_arm(score.astype(np.float64) > policy.probability, policy.arm)
        case Frequency():
            return _one_arm(triggers.count(policy.window, Kind.ORDER_PLACED)[at] > policy.more_than, policy.arm)
        case Linear():
            depth = np.clip(
                score.astype(np.float64) * policy.slope + policy.intercept, policy.depth_min, policy.depth_max
            )
            depth_bp = np.rint(np.nan_to_num(depth) * 10_000).astype(np.int32)
            return _one_arm((depth_bp > 0) & (score == score), policy.arm)._replace(depth_bp=depth_bp)  # noqa: PLR0124 (NaN)
        case BySegment():
            return Choice(np.array(policy.arms, np.int16)[triggers.segments()[at]], None)


def _one_arm(chosen: NDArray[np.bool_], arm: int) -> Choice:
    return Choice(np.where(chosen, np.int16(arm), np.int16(NONE)), None)
