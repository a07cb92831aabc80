"""A shop in which some customers provoke offers: they leave what they would buy in the cart, and come back for less.

Whoever plays does not buy when about to: the thing goes into the cart, and an hour or more later they look again, with
an eye on offers, and buy, with the offer if one came, else at full price. Who was not rewarded `GIVES_UP_AFTER` times
in a row plays no more. Their orders would have been placed anyway: an offer that they use costs its discount and
causes nothing.
"""

from collections import Counter
from collections.abc import Iterator

from stream.shop.coupons import Coupons
from stream.shop.population import Product, stream_of
from stream.shop.simulate import HOUR_MS, Published, Shop
from stream.shop.visits import BUY, Step, Visit

GIVES_UP_AFTER = 3
LOOKS_FOR_MS = 10 * 60_000
"""How long they watch out for an offer when they are back."""

FIRST_NUMBER = 10**9
"""Of their second visits: others are drawn by their numbers, which stay what they are."""

_GAMERS, _RETURNS = 5, 6  # streams of draws, beside those of `Shop`


class GamingShop(Shop):
    """A shop where a share of the customers plays; see the module."""

    def __init__(self, seed: int, customers: int, start_ms: int, coupons: Coupons, share: float) -> None:
        """As `Shop`; `share` of the customers plays, whatever their type."""
        super().__init__(seed, customers, start_ms, coupons)
        self.plays = [stream_of(seed, _GAMERS, customer).random() < share for customer in range(customers)]
        self._back: set[int] = set()
        """Customers who are back and watch out for an offer."""
        self._returns = 0
        self._in_vain: Counter[int] = Counter()

    def _notices(self, customer: int) -> float:
        return 1.0 if customer in self._back else super()._notices(customer)

    def _buy(self, visit: Visit, product: Product, now_ms: int) -> Iterator[Published]:
        customer = visit.customer
        if customer in self._back:
            self._back.discard(customer)
            known = self._noticed.get(customer, [])
            rewarded = self.coupons.best(known, product.price_minor, now_ms) is not None
            self._in_vain[customer] = 0 if rewarded else self._in_vain[customer] + 1
        elif self.plays[customer] and self._in_vain[customer] < GIVES_UP_AFTER:
            yield self._click(visit, now_ms, "cart_add", product=product, quantity=1)
            self._come_back_later(customer, product, now_ms + HOUR_MS + int(visit.draws.random() * HOUR_MS))
            return
        yield from super()._buy(visit, product, now_ms)

    def _come_back_later(self, customer: int, product: Product, at_ms: int) -> None:
        self._at(at_ms, lambda time_ms: self._come_back(customer, product, time_ms))

    def _come_back(self, customer: int, product: Product, now_ms: int) -> Iterator[Published]:
        if customer in self._inside:
            self._come_back_later(customer, product, now_ms + HOUR_MS)
            return
        self._returns += 1
        draws = stream_of(self._seed, _RETURNS, self._returns)
        visit = Visit(FIRST_NUMBER + self._returns, customer, draws, [Step(BUY, 0)])
        visit.seen.append(product)
        self._inside[customer] = visit
        self._back.add(customer)
        yield self._click(visit, now_ms, "product_view", product=product)
        self._at(now_ms + LOOKS_FOR_MS, lambda time_ms: self._step(visit, time_ms))
