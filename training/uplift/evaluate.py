"""How good an uplift model is on rows that it has not seen: curves on the outcome, and the money of its decisions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.metrics import Figure, interval
from training.tables import Reals
from training.uplift.curves import NORMALISATION, Ranked, auuc, qini, uplift_at
from training.uplift.model import UpliftModel
from training.uplift.trial import Arms, Trial

REPLICATES = 500
"""Bootstrap samples behind each interval."""

Measure = Callable[[Reals], float]
"""A figure under how often each customer counts, [N]."""

SEED = 20_260_101
"""Of the bootstrap: the same rows always get the same interval."""


@dataclass(frozen=True)
class Predicted:
    """What models that have not seen a customer say of each, [N]."""

    best: Arms
    """The arm besides none that is predicted to gain most."""
    gain: Reals
    """Money that it is predicted to gain, after its cost; who gains nothing is given nothing."""
    score: Reals
    """What curves rank by: the gain, or its rank where customers were predicted by several models."""

    @property
    def chosen(self) -> Arms:
        """0 where nothing is given."""
        return np.where(self.gain > 0, self.best, 0)


def predict(model: UpliftModel, trial: Trial) -> Predicted:
    """Of one model.

    Raises:
        TrainingError: the model was made from another format.
    """
    if model.format != trial.format:
        raise TrainingError(f"the model was made from the format {model.format}, the file is read as {trial.format}")
    best, gain = model.decide(model.uplift(trial))
    return Predicted(best, gain, gain)


def evaluate(trial: Trial, predicted: Predicted, everybody: str) -> dict[str, Any]:
    """All figures with their 95 % intervals (bootstrap over customers), ready to be written as JSON.

    Curves compare, for each customer, the arm that the model finds best with none: who was given another arm is left
    out there. With one arm besides none, that is everybody.

    Args:
        trial: rows not seen by what predicted.
        predicted: for these rows.
        everybody: the arm of the rival policy that gives it to all.
    """
    compared = (trial.arm == predicted.best) | (trial.arm == 0)
    ranked = Ranked.of(predicted.score[compared], trial.arm[compared] > 0, trial.outcome[compared])
    mine, nobody = Policy(trial, predicted.chosen), Policy(trial, np.zeros(len(trial), np.int64))
    rivals = {
        "none": nobody,
        **{f"everybody_{arm}": Policy(trial, np.full(len(trial), 1 + at)) for at, arm in enumerate(trial.arms[1:])},
    }
    rival = rivals[f"everybody_{everybody}"]
    measures: dict[str, Measure] = {
        "qini": lambda w: qini(ranked, w[compared]),
        "auuc": lambda w: auuc(ranked, w[compared]),
        "uplift_at_10": lambda w: uplift_at(ranked, 0.1, w[compared]),
        "uplift_at_30": lambda w: uplift_at(ranked, 0.3, w[compared]),
        "policy_value": mine.value,
        "net_incremental_revenue": mine.net,
        "over_none": lambda w: mine.value(w) - nobody.value(w),
        "over_everybody": lambda w: mine.value(w) - rival.value(w),
        **{f"{name} value": one.value for name, one in rivals.items()},
        **{f"{name} net": one.net for name, one in rivals.items()},
        **{f"{arm} outcome": difference(trial, 1 + at, trial.outcome) for at, arm in enumerate(trial.arms[1:])},
        **{f"{arm} revenue": difference(trial, 1 + at, trial.revenue) for at, arm in enumerate(trial.arms[1:])},
    }
    figures = {name: figure.said() for name, figure in bootstrap(measures, len(trial)).items()}
    return {
        "format": trial.format,
        "customers": len(trial),
        "outcome": trial.outcome_name,
        "normalisation": NORMALISATION,
        **{name: figures[name] for name in ("qini", "auuc", "uplift_at_10", "uplift_at_30")},
        **{name: figures[name] for name in ("policy_value", "net_incremental_revenue", "over_none")},
        "over_everybody": {"arm": everybody, **figures["over_everybody"]},
        "promoted_share": float((predicted.chosen > 0).mean()),
        "rivals": {
            name: {"policy_value": figures[f"{name} value"], "net_incremental_revenue": figures[f"{name} net"]}
            for name in rivals
        },
        "effect_of_arms": {
            arm: {trial.outcome_name: figures[f"{arm} outcome"], "revenue": figures[f"{arm} revenue"]}
            for arm in trial.arms[1:]
        },
    }


def bootstrap(measures: dict[str, Measure], customers: int) -> dict[str, Figure]:
    """Each measure on all customers, with the interval over the same drawn samples of them."""
    rng = np.random.default_rng(SEED)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(REPLICATES):
        weight = np.bincount(rng.integers(0, customers, customers), minlength=customers).astype(np.float64)
        for name, measure in measures.items():
            drawn[name].append(measure(weight))
    once = np.ones(customers)
    return {name: interval(measure(once), np.array(drawn[name])) for name, measure in measures.items()}


class Policy:
    """A choice for each customer, and its money under weights."""

    def __init__(self, trial: Trial, chosen: Arms) -> None:
        propensity, cost = np.array(trial.propensity), np.array(trial.cost)
        money = trial.revenue - cost[trial.arm]
        # Self-normalised inverse propensities: customers who were given, by chance, what the policy chooses.
        self._weight = (trial.arm == chosen) / propensity[chosen]
        self._weighted = self._weight * money
        # Given minus not given, those not given scaled to the design's size of the other group.
        scale = propensity[chosen] / propensity[0]
        side = np.where(trial.arm == chosen, 1.0, np.where(trial.arm == 0, -scale, 0.0))
        self._net = np.where(chosen > 0, side * money, 0.0)

    def value(self, weight: Reals) -> float:
        """Revenue minus cost, a customer, if it decided on everybody."""
        total = float(weight @ self._weight)
        return float(weight @ self._weighted) / total if total > 0 else float("nan")

    def net(self, weight: Reals) -> float:
        """Net incremental revenue, summed over those whom it promotes and who were given that arm or nothing."""
        return float(weight @ self._net)


def difference(trial: Trial, arm: int, of: NDArray[np.bool_] | Reals) -> Measure:
    """What the arm changes in the mean of `of`, [N], against none."""
    groups = [(trial.arm == one).astype(np.float64) for one in (arm, 0)]
    sums = [group * of for group in groups]

    def measure(weight: Reals) -> float:
        n_given, n_none = (float(weight @ group) for group in groups)
        if not n_given or not n_none:
            return float("nan")
        return float(weight @ sums[0]) / n_given - float(weight @ sums[1]) / n_none

    return measure
