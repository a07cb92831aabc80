"""The uplift model: one learned effect an arm, a way from outcomes to money, and the rule whom to give what."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from training.tables import Reals
from training.uplift.learners import LEARNERS, Base, Encoder, Fitted, bases, encoder
from training.uplift.trial import Arms, Trial

FOLDS = 5
"""Of the cross-validation that chooses."""


SLOPE_MAX = 2.0
"""Of a calibration: shrunk predictions are stretched, but not at will."""


class Candidate(NamedTuple):
    """A way to learn, judged by cross-validation on the training rows."""

    learner: str
    base: str
    gain: float
    """Money a customer gained over giving nobody anything, out of fold."""
    gain_se: float
    """Its standard error."""


class Scale(NamedTuple):
    """From a learner's prediction to what came of it out of fold: shrinkage and excess are put right."""

    intercept: float
    slope: float


@dataclass(frozen=True)
class Part:
    """A learner fitted for each arm besides none, with the calibration of each."""

    learner: str
    base: str
    effects: tuple[Fitted, ...]
    scales: tuple[Scale, ...]

    def uplift(self, x: NDArray[np.float64]) -> Reals:
        """Calibrated, [N, A - 1]."""
        pairs = zip(self.effects, self.scales, strict=True)
        return np.column_stack([scale.intercept + scale.slope * effect.uplift(x) for effect, scale in pairs])


@dataclass(frozen=True)
class UpliftModel:
    """Predicts, for each arm besides none, what giving it changes."""

    format: str
    arms: tuple[str, ...]
    propensity: tuple[float, ...]
    cost: tuple[float, ...]
    outcome_name: str
    value_per_outcome: float
    """Revenue of one outcome, from the training rows where the trial does not fix it."""
    everybody: str
    """The arm that gained most in training, given to everybody: the rival of any rule."""
    encoder: Encoder
    parts: tuple[Part, ...]
    """Averaged: the best in cross-validation and those that it cannot tell from the best."""
    seed: int

    def uplift(self, trial: Trial) -> Reals:
        """Predicted change in the outcome's probability, [N, A - 1]."""
        x = self.encoder.encode(trial.features)
        found: Reals = np.mean([part.uplift(x) for part in self.parts], axis=0)
        return found

    def decide(self, uplift: Reals) -> tuple[Arms, Reals]:
        """The best arm besides none of each customer, and what it is predicted to gain, in money after cost.

        Whoever gains nothing is given nothing: the threshold is 0 money, fixed before any row is judged.
        """
        gain = self.value_per_outcome * uplift - np.array(self.cost[1:])
        best = gain.argmax(axis=1)
        return best + 1, gain[np.arange(len(gain)), best]


class _Tried(NamedTuple):
    """A candidate, and what made it one."""

    candidate: Candidate
    earned: Reals
    """[N], `policy_gain` of its decisions out of fold."""
    scales: tuple[Scale, ...]


def fit(trial: Trial, seed: int) -> tuple[UpliftModel, list[Candidate]]:
    """Choose learners by cross-validation on these rows, and fit them on all of them.

    1. Each learner on each base predicts every row out of fold.
    2. Predictions are calibrated: the line through what came of them.
    3. The best is the one whose decisions gained most money; whoever is within one standard error of the difference
       is as good as far as the rows can tell, and the average of those varies less than any of them.

    Returns:
        The model, and every candidate, best first.
    """
    # One thread: the data are small, and threads that wait for each other cost ten times as much on a busy machine.
    with threadpool_limits(1):
        return _fit(trial, seed)


def _fit(trial: Trial, seed: int) -> tuple[UpliftModel, list[Candidate]]:
    value = value_per_outcome(trial)
    known = encoder(trial.features)
    n_numbers = known.n_numbers
    x = known.encode(trial.features)
    tried = sorted(_tried(trial, x, n_numbers, value, seed), key=lambda one: -one.candidate.gain)
    everyone = np.arange(len(trial))
    parts = tuple(
        Part(
            one.candidate.learner,
            one.candidate.base,
            _effects(one.candidate.learner, bases(seed)[one.candidate.base], trial, x, n_numbers, everyone),
            one.scales,
        )
        for one in as_good_as_best(tried)
    )
    gains = [float(policy_gain(trial, np.full(len(trial), arm), value).mean()) for arm in range(1, len(trial.arms))]
    model = UpliftModel(
        format=trial.format,
        arms=trial.arms,
        propensity=trial.propensity,
        cost=trial.cost,
        outcome_name=trial.outcome_name,
        value_per_outcome=value,
        everybody=trial.arms[1 + int(np.argmax(gains))],
        encoder=known,
        parts=parts,
        seed=seed,
    )
    return model, [one.candidate for one in tried]


