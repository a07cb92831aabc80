"""The simulated shop's customers and products: who they are, drawn from a seed, and what no producer ever publishes."""

from bisect import bisect
from itertools import accumulate
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.kafka.codec import Customer
from stream.shop import calibration as c

DAY_MS = 86_400_000
N_CATEGORIES = 200
PRODUCTS_PER_CATEGORY = 25
N_BRANDS = 120
SHIFTED = 1 << 40
"""Added to the seed for what customers become."""


class LatentType(NamedTuple):
    """What a customer is like and the shop cannot see."""

    name: str
    share: float
    buys: float
    """How much likelier than the average customer to buy, whatever the shop does."""
    responds: float
    """Chance that 10 % off, once noticed, brings a purchase that would not have been."""
    watches: float
    """How much likelier than the average customer to put things into the cart and among the favourites."""


TYPES = (
    LatentType("loyal", 0.12, 2.3, 0.02, 0.7),  # sure things: a discount is a gift to them
    LatentType("regular", 0.38, 1.1, 0.08, 0.7),
    LatentType("bargain hunter", 0.20, 0.8, 0.30, 2.4),  # they keep an eye on things, and the discount decides
    LatentType("browser", 0.30, 0.35, 0.01, 0.6),  # nothing makes them buy
)
"""Assumed, so that purchases spread over customers as Taobao's do (BUYERS_9D, BUYS_9D_VARIANCE_TO_MEAN)."""


def quantile(draw: float, table: tuple[int, ...]) -> float:
    """The value at `draw` in [0, 1) of a distribution known by its quantiles."""
    i = bisect(c.QUANTILES, draw) - 1
    low, high = c.QUANTILES[i], c.QUANTILES[i + 1]
    return table[i] + (table[i + 1] - table[i]) * (draw - low) / (high - low)


def stream_of(seed: int, *place: int) -> Random:
    """Random draws that belong to one place of the simulation, whatever was drawn elsewhere.

    Only `.random()` is used of it: the one method whose values Python promises to keep.
    """
    number = seed
    for part in place:
        number = (number << 64) | part
    return Random(number)


class Population:
    """Customers 0 to n - 1."""

    def __init__(self, seed: int, n: int) -> None:
        draws = _uniform(seed, n)
        bounds = np.cumsum([t.share for t in TYPES])
        self.seed = seed
        self.n = n
        self.type = np.minimum(np.searchsorted(bounds, draws[0], side="right"), len(TYPES) - 1)
        visits = np.interp(draws[1], c.QUANTILES, c.VISITS_9D)
        self.visits_per_day = float(visits.sum()) / 9
        self._visits_until = np.cumsum(visits).tolist()
        self._profile = draws[2:]

    def shift(self, share: float) -> None:
        """From now on that share of the customers is like somebody drawn anew: what they do, how they respond."""
        draws = _uniform(self.seed + SHIFTED, self.n)
        bounds = np.cumsum([t.share for t in TYPES])
        anew = np.minimum(np.searchsorted(bounds, draws[1], side="right"), len(TYPES) - 1)
        self.type[:] = np.where(draws[0] < share, anew, self.type)

    def id(self, customer: int) -> str:
        """What the shop calls a customer."""
        return f"c{customer:07d}"

    def number(self, id_: str) -> int | None:
        """The customer whom the shop calls that; None if nobody."""
        number = int(id_[1:]) if id_[:1] == "c" and id_[1:].isdecimal() else self.n
        return number if number < self.n else None

    def latent(self, customer: int) -> LatentType:
        """What the shop does not know."""
        return TYPES[self.type[customer]]

    def visitor(self, draw: float) -> int:
        """Who comes next: customers come as often as Taobao's."""
        return min(bisect(self._visits_until, draw * self._visits_until[-1]), self.n - 1)

    def profile(self, customer: int, time_ms: int) -> Customer:
        """What the shop's customer service publishes of a customer."""
        consent, objection, tier, registered, birthday = (float(d[customer]) for d in self._profile)
        year_day = int(birthday * 365)
        return Customer(
            event_id=f"customer-{customer}",
            user_id=self.id(customer),
            time_ms=time_ms,
            registered_ms=time_ms - int((1 - (1 - registered) ** 2) * 1500) * DAY_MS,
            birthday=f"{year_day // 31 + 1:02d}-{year_day % 31 % 28 + 1:02d}",
            tier=("basic", "silver", "gold", "platinum")[bisect((0.7, 0.9, 0.98), tier)],
            consent=True if consent < c.CONSENTS else False if consent < c.CONSENTS + c.REFUSES else None,
            objection=True if objection < c.OBJECTS else None,
        )


def _uniform(seed: int, n: int) -> NDArray[np.float64]:
    """[7, n] in [0, 1). The raw bits of a generator are kept by numpy over versions, its distributions are not."""
    raw = np.random.Philox(key=seed).random_raw(7 * n).reshape(7, n)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Product(NamedTuple):
    """What is for sale."""

    id: str
    category: str
    brand: str
    price_minor: int
    cost_minor: int


class Catalogue:
    """Products in categories; popular categories are the first ones (Zipf)."""

    def __init__(self, seed: int) -> None:
        draws = stream_of(seed, 1)
        self._category_until = list(accumulate(1 / (i + 1) for i in range(N_CATEGORIES)))
        self.products = []
        for category in range(N_CATEGORIES):
            for i in range(PRODUCTS_PER_CATEGORY):
                price_minor = max(round(quantile(draws.random(), c.PRICE_MINOR)), 1)
                self.products.append(
                    Product(
                        f"p{category:03d}-{i:02d}",
                        f"k{category:03d}",
                        f"b{int(draws.random() * N_BRANDS):03d}",
                        price_minor,
                        round(price_minor * (1 - c.MARGIN)),
                    )
                )

    def category(self, draw: float) -> int:
        """A category, popular ones more often."""
        return min(bisect(self._category_until, draw * self._category_until[-1]), N_CATEGORIES - 1)

    def product(self, category: int, draw: float) -> Product:
        """A product of a category, its first ones more often."""
        return self.products[category * PRODUCTS_PER_CATEGORY + int(draw * draw * PRODUCTS_PER_CATEGORY)]
