"""The simulated shop: customers who come, browse, buy, and react to offers, as events in the order of time.

Seeded: the same seed, number of customers and start give the same events. Each visit and each reaction draws from a
stream of its own, so an offer changes what its customer does and nothing else: what a run with offers and one without
differ in is what the offers did. Nor does it matter who made an offer: two policies that offer something to the same
customer at the same moment meet the same mood.
"""

import heapq
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import log
from random import Random
from typing import Literal, NamedTuple

import msgspec

from stream.kafka.codec import Click, ClickKind, Feedback, Order, OrderLine
from stream.shop import calibration as c
from stream.shop.coupons import Coupons, Offer
from stream.shop.fields import SourceValue
from stream.shop.ledger import Ledger, Sale
from stream.shop.population import DAY_MS, Catalogue, Population, Product, quantile, stream_of
from stream.shop.visits import BUY, CART, Visit, plan_visit

HOUR_MS = 3_600_000
SEEN_REMEMBERED = 20
"""Products of earlier visits that a customer may come back to."""

VISITOR_DRAWS_MAX = 8
"""Where all of so many drawn customers are in the shop already, nobody comes."""

CLICK_KINDS: tuple[ClickKind, ...] = ("product_view", "cart_add", "favourite")
_VISITS, _OFFERS, _ARRIVALS = 2, 3, 4  # streams of draws; 1 is the catalogue's

_BUSIEST_HOUR = max(c.HOUR_EVENTS) * 24 / sum(c.HOUR_EVENTS)
_HOUR_SHARES = tuple(n / max(c.HOUR_EVENTS) for n in c.HOUR_EVENTS)


class Published(NamedTuple):
    """An event that the shop publishes; its time is the value's `time_ms`."""

    source: str
    value: SourceValue


Action = Callable[[int], Iterable[Published]]


