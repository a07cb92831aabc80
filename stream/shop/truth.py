"""What only the simulation knows: how its customers respond. For the oracle, and for judging; never for learning."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.events import KINDS_OF_SOURCE
from stream.core.response import Asked
from stream.shop import calibration as c
from stream.shop.coupons import Coupons
from stream.shop.population import TYPES, Population
from stream.shop.simulate import Shop

Floats = NDArray[np.float64]
DAY_MS = 86_400_000

_DEPTHS, _MOVES = c.DEPTH_RESPONSE


@dataclass(frozen=True, slots=True)
class TrueForecast:
    """The expected response of n customers whose type is known."""

    basket: Floats
    buys_unprompted: Floats
    responds: Floats

    def _won(self, depth: Floats) -> Floats:
        """P(an offer of that depth brings a purchase that would not have been), [n, arms]."""
        moves = np.interp(depth, _DEPTHS, _MOVES)
        chance = np.minimum(self.responds[:, None] * moves, 1)
        return np.where(depth > 0, c.NOTICES * (1 - self.buys_unprompted[:, None]) * chance, 0)

    def buys(self, depth: Floats) -> Floats:
        """As `stream.core.response.Expected`."""
        return self.buys_unprompted[:, None] + self._won(depth)

    def redeems(self, depth: Floats) -> Floats:
        """As `stream.core.response.Expected`: who notices and would buy uses the offer too."""
        return np.where(depth > 0, c.NOTICES * self.buys_unprompted[:, None] + self._won(depth), 0)


class Oracle:
    """Knows each customer's type, and how often its like buy; not what they have planned, nor any draw."""

    def __init__(self, population: Population, user_hashes: NDArray[np.uint64], unprompted: Floats) -> None:
        """Know a population.

        Args:
            population: its customers.
            user_hashes: [customers], as events carry them.
            unprompted: [types, kinds], P(purchase within the horizon without an offer | an event of that kind).
        """
        self._order = np.argsort(user_hashes)
        self._hashes = user_hashes[self._order]
        self._type = population.type
        self.unprompted = unprompted
        self.responds = np.array([t.responds for t in TYPES])

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> TrueForecast:
        """As `stream.core.response.Responds`."""
        customer = self._order[np.searchsorted(self._hashes, triggers.event("user")[at])]
        of_type = self._type[customer]
        return TrueForecast(
            basket_of(triggers.event("price_minor")[at]),
            self.unprompted[of_type, triggers.event("kind")[at]],
            self.responds[of_type],
        )

    def earns_minor(self, events: Events, depth: Floats) -> float:
        """What offers of that depth on these events earn on average: margin of what is won, less what is taken off."""
        told = self.forecast(_Given(events), np.arange(len(events)))
        of_depth = depth[:, None]
        won = (told.buys(of_depth) - told.buys_unprompted[:, None])[:, 0]
        used = told.redeems(of_depth)[:, 0]
        return float((told.basket * (won * c.MARGIN - used * depth)).sum())


class _Given(NamedTuple):
    """Events as the oracle looks at them."""

    events: Events

    def event(self, field: str) -> NDArray[Any]:
        return self.events[field]

    def fact(self, name: str) -> Floats:
        raise KeyError(name)


_MEAN_PRICE = float(np.mean(c.PRICE_MINOR))


def basket_of(price_minor: NDArray[Any]) -> Floats:
    """What a purchase would come to, of the price of what is looked at, 0 = not given."""
    return np.where(price_minor > 0, price_minor, _MEAN_PRICE).astype(np.float64)


def unprompted(seed: int, customers: int, days: int, horizon_ms: int) -> Floats:
    """P(purchase within the horizon without an offer), [types, kinds of event], counted in a shop of its own."""
    shop = Shop(seed, customers, 0, Coupons("EUR"))
    kinds = KINDS_OF_SOURCE["clickstream"]
    events: Counter[tuple[int, int]] = Counter()
    followed: Counter[tuple[int, int]] = Counter()
    waiting: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for source, value in shop.until(days * DAY_MS):
        if source == "clickstream":
            kind = int(kinds[value.kind])
            customer = shop.population.number(value.user_id)
            of_type = int(shop.population.type[customer or 0])
            events[of_type, kind] += 1
            waiting[value.user_id].append((value.time_ms, kind))
        elif source == "orders" and value.kind == "placed":
            customer = shop.population.number(value.user_id)
            of_type = int(shop.population.type[customer or 0])
            for time_ms, kind in waiting.pop(value.user_id, ()):
                followed[of_type, kind] += value.time_ms - time_ms <= horizon_ms
    table = np.zeros((len(TYPES), 20))
    for (of_type, kind), n in events.items():
        table[of_type, kind] = followed[of_type, kind] / n
    return table
