"""What only the simulation knows: how its customers respond. For the oracle, and for judging; never for learning."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.events import KINDS_OF_SOURCE, Kind
from stream.core.response import Asked
from stream.kafka.codec import Click, Order
from stream.shop import calibration as c
from stream.shop.coupons import Coupons
from stream.shop.population import TYPES, Population
from stream.shop.simulate import Shop

Floats = NDArray[np.float64]
DAY_MS = 86_400_000

_DEPTHS, _MOVES = c.DEPTH_RESPONSE
N_KINDS = max(Kind) + 1
OTHER_PRICES = 20


class Habits(NamedTuple):
    """What customers do whom nobody offers anything, by the kind of the event that would trigger an offer."""

    unprompted: Floats
    """[types, kinds], P(purchase within the horizon after an offer would come)."""
    bought_shown: Floats
    """[kinds]: of such purchases, the share that is of what triggered."""
    looked_on: Floats
    """[kinds]: how often something else has been looked at by the time an offer would come."""
    other_minor: Floats
    """[m]: equally likely prices of what else is looked at."""


@dataclass(frozen=True, slots=True)
class TrueForecast:
    """The expected response of n customers whose type is known.

    An offer comes when the customer may look at something else already: it is that which they then buy, and the offer
    takes off no more than it would have taken off what triggered. `buys` and `redeems` count a purchase, and a use, as
    much as it is worth in terms of `basket`, so that the profit policy's sums of money are exact.
    """

    price: Floats
    unprompted: Floats
    responds: Floats
    bought_shown: Floats
    looked_on: Floats
    other: Floats
    """[m]: as in `Habits`."""

    @property
    def basket(self) -> Floats:
        """As `stream.core.response.Expected`, of those who are won over."""
        return (1 - self.looked_on) * self.price + self.looked_on * float(self.other.mean())

    @property
    def buys_unprompted(self) -> Floats:
        """As `stream.core.response.Expected`."""
        return self.unprompted

    def money(self, depth: Floats) -> tuple[Floats, Floats]:
        """Of offers of each depth: (list price of what they sell in addition, what they take off), both [n, arms]."""
        price, on = self.price[:, None], self.looked_on[:, None]
        off = depth * price
        off_other = np.minimum(depth[..., None] * self.other, off[..., None])  # [n, arms, m]
        moves_other = np.interp(off_other / self.other, _DEPTHS, _MOVES)
        moves = np.interp(depth, _DEPTHS, _MOVES)
        chance = c.NOTICES * (1 - self.unprompted[:, None]) * self.responds[:, None]
        sells = chance * ((1 - on) * moves * price + on * (moves_other * self.other).mean(axis=2))
        shown = self.bought_shown[:, None]
        used_anyway = c.NOTICES * self.unprompted[:, None] * (shown * off + (1 - shown) * off_other.mean(axis=2))
        takes_off = chance * ((1 - on) * moves * off + on * (moves_other * off_other).mean(axis=2)) + used_anyway
        return sells, takes_off

    def buys(self, depth: Floats) -> Floats:
        """As `stream.core.response.Expected`."""
        return self.unprompted[:, None] + self.money(depth)[0] / self.basket[:, None]

    def redeems(self, depth: Floats) -> Floats:
        """As `stream.core.response.Expected`: who notices and would buy uses the offer too."""
        return self.money(depth)[1] / np.maximum(depth * self.basket[:, None], 1e-9)


class Oracle:
    """Knows each customer's type, and how often its like buy; not what they have planned, nor any draw."""

    def __init__(self, population: Population, user_hashes: NDArray[np.uint64], habits: Habits) -> None:
        """Know a population.

        Args:
            population: its customers.
            user_hashes: [customers], as events carry them.
            habits: of their like.
        """
        self._order = np.argsort(user_hashes)
        self._hashes = user_hashes[self._order]
        self._type = population.type
        self.habits = habits
        self.responds = np.array([t.responds for t in TYPES])

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> TrueForecast:
        """As `stream.core.response.Responds`."""
        customer = self._order[np.searchsorted(self._hashes, triggers.event("user")[at])]
        return self.of_type(triggers, at, self._type[customer])

    def of_type(self, triggers: Asked, at: NDArray[np.int64], types: NDArray[np.int64]) -> TrueForecast:
        """What customers of these types [n] would do."""
        kind, habits = triggers.event("kind")[at], self.habits
        return TrueForecast(
            price_of(triggers.event("price_minor")[at]),
            habits.unprompted[types, kind],
            self.responds[types],
            habits.bought_shown[kind],
            habits.looked_on[kind],
            habits.other_minor,
        )

    def earns_minor(self, events: Events, depth: Floats) -> float:
        """What offers of that depth on these events earn on average: margin of what is won, less what is taken off.

        Returns and cancellations are taken off both.
        """
        sells, takes_off = self.forecast(_Given(events), np.arange(len(events))).money(depth[:, None])
        return float((sells * c.MARGIN - takes_off).sum()) * (1 - c.RETURNS - c.CANCELS)


class _Given(NamedTuple):
    """Events as the oracle looks at them."""

    events: Events

    def event(self, field: str) -> NDArray[Any]:
        return self.events[field]

    def fact(self, name: str) -> Floats:
        raise KeyError(name)


_MEAN_PRICE = float(np.mean(c.PRICE_MINOR))


def price_of(price_minor: NDArray[Any]) -> Floats:
    """The price of what triggered; the mean where it is not given."""
    return np.where(price_minor > 0, price_minor, _MEAN_PRICE).astype(np.float64)


def observed(seed: int, customers: int, days: int, horizon_ms: int, step_ms: int) -> Habits:
    """Habits, counted in a shop of its own where offers would come at the end of each step of time."""
    shop = Shop(seed, customers, 0, Coupons("EUR"))
    kinds = KINDS_OF_SOURCE["clickstream"]
    n, followed = np.zeros((len(TYPES), N_KINDS)), np.zeros((len(TYPES), N_KINDS))
    shown, on, about = np.zeros(N_KINDS), np.zeros(N_KINDS), np.zeros(N_KINDS)
    other: list[int] = []
    waiting: dict[str, list[tuple[int, int, str]]] = defaultdict(list)  # user -> when the offer came, kind, product
    for end_ms in range(step_ms, days * DAY_MS + 1, step_ms):
        triggers = []
        for source, value in shop.until(end_ms):
            if isinstance(value, Click) and value.product_id is not None:
                triggers.append((value.user_id, int(kinds[value.kind]), value.product_id))
            elif source == "orders" and isinstance(value, Order) and value.kind == "placed" and value.lines:
                of_type = shop.population.type[shop.population.number(value.user_id) or 0]
                for came_ms, kind, product in waiting.pop(value.user_id, ()):
                    if value.time_ms <= came_ms + horizon_ms:
                        followed[of_type, kind] += 1
                        shown[kind] += product == value.lines[0].product_id
        for user, kind, product in triggers:
            customer = shop.population.number(user) or 0
            n[shop.population.type[customer], kind] += 1
            waiting[user].append((end_ms, kind, product))
            last = shop.looked_at_last(customer)
            about[kind] += 1
            if last is not None and last.id != product:
                on[kind] += 1
                other.append(last.price_minor)
    places = (np.arange(OTHER_PRICES) + 0.5) / OTHER_PRICES
    return Habits(
        followed / np.maximum(n, 1),
        shown / np.maximum(followed.sum(axis=0), 1),
        on / np.maximum(about, 1),
        np.quantile(np.array(other or [round(_MEAN_PRICE)], float), places),
    )
