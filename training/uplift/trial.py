"""Randomised trials: who was given what by chance, and what came of it. Known file formats, each with its money."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.tables import Reals, Table, read_table

Arms = NDArray[np.int64]
"""[N], 0 is none, a is `Trial.arms[a]`."""


@dataclass(frozen=True)
class Trial:
    """What a trial's file says, one entry a customer."""

    format: str
    features: dict[str, Reals | tuple[str, ...]]
    """Numbers or text, [N] each."""
    arms: tuple[str, ...]
    """Names; the first is the arm of those who got nothing."""
    propensity: tuple[float, ...]
    """By design, an arm each."""
    cost: tuple[float, ...]
    """Of giving one customer the arm, in money."""
    arm: Arms
    outcome: NDArray[np.bool_]
    """[N], what is learned: it must be frequent enough to learn from."""
    outcome_name: str
    revenue: Reals
    """[N], what is judged, in money, before cost."""
    value_per_outcome: float | None
    """Revenue of one outcome where the trial fixes it; None: it is to be estimated from the training rows."""

    def __len__(self) -> int:
        return len(self.arm)

    def take(self, rows: NDArray[np.int64]) -> "Trial":
        """Some of its customers, [M] places."""
        features: dict[str, Reals | tuple[str, ...]] = {
            name: column[rows] if isinstance(column, np.ndarray) else tuple(column[row] for row in rows.tolist())
            for name, column in self.features.items()
        }
        return Trial(
            self.format,
            features,
            self.arms,
            self.propensity,
            self.cost,
            self.arm[rows],
            self.outcome[rows],
            self.outcome_name,
            self.revenue[rows],
            self.value_per_outcome,
        )

    def check(self, name: str) -> None:
        """Refuse a trial that nothing can be learned from or judged by.

        Raises:
            TrainingError: an arm has nobody or nobody with the outcome.
        """
        for number, arm in enumerate(self.arms):
            of_arm = self.arm == number
            if not of_arm.any():
                raise TrainingError(f"{name}: nobody is in the arm {arm!r}; effects need every arm of {self.arms}")
            if not self.outcome[of_arm].any():
                raise TrainingError(f"{name}: nobody in the arm {arm!r} has the outcome {self.outcome_name!r}")


def read_trial(path: str, format_: str) -> Trial:
    """A trial's file.

    Args:
        path: CSV with a header, plain or .gz; `-` is standard input.
        format_: a name in TRIALS.

    Raises:
        TrainingError: the format is not known, the file is not of it, or an arm has nobody.
    """
    if format_ not in TRIALS:
        raise TrainingError(f"--format {format_}: known are {', '.join(TRIALS)}")
    columns, read = TRIALS[format_]
    table = read_table(path, columns)
    trial = read(table)
    trial.check(table.name)
    return trial


_HILLSTROM_ARMS = ("No E-Mail", "Mens E-Mail", "Womens E-Mail")
_HILLSTROM_TEXT = ("history_segment", "mens", "womens", "zip_code", "newbie", "channel")


def _hillstrom(table: Table) -> Trial:
    """MineThatData's e-mail challenge (Hillstrom, 2008): thirds at random. A mail's cost is not told: it counts as 0.

    Visits are learned (one in seven customers), for fewer than one in a hundred spends anything.
    """
    number = {name: place for place, name in enumerate(_HILLSTROM_ARMS)}
    features: dict[str, Reals | tuple[str, ...]] = {
        "recency": table.numbers("recency"),
        "history": table.numbers("history", least=0),
    }
    features |= {name: table.text(name) for name in _HILLSTROM_TEXT}
    return Trial(
        format="hillstrom",
        features=features,
        arms=("none", "mens", "womens"),
        propensity=(1 / 3, 1 / 3, 1 / 3),
        cost=(0.0, 0.0, 0.0),
        arm=np.array([number[name] for name in table.text("segment", _HILLSTROM_ARMS)], np.int64),
        outcome=table.flags("visit"),
        outcome_name="visit",
        revenue=table.numbers("spend", least=0),
        value_per_outcome=None,
    )


STARBUCKS_VALUE = 10.0
STARBUCKS_COST = 0.15
_STARBUCKS_TEXT = ("V1", "V4", "V5", "V6", "V7")


def _starbucks(table: Table) -> Trial:
    """Starbucks' take-home trial (as in Udacity's data scientist course): halves at random; money as told with it."""
    features: dict[str, Reals | tuple[str, ...]] = {name: table.numbers(name) for name in ("V2", "V3")}
    for name in _STARBUCKS_TEXT:  # codes; "2" and "2.0" are one
        features[name] = tuple(f"{code:g}" for code in table.numbers(name).tolist())
    purchase = table.flags("purchase")
    return Trial(
        format="starbucks",
        features=features,
        arms=("none", "promotion"),
        propensity=(0.5, 0.5),
        cost=(0.0, STARBUCKS_COST),
        arm=table.flags("Promotion", "No", "Yes").astype(np.int64),
        outcome=purchase,
        outcome_name="purchase",
        revenue=STARBUCKS_VALUE * purchase.astype(np.float64),
        value_per_outcome=STARBUCKS_VALUE,
    )


TRIALS: dict[str, tuple[tuple[str, ...], Callable[[Table], Trial]]] = {
    "hillstrom": (("recency", "history", *_HILLSTROM_TEXT, "segment", "visit", "spend"), _hillstrom),
    "starbucks": (("Promotion", "purchase", "V2", "V3", *_STARBUCKS_TEXT), _starbucks),
}
"""By name: the columns that the file must have, and how they are read."""