class Shop:
    """Customers, and what they will do next."""

    def __init__(self, seed: int, customers: int, start_ms: int, coupons: Coupons) -> None:
        """Open the shop; customers come as often as Taobao's, by the hour of the day (UTC).

        Args:
            seed: of everything that is drawn, from 0.
            customers: how many there are.
            start_ms: when the first one may come.
            coupons: the coupon service.
        """
        self.population = Population(seed, customers)
        self.coupons = coupons
        self.ledger = Ledger()
        self._catalogue = Catalogue(seed)
        self._seed = seed
        self._start_ms = start_ms
        self._visits_per_s = 0.0
        self._due: list[tuple[int, int, Action]] = []
        self._actions = self._visits = self._orders = 0
        self._inside: dict[int, Visit] = {}
        self._seen: dict[int, deque[Product]] = {}
        self._noticed: dict[int, list[str]] = {}
        self._arrivals = stream_of(seed, _ARRIVALS)
        self._doors = 0
        self._at(self._next_arrival(start_ms), self._arrivals_by(0))

    def open_doors(self, visits_per_s: float, now_ms: int) -> None:
        """From now on somebody comes as often as that, at any hour."""
        self._visits_per_s = visits_per_s
        self._doors += 1
        self._at(self._next_arrival(now_ms), self._arrivals_by(self._doors))

    def profiles(self) -> Iterator[Published]:
        """Every customer's record, as the shop's customer service publishes it."""
        for customer in range(self.population.n):
            yield Published("customers", self.population.profile(customer, self._start_ms))

    @property
    def next_ms(self) -> int:
        """When something happens next."""
        return self._due[0][0]

    def looked_at_last(self, customer: int) -> Product | None:
        """What an offer would be about for them now."""
        seen = self._seen.get(customer)
        return seen[-1] if seen else None

    def until(self, end_ms: int) -> Iterator[Published]:
        """What is published before `end_ms`, in the order of time."""
        while self._due[0][0] < end_ms:
            time_ms, _, action = heapq.heappop(self._due)
            yield from action(time_ms)

    def offer(self, value: bytes | None, now_ms: int) -> Iterator[Published]:
        """A value of topic offers has come: what the coupon service says at once. The customer reacts later."""
        taken = self.coupons.take(value, now_ms)
        if taken is None:
            return
        offer, issued = taken
        yield Published("redemptions", issued)
        self._at(max(offer.valid_until_ms, now_ms), lambda time_ms: self._expire(offer, time_ms))
        customer = self.population.number(offer.user_id)
        if customer is None:  # somebody else's customer
            return
        draws = stream_of(self._seed, _OFFERS, customer, offer.trigger.time_ms)
        if draws.random() < self._notices(customer):
            self._at(now_ms + 2_000 + int(draws.random() * 10_000), lambda t: self._notice(customer, offer, draws, t))

    def _notices(self, customer: int) -> float:  # noqa: ARG002  some shops' customers differ in it
        return c.NOTICES

    # --- visits

    def _at(self, time_ms: int, action: Action) -> None:
        self._actions += 1
        heapq.heappush(self._due, (time_ms, self._actions, action))

    def _next_arrival(self, now_ms: int) -> int:
        rate = self._visits_per_s or self.population.visits_per_day / 86_400 * _BUSIEST_HOUR
        return now_ms + int(-log(1 - self._arrivals.random()) / rate * 1000)

    def _arrivals_by(self, doors: int) -> Action:
        """Arrivals that go on until the doors are opened in another way."""

        def arrive(now_ms: int) -> Iterable[Published]:
            if doors != self._doors:
                return ()
            self._at(self._next_arrival(now_ms), arrive)
            return self._arrive(now_ms)

        return arrive

    def _arrive(self, now_ms: int) -> Iterable[Published]:
        quiet = self._arrivals.random() >= _HOUR_SHARES[now_ms // HOUR_MS % 24]
        if quiet and not self._visits_per_s:
            return ()
        customer = self._visitor()
        if customer is None:
            return ()
        self._visits += 1
        visit = plan_visit(self._visits, customer, self.population, stream_of(self._seed, _VISITS, self._visits))
        self._inside[customer] = visit
        self._at(now_ms, lambda time_ms: self._step(visit, time_ms))
        return self._open(visit, now_ms)

    def _visitor(self) -> int | None:
        for _ in range(VISITOR_DRAWS_MAX):
            customer = self.population.visitor(self._arrivals.random())
            if customer not in self._inside:
                return customer
        return None

    def _open(self, visit: Visit, now_ms: int) -> Iterator[Published]:
        draws = visit.draws
        if draws.random() < c.OPENS_WITH_PAGE:
            yield self._click(visit, now_ms, "page_view", page="/", referrer="https://search.example/")
        if draws.random() < c.OPENS_WITH_SEARCH:
            visit.category = self._catalogue.category(draws.random())
            found = 0 if draws.random() < c.SEARCH_FINDS_NOTHING else 1 + int(draws.random() * 400)
            yield self._click(visit, now_ms, "search", keywords=[f"k{visit.category:03d}"], result_count=found)

    def _step(self, visit: Visit, now_ms: int) -> Iterator[Published]:
        kind = visit.steps[visit.done].kind
        visit.done += 1
        last = visit.done == len(visit.steps)
        gap_ms = 0 if last else visit.steps[visit.done].gap_ms
        product = self._product(visit, kind)
        if kind == BUY:
            yield from self._buy(visit, product, now_ms)
        else:
            yield self._click(
                visit,
                now_ms,
                CLICK_KINDS[kind],
                product=product,
                quantity=1 if kind == CART else None,
                dwell_ms=gap_ms if kind == 0 and gap_ms else None,
            )
            if kind == CART and visit.draws.random() < c.CHECKOUT_ABANDONED:
                yield self._click(visit, now_ms, "checkout_start")
        if last:
            del self._inside[visit.customer]
        else:
            self._at(now_ms + gap_ms, lambda time_ms: self._step(visit, time_ms))

    def _buy(self, visit: Visit, product: Product, now_ms: int) -> Iterator[Published]:
        if visit.draws.random() < c.CHECKOUT_BEFORE_ORDER:
            yield self._click(visit, now_ms, "checkout_start")
        yield from self._order(visit.customer, product, visit.draws, now_ms, visit=visit)

    def _product(self, visit: Visit, kind: int) -> Product:
        """What a step is about; where it comes to be seen, it is remembered."""
        draws = visit.draws
        draw = draws.random()
        before = self._seen.setdefault(visit.customer, deque(maxlen=SEEN_REMEMBERED))
        if kind == BUY and visit.seen and draw < c.BOUGHT_SEEN_IN_SESSION:
            return visit.seen[int(draws.random() * len(visit.seen))]
        if kind == BUY and before and draw < c.BOUGHT_SEEN_BEFORE:
            return before[int(draws.random() * len(before))]
        if kind == CART and visit.seen:
            return visit.seen[-1]
        if visit.category < 0 or draws.random() >= c.SAME_CATEGORY:
            visit.category = self._catalogue.category(draws.random())
        product = self._catalogue.product(visit.category, draws.random())
        visit.seen.append(product)
        before.append(product)
        return product

    def _click(
        self,
        visit: Visit,
        now_ms: int,
        kind: ClickKind,
        *,
        product: Product | None = None,
        quantity: int | None = None,
        dwell_ms: int | None = None,
        page: str | None = None,
        referrer: str | None = None,
        keywords: list[str] | None = None,
        result_count: int | None = None,
    ) -> Published:
        visit.events += 1
        click = Click(
            event_id=f"v{visit.number}-{visit.events}",
            user_id=self.population.id(visit.customer),
            time_ms=now_ms,
            kind=kind,
            session_id=f"v{visit.number}",
            quantity=quantity,
            dwell_ms=dwell_ms,
            page=page,
            referrer=referrer,
            keywords=keywords,
            result_count=result_count,
        )
        if product:
            click.product_id, click.category_id, click.brand = product.id, product.category, product.brand
            click.price_minor, click.currency = product.price_minor, self.coupons.currency
        return Published("clickstream", click)

    # --- orders

    def _order(
        self,
        customer: int,
        product: Product,
        draws: Random,
        now_ms: int,
        *,
        visit: Visit | None = None,
        because_of: Offer | None = None,
    ) -> Iterator[Published]:
        self._orders += 1
        order_id = f"o{self._orders}"
        noticed = [because_of.offer_id] if because_of else self._noticed.get(customer, [])
        offer = self.coupons.best(noticed, product.price_minor, now_ms)
        discount_minor = offer.discount_minor(product.price_minor) if offer else 0
        line = OrderLine(
            product_id=product.id,
            category_id=product.category,
            brand=product.brand,
            quantity=1,
            unit_price_minor=product.price_minor,
            unit_cost_minor=product.cost_minor,
        )
        placed = Order(
            event_id=f"{order_id}-placed",
            user_id=self.population.id(customer),
            time_ms=now_ms,
            kind="placed",
            order_id=order_id,
            lines=[line],
            total_minor=product.price_minor - discount_minor,
            discount_minor=discount_minor or None,
            currency=self.coupons.currency,
            offer_id=offer.offer_id if offer else None,
            session_id=f"v{visit.number}" if visit else None,
        )
        sale = Sale(
            placed.user_id, now_ms, product.price_minor, product.cost_minor, discount_minor, because_of is not None
        )
        self.ledger.sold(sale)
        yield Published("orders", placed)
        if offer:
            yield Published("redemptions", self.coupons.redeem(offer, order_id, discount_minor, now_ms))
        self._plan_aftermath(placed, sale, draws, now_ms)

    def _plan_aftermath(self, placed: Order, sale: Sale, draws: Random, now_ms: int) -> None:
        """An order may be cancelled or come back, be rated or complained about."""
        what, when = draws.random(), now_ms + int((0.2 + draws.random()) * DAY_MS)
        if what < c.CANCELS:
            self._at(
                now_ms + int(draws.random() * 300_000), lambda time_ms: self._undo(placed, sale, "cancelled", time_ms)
            )
        elif what < c.CANCELS + c.RETURNS:
            self._at(when, lambda time_ms: self._undo(placed, sale, "returned", time_ms))
        elif what < c.CANCELS + c.RETURNS + c.RATES:
            self._at(
                when, lambda time_ms: self._say(placed, "rating", time_ms, rating=1 + int(draws.random() ** 0.5 * 5))
            )
        elif what < c.CANCELS + c.RETURNS + c.RATES + c.COMPLAINS:
            self._at(when, lambda time_ms: self._say(placed, "complaint", time_ms))

    def _undo(
        self, placed: Order, sale: Sale, kind: Literal["cancelled", "returned"], now_ms: int
    ) -> Iterator[Published]:
        self.ledger.undone(sale)
        yield Published(
            "orders", msgspec.structs.replace(placed, event_id=f"{placed.order_id}-{kind}", time_ms=now_ms, kind=kind)
        )
        released = self.coupons.release(placed.order_id, sale.discount_minor, now_ms) if kind == "cancelled" else None
        if released:
            yield Published("redemptions", released)

    def _say(
        self, placed: Order, kind: Literal["rating", "complaint"], now_ms: int, rating: int | None = None
    ) -> Iterator[Published]:
        yield Published(
            "feedback",
            Feedback(
                event_id=f"{placed.order_id}-{kind}",
                user_id=placed.user_id,
                time_ms=now_ms,
                kind=kind,
                rating=rating,
                product_id=placed.lines[0].product_id if placed.lines else None,
            ),
        )

    # --- offers

    def _notice(self, customer: int, offer: Offer, draws: Random, now_ms: int) -> Iterator[Published]:
        """The customer sees an offer, and either has a use for it, or is won over by it, or not."""
        if now_ms >= offer.valid_until_ms:
            return
        yield self._answer(offer, "offer_seen", now_ms)
        self._noticed.setdefault(customer, []).append(offer.offer_id)
        visit = self._inside.get(customer)
        if visit and visit.will_buy:
            return  # the next order uses it
        seen = self._seen.get(customer)
        later_ms = now_ms + int(quantile(draws.random(), c.GAP_S) * 1000)
        draw = draws.random()
        if seen:
            product = seen[-1]
            depth = offer.discount_minor(product.price_minor) / product.price_minor
            if draw < self.population.latent(customer).responds * response(depth):
                self._at(later_ms, lambda time_ms: self._won_over(customer, product, offer, draws, time_ms))
                return
        if draw >= 1 - c.DISMISSES:
            self._at(later_ms, lambda time_ms: self._dismiss(customer, offer, time_ms))

    def _won_over(
        self, customer: int, product: Product, offer: Offer, draws: Random, now_ms: int
    ) -> Iterator[Published]:
        if self.coupons.best([offer.offer_id], product.price_minor, now_ms):
            yield from self._order(customer, product, draws, now_ms, because_of=offer)

    def _dismiss(self, customer: int, offer: Offer, now_ms: int) -> Iterator[Published]:
        if self.coupons.is_open(offer):
            self._noticed[customer].remove(offer.offer_id)
            yield self._answer(offer, "offer_dismissed", now_ms)

    def _expire(self, offer: Offer, now_ms: int) -> Iterator[Published]:
        expired = self.coupons.expire(offer, now_ms)
        if expired:
            yield Published("redemptions", expired)

    def _answer(self, offer: Offer, kind: Literal["offer_seen", "offer_dismissed"], now_ms: int) -> Published:
        return Published(
            "feedback",
            Feedback(
                event_id=f"{offer.offer_id}-{kind}",
                user_id=offer.user_id,
                time_ms=now_ms,
                kind=kind,
                offer_id=offer.offer_id,
            ),
        )


def response(depth: float) -> float:
    """How much a discount of that share of the price moves a customer, 10 % being 1. Never less for a deeper one."""
    depths, moves = c.DEPTH_RESPONSE
    i = min(bisect(depths, depth), len(depths) - 1)
    share = (depth - depths[i - 1]) / (depths[i] - depths[i - 1])
    return moves[i - 1] + (moves[i] - moves[i - 1]) * min(share, 1.0)
