"""The uplift model: one learned effect an arm, a way from outcomes to money, and the rule whom to give what."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from training.tables import Reals
from training.uplift.learners import LEARNERS, Base, Encoder, Fitted, bases, encoder
from training.uplift.trial import Arms, Trial

FOLDS = 5
"""Of the cross-validation that chooses."""


class Candidate(NamedTuple):
    """A way to learn, judged by cross-validation on the training rows."""

    learner: str
    base: str
    gain: float
    """Money a customer gained over giving nobody anything, out of fold."""
    gain_se: float
    """Its standard error."""


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
    learner: str
    base: str
    effects: tuple[Fitted, ...]
    """An arm besides none each."""
    seed: int

    def uplift(self, trial: Trial) -> Reals:
        """Predicted change in the outcome's probability, [N, A - 1]."""
        x = self.encoder.encode(trial.features)
        return np.column_stack([effect.uplift(x) for effect in self.effects])

    def decide(self, uplift: Reals) -> tuple[Arms, Reals]:
        """The best arm besides none of each customer, and what it is predicted to gain, in money after cost.

        Whoever gains nothing is given nothing: the threshold is 0 money, fixed before any row is judged.
        """
        gain = self.value_per_outcome * uplift - np.array(self.cost[1:])
        best = gain.argmax(axis=1)
        return best + 1, gain[np.arange(len(gain)), best]


def fit(trial: Trial, seed: int) -> tuple[UpliftModel, list[Candidate]]:
    """Choose a learner by cross-validation on these rows, and fit it on all of them.

    Returns:
        The model, and every candidate, best first.
    """
    value = value_per_outcome(trial)
    known = encoder(trial.features)
    n_numbers = known.n_numbers
    x = known.encode(trial.features)
    candidates = sorted(_judged(trial, x, n_numbers, value, seed), key=lambda one: -one.gain)
    best = candidates[0]
    effects = _effects(best.learner, bases(seed)[best.base], trial, x, n_numbers, np.arange(len(trial)))
    gains = [0.0] + [policy_gain(trial, np.full(len(trial), arm), value).mean() for arm in range(1, len(trial.arms))]
    model = UpliftModel(
        format=trial.format,
        arms=trial.arms,
        propensity=trial.propensity,
        cost=trial.cost,
        outcome_name=trial.outcome_name,
        value_per_outcome=value,
        everybody=trial.arms[1 + int(np.argmax(gains[1:]))],
        encoder=known,
        learner=best.learner,
        base=best.base,
        effects=effects,
        seed=seed,
    )
    return model, candidates


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


def _judged(trial: Trial, x: NDArray[np.float64], n_numbers: int, value: float, seed: int) -> list[Candidate]:
    """Every candidate on the same folds."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    stratum = 2 * trial.arm + trial.outcome
    parts = list(folds.split(x, stratum))
    cost = np.array(trial.cost[1:])
    found = []
    for base_name, base in bases(seed).items():
        for learner in LEARNERS:
            gain = np.empty((len(trial), len(cost)))
            for rows, left_out in parts:
                effects = _effects(learner, base, trial, x, n_numbers, rows)
                gain[left_out] = value * np.column_stack([e.uplift(x[left_out]) for e in effects]) - cost
            chosen = np.where(gain.max(axis=1) > 0, 1 + gain.argmax(axis=1), 0)
            earned = policy_gain(trial, chosen, value)
            found.append(
                Candidate(learner, base_name, float(earned.mean()), float(earned.std() / np.sqrt(len(earned))))
            )
    return found


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
