"""A model that answers for every arm: what it is trained on, and how it is judged.

Only decisions whose arm was drawn count, with the inverse of the probability of what was drawn: an arm that a policy
chose says as much about the policy's choice as about the arm. They are joined with the steps by user and sequence
number; the label is an order after the decision's event, as for every step.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from training.dataset import Dataset
from training.errors import TrainingError
from training.metrics import auc, log_loss
from training.ope.logs import NOT_DECIDED
from training.records import Decision

CLIP_WEIGHT = 20.0
"""Of a decision, relative to the mean, where what was drawn was improbable."""

_UNMATCHED_MAX = 0.05
"""Share of decisions without their step: more than this, and events are missing or in another order."""


class Arms(NamedTuple):
    """What a model is to answer for."""

    campaign: str
    names: tuple[str, ...]
    """In order of depth, "none" first."""
    decisions: list[Decision]


def with_arms(dataset: Dataset, arms: Arms) -> Dataset:
    """The data set with `shown` [N, A]: the weight of each randomised decision in the column of its arm, else 0.

    Raises:
        TrainingError: no randomised decisions; an arm that is not among the names; decisions that are not those of
            these events.
    """
    used = [
        one
        for one in arms.decisions
        if one.campaign_id == arms.campaign and not one.holdout and one.reason not in NOT_DECIDED and one.propensity < 1
    ]
    if not used:
        known = ", ".join(sorted({one.campaign_id for one in arms.decisions if one.campaign_id})) or "none"
        text = f"the campaign {arms.campaign!r} has no decision whose arm was drawn (propensity below 1); campaigns: "
        raise TrainingError(text + known)
    unknown = sorted({name for one in used for name in (one.arm, *one.eligible)} - set(arms.names))
    if unknown:
        text = f"{arms.campaign} has arms that --arms does not name: {', '.join(unknown)}; name all, in order of depth"
        raise TrainingError(text)
    at = _steps_of(dataset, used)
    found = at >= 0
    if found.mean() < 1 - _UNMATCHED_MAX:
        text = f"{int((~found).sum())} of {len(used)} decisions of {arms.campaign} have no step with their number and "
        raise TrainingError(text + "content: these are not the events that they were made on, or some are missing")
    weight = 1 / np.array([max(one.propensity, 1e-6) for one in used])
    weight = np.minimum(weight / weight.mean(), CLIP_WEIGHT)
    number = {name: column for column, name in enumerate(arms.names)}
    column = np.array([number[one.arm] for one in used])
    shown = np.zeros((len(dataset.steps), len(arms.names)), np.float32)
    shown[at[found], column[found]] = weight[found]
    return dataset._replace(shown=shown)


def require_arms(train: Dataset, names: Sequence[str]) -> None:
    """There is something to learn of each arm.

    Raises:
        TrainingError: an arm was never drawn for the training users, or always or never followed by an order.
    """
    for name, of_arm in zip(names, train.shown.T, strict=True):
        labels = train.label[train.known & (of_arm > 0)]
        if not labels.any() or labels.all():
            text = f"the arm {name!r} was drawn {len(labels)} times for training users, {int(labels.sum())} of "
            raise TrainingError(text + "them with an order to come: both outcomes are needed of every arm")


def _steps_of(dataset: Dataset, decisions: Sequence[Decision]) -> NDArray[np.int64]:
    """Place of each decision's step, -1 where it is not there; [len(decisions)]."""
    user = np.array([xxh3_64_intdigest(one.user_id.encode()) for one in decisions], np.uint64)
    order = np.argsort(dataset.user)
    slot = order[np.minimum(np.searchsorted(dataset.user, user, sorter=order), len(order) - 1)]
    at = dataset.starts[slot] + np.array([one.row_seq for one in decisions]) - 1
    there = (dataset.user[slot] == user) & (at >= dataset.starts[slot]) & (at < dataset.starts[slot + 1])
    same = [
        bool(ok) and one.step == dataset.steps[place].tobytes().hex()
        for ok, place, one in zip(there, at.tolist(), decisions, strict=True)
    ]
    return np.where(same, at, -1)


def answered(dataset: Dataset, scores: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """(label, score of the arm that was shown) of the decision points that count; with one arm, all of them.

    Args:
        dataset: N steps.
        scores: [N, A].
    """
    at = np.flatnonzero(dataset.known & (dataset.shown > 0).any(axis=1))
    return dataset.label[at], scores[at, dataset.shown[at].argmax(axis=1)]


def by_arm(dataset: Dataset, scores: NDArray[np.float32], names: Sequence[str]) -> dict[str, Any]:
    """Of each arm, over the decisions that drew it: how many, how many bought, what was said of it.

    `mean_score_all` is over the decisions of all arms: how much the model says that this arm does.
    """
    judged = dataset.known & (dataset.shown > 0).any(axis=1)
    said = {}
    for column, name in enumerate(names):
        drawn = dataset.known & (dataset.shown[:, column] > 0)
        label, score = dataset.label[drawn], scores[drawn, column]
        said[name] = {
            "decisions": int(drawn.sum()),
            "rate": float(label.mean()) if len(label) else None,
            "mean_score": float(score.mean()) if len(label) else None,
            "mean_score_all": float(scores[judged, column].mean()) if judged.any() else None,
            "auc": auc(label, score) if label.any() and not label.all() else None,
            "log_loss": log_loss(label, score) if len(label) else None,
        }
    return said