def as_good_as_best(tried: "list[_Tried]") -> "list[_Tried]":
    """The first, and those whose gain is below its by at most one standard error of the difference."""
    best = tried[0].earned
    differences = [best - one.earned for one in tried]
    return [one for one, d in zip(tried, differences, strict=True) if d.mean() <= d.std() / np.sqrt(len(d))]


def value_per_outcome(trial: Trial) -> float:
    """Revenue that one more outcome brings: as the trial says, else the arms' effect on revenue over that on outcomes.

    Pooled over arms, for revenue is rare and a ratio of each would be mostly noise. It cannot be negative.
    """
    if trial.value_per_outcome is not None:
        return trial.value_per_outcome
    none = trial.arm == 0
    revenue = outcomes = 0.0
    for arm in range(1, len(trial.arms)):
        given = trial.arm == arm
        revenue += float(trial.revenue[given].mean() - trial.revenue[none].mean())
        outcomes += float(trial.outcome[given].mean() - trial.outcome[none].mean())
    return max(revenue / outcomes, 0.0) if outcomes > 0 else 0.0


def policy_gain(trial: Trial, chosen: Arms, value: float) -> Reals:
    """What a policy gains over giving nobody anything, [N], whose mean is money a customer (inverse propensity).

    Args:
        trial: with the arms that were given.
        chosen: [N], the policy's.
        value: of an outcome; outcomes, not revenue, are what choices between models are made by.
    """
    money = value * trial.outcome - np.array(trial.cost)[trial.arm]
    weight = (trial.arm == chosen) / np.array(trial.propensity)[chosen]
    baseline = (trial.arm == 0) / trial.propensity[0]
    gain: Reals = np.where(chosen > 0, weight - baseline, 0.0) * money
    return gain


def _tried(trial: Trial, x: NDArray[np.float64], n_numbers: int, value: float, seed: int) -> list[_Tried]:
    """Every candidate on the same folds."""
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, 2 * trial.arm + trial.outcome))
    cost = np.array(trial.cost[1:])
    found = []
    for base_name, base in bases(seed).items():
        for learner in LEARNERS:
            uplift = np.empty((len(trial), len(cost)))
            for rows, left_out in folds:
                effects = _effects(learner, base, trial, x, n_numbers, rows)
                uplift[left_out] = np.column_stack([effect.uplift(x[left_out]) for effect in effects])
            scales = tuple(calibration(trial, 1 + number, uplift[:, number]) for number in range(len(cost)))
            line = np.array(scales)
            gain = value * (line[:, 0] + line[:, 1] * uplift) - cost
            earned = policy_gain(trial, np.where(gain.max(axis=1) > 0, 1 + gain.argmax(axis=1), 0), value)
            error = float(earned.std() / np.sqrt(len(earned)))
            found.append(_Tried(Candidate(learner, base_name, float(earned.mean()), error), earned, scales))
    return found


def calibration(trial: Trial, arm: int, uplift: Reals) -> Scale:
    """The least-squares line from predictions out of fold to the outcomes of a trial.

    An outcome counts 1 / propensity where the arm was given and minus that where none was, so that its mean is the
    uplift (Athey and Imbens, 2016).

    Args:
        trial: whose customers were predicted.
        arm: against none; customers of other arms are left out.
        uplift: [N].
    """
    rows = (trial.arm == arm) | (trial.arm == 0)
    share = trial.propensity[arm] / (trial.propensity[arm] + trial.propensity[0])
    weight = np.where(trial.arm[rows] == arm, 1 / share, -1 / (1 - share))
    y, u = trial.outcome[rows] * weight, uplift[rows]
    spread = float(u.var())
    slope = float(np.clip(np.mean((u - u.mean()) * y) / spread, 0.0, SLOPE_MAX)) if spread > 0 else 0.0
    return Scale(float(y.mean() - slope * u.mean()), slope)


def _effects(
    learner: str, base: Base, trial: Trial, x: NDArray[np.float64], n_numbers: int, rows: NDArray[np.int64]
) -> tuple[Fitted, ...]:
    """One an arm besides none, each against none, on some rows."""
    found = []
    for arm in range(1, len(trial.arms)):
        of = rows[(trial.arm[rows] == arm) | (trial.arm[rows] == 0)]
        given = trial.arm[of] == arm
        share = trial.propensity[arm] / (trial.propensity[arm] + trial.propensity[0])
        found.append(LEARNERS[learner](base, x[of], given, trial.outcome[of], share, n_numbers))
    return tuple(found)
