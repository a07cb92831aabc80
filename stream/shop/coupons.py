"""The shop's coupon service: takes offers in, keeps what is open, and says what became of each.

It holds everything in memory and trusts nothing it reads: an offer may come twice (the first one counts) or be
malformed (counted, ignored).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from stream.kafka.codec import Redemption
from stream.shop.calibration import SHIPPING_MINOR

Minor = Annotated[int, Meta(ge=0)]


class Tier(Struct):
    """Spend this, save that."""

    min_spend_minor: Minor
    off_minor: Minor


class Trigger(Struct):
    """What the offer answers."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    kind: str


class Offer(Struct, kw_only=True):
    """What a coupon service needs of a value of topic offers; other fields are not its business."""

    offer_id: str
    user_id: str
    campaign_id: str
    kind: Literal["percent", "amount", "coupon", "free_shipping", "gift"]
    currency: str
    trigger: Trigger
    valid_until_ms: int
    cost_reserved_minor: Minor
    percent: Annotated[float, Meta(ge=0, le=100)] = 0
    value_minor: Minor = 0
    tiers: list[Tier] = []
    min_spend_minor: Minor = 0
    max_discount_minor: Minor | None = None

    def discount_minor(self, basket_minor: int) -> int:
        """What it takes off a basket; 0 where the basket is too small."""
        if basket_minor < self.min_spend_minor:
            return 0
        if self.kind == "percent":
            off_minor = int(basket_minor * self.percent / 100)
        elif self.kind in ("free_shipping", "gift"):
            off_minor = SHIPPING_MINOR
        else:
            reached = [tier.off_minor for tier in self.tiers if basket_minor >= tier.min_spend_minor]
            off_minor = max(reached, default=self.value_minor)
        if self.max_discount_minor is not None:
            off_minor = min(off_minor, self.max_discount_minor)
        return min(off_minor, basket_minor)


@dataclass
class Campaign:
    """What a campaign has cost so far."""

    offers: int = 0
    redeemed: int = 0
    expired: int = 0
    spent_minor: int = 0
    """Discounts given."""
    reserved_minor: int = 0
    """What open offers may still cost."""


class Coupons:
    """Open offers by customer, and campaigns by id."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self.campaigns: dict[str, Campaign] = {}
        self.malformed = 0
        self.repeated = 0
        self._open: dict[str, Offer] = {}
        self._known: set[str] = set()
        self._used: dict[str, Offer] = {}  # by order
        self._decoder = msgspec.json.Decoder(Offer)

    def take(self, value: bytes | None, now_ms: int) -> tuple[Offer, Redemption] | None:
        """Take in a value of topic offers: the offer and the word that it was issued; None if it is no new one."""
        try:
            offer = self._decoder.decode(value or b"")
        except msgspec.DecodeError:
            self.malformed += 1
            return None
        if offer.offer_id in self._known:
            self.repeated += 1
            return None
        self._known.add(offer.offer_id)
        self._open[offer.offer_id] = offer
        campaign = self.campaigns.setdefault(offer.campaign_id, Campaign())
        campaign.offers += 1
        campaign.reserved_minor += offer.cost_reserved_minor
        return offer, self._say("issued", offer, now_ms)

    def best(self, offer_ids: Iterable[str], basket_minor: int, now_ms: int) -> Offer | None:
        """The open one of these offers that takes most off a basket, if any takes something."""
        usable = [
            offer
            for id_ in offer_ids
            if (offer := self._open.get(id_)) and now_ms < offer.valid_until_ms and offer.discount_minor(basket_minor)
        ]
        return max(usable, key=lambda offer: (offer.discount_minor(basket_minor), offer.offer_id), default=None)

    def is_open(self, offer: Offer) -> bool:
        """Whether it was neither used nor closed."""
        return offer.offer_id in self._open

    def redeem(self, offer: Offer, order_id: str, discount_minor: int, now_ms: int) -> Redemption:
        """Use up an open offer for an order."""
        del self._open[offer.offer_id]
        self._used[order_id] = offer
        campaign = self.campaigns[offer.campaign_id]
        campaign.redeemed += 1
        campaign.reserved_minor -= offer.cost_reserved_minor
        campaign.spent_minor += discount_minor
        said = self._say("redeemed", offer, now_ms)
        said.order_id, said.amount_minor, said.currency = order_id, discount_minor, self.currency
        return said

    def release(self, order_id: str, discount_minor: int, now_ms: int) -> Redemption | None:
        """An order was cancelled: what it used is given back to the budget, not to the customer."""
        offer = self._used.pop(order_id, None)
        if offer is None:
            return None
        self.campaigns[offer.campaign_id].spent_minor -= discount_minor
        said = self._say("released", offer, now_ms)
        said.order_id = order_id
        return said

    def expire(self, offer: Offer, now_ms: int) -> Redemption | None:
        """Close an offer that was not used; None if it was."""
        if self._open.pop(offer.offer_id, None) is None:
            return None
        campaign = self.campaigns[offer.campaign_id]
        campaign.expired += 1
        campaign.reserved_minor -= offer.cost_reserved_minor
        return self._say("expired", offer, now_ms)

    def _say(self, kind: Literal["issued", "redeemed", "expired", "released"], offer: Offer, now_ms: int) -> Redemption:
        return Redemption(
            event_id=f"{offer.offer_id}-{kind}",
            user_id=offer.user_id,
            time_ms=now_ms,
            kind=kind,
            offer_id=offer.offer_id,
        )
