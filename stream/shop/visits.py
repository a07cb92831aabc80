"""Visits: what a customer will do, left to themselves, planned when they come."""

from bisect import bisect
from itertools import accumulate
from random import Random
from typing import NamedTuple

from stream.shop import calibration as c
from stream.shop.population import TYPES, Population, Product, quantile

CART, BUY = 1, 3
"""Places in the calibration's order of kinds."""

VISIT_EVENTS_MEAN = sum(c.KIND_COUNTS) / sum(c.FIRST_KINDS)
"""Of the four kinds; searches, pages and checkouts come on top."""


class Step(NamedTuple):
    """What a visitor will do: the place in the calibration's order of kinds, and how long after the step before."""

    kind: int
    gap_ms: int


class Visit:
    """One customer's way through the shop, planned when it begins."""

    def __init__(self, number: int, customer: int, draws: Random, steps: list[Step]) -> None:
        self.number = number
        self.customer = customer
        self.draws = draws
        self.steps = steps
        self.done = 0
        self.events = 0
        self.category = -1
        self.seen: list[Product] = []

    @property
    def will_buy(self) -> bool:
        """Whether a purchase is still to come."""
        return any(step.kind == BUY for step in self.steps[self.done :])


def plan_visit(number: int, customer: int, population: Population, draws: Random) -> Visit:
    """What a customer will do in a visit, left to themselves: steps in number, order and gaps like Taobao's."""
    first, following = _KINDS_OF_TYPE[population.latent(customer)]
    length = max(int(quantile(draws.random(), c.SESSION_EVENTS) + 0.5), 1)
    steps = [Step(bisect(first, draws.random() * first[-1], hi=BUY), 0)]
    while len(steps) < length:
        until = following[steps[-1].kind]
        kind = bisect(until, draws.random() * until[-1], hi=BUY)
        steps.append(Step(kind, int(quantile(draws.random(), c.GAP_S) * 1000)))
    return Visit(number, customer, draws, steps)


def _kinds_until(counts: tuple[int, ...], watches: float, buys: float) -> tuple[float, ...]:
    """Sums up to each kind, of kinds as often as counted, but for carts and favourites, and purchases, so much more."""
    view, cart, favourite, buy = counts
    return tuple(accumulate((view, cart * watches, favourite * watches, buy * buys)))


# How often another purchase follows one is left as counted: the types differ in how often they begin to buy.
_KINDS_OF_TYPE = {
    t: (
        _kinds_until(c.FIRST_KINDS, t.watches, t.buys),
        tuple(
            _kinds_until(c.NEXT_KINDS[kind], t.watches if kind == 0 else 1.0, 1.0 if kind == BUY else t.buys)
            for kind in range(BUY + 1)
        ),
    )
    for t in TYPES
}
