"""What the simulated shop earns, by customer: what an analyst can compare, and what only a simulation knows."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple


class Sale(NamedTuple):
    """An order, in minor units."""

    user_id: str
    time_ms: int
    price_minor: int
    cost_minor: int
    discount_minor: int
    caused: bool
    """It would not have been without an offer: the simulation knows, a shop would not."""

    @property
    def margin_minor(self) -> int:
        """What is left of it."""
        return self.price_minor - self.discount_minor - self.cost_minor


@dataclass(frozen=True)
class Comparison:
    """Margin of the customers who were offered something, against that of those who were held out."""

    offered: int
    held_out: int
    offered_mean_minor: float
    held_out_mean_minor: float
    error_minor: float
    """Standard error of the difference of the means."""

    @property
    def earned_minor(self) -> float:
        """What the offers earned: difference of the means times the customers offered; 0 without both groups."""
        if not self.offered or not self.held_out:
            return 0.0
        return (self.offered_mean_minor - self.held_out_mean_minor) * self.offered

    @property
    def earned_error_minor(self) -> float:
        """Its standard error."""
        return self.error_minor * self.offered


class Ledger:
    """Every sale that was not undone, and who came into which group when."""

    def __init__(self) -> None:
        self.orders = 0
        self.margin_minor = 0
        self.discount_minor = 0
        self.caused_minor = 0
        """What the offers truly earned: margin of the orders that they caused, less what they took off the others."""
        self._margin: dict[str, int] = {}
        self._groups: dict[str, dict[str, tuple[bool, int]]] = {}
        """By campaign and customer: held out, and their margin when they came into the group."""

    def sold(self, sale: Sale) -> None:
        """Enter a sale."""
        self._enter(sale, 1)

    def undone(self, sale: Sale) -> None:
        """Take a sale out again: cancelled or returned."""
        self._enter(sale, -1)

    def _enter(self, sale: Sale, sign: int) -> None:
        self.orders += sign
        self.margin_minor += sign * sale.margin_minor
        self.discount_minor += sign * sale.discount_minor
        self.caused_minor += sign * (sale.margin_minor if sale.caused else -sale.discount_minor)
        self._margin[sale.user_id] = self._margin.get(sale.user_id, 0) + sign * sale.margin_minor

    def decided(self, campaign: str, user_id: str, *, held_out: bool) -> None:
        """A campaign chose an arm for a customer: from the first time on, their margin counts in their group."""
        group = self._groups.setdefault(campaign, {})
        if user_id not in group:
            group[user_id] = (held_out, self._margin.get(user_id, 0))

    def compare(self) -> dict[str, Comparison]:
        """By campaign, the groups as they stand."""
        return {campaign: self._compare(group) for campaign, group in sorted(self._groups.items())}

    def earned(self) -> dict[str, Any]:
        """What the offers earned: by each campaign's holdout, as an analyst sees it, and as only a simulation knows."""
        groups = self.compare()
        return {
            "by_holdout_minor": round(sum(g.earned_minor for g in groups.values())),
            "by_holdout_error_minor": round(sum(g.earned_error_minor**2 for g in groups.values()) ** 0.5),
            "true_minor": self.caused_minor,
            "by_campaign": {
                name: {
                    "offered_customers": g.offered,
                    "held_out_customers": g.held_out,
                    "offered_mean_minor": round(g.offered_mean_minor, 2),
                    "held_out_mean_minor": round(g.held_out_mean_minor, 2),
                    "error_minor": round(g.error_minor, 2),
                }
                for name, g in groups.items()
            },
        }

    def _compare(self, group: dict[str, tuple[bool, int]]) -> Comparison:
        margins: tuple[list[int], list[int]] = ([], [])
        for user_id, (held_out, before_minor) in group.items():
            margins[held_out].append(self._margin.get(user_id, 0) - before_minor)
        (mean, error), (mean_held, error_held) = _mean(margins[0]), _mean(margins[1])
        return Comparison(len(margins[0]), len(margins[1]), mean, mean_held, sqrt(error**2 + error_held**2))


def _mean(values: Iterable[int]) -> tuple[float, float]:
    """Mean and its standard error."""
    numbers = list(values)
    n = len(numbers)
    if n < 2:
        return (float(sum(numbers)), 0.0)
    mean = sum(numbers) / n
    return mean, sqrt(sum((x - mean) ** 2 for x in numbers) / (n - 1) / n)
