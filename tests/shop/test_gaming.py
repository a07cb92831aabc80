"""Customers who provoke offers, in a shop whose campaign is guarded and in one whose campaign is not."""

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.campaign import CampaignSet
from stream.core.events import Kind
from stream.kafka.control import InForce
from stream.scoring.scorer import Scorer
from stream.shop import evaluate
from stream.shop.coupons import Coupons
from stream.shop.gaming import FIRST_NUMBER, GIVES_UP_AFTER, GamingShop
from stream.shop.judged import Run
from stream.shop.population import DAY_MS
from stream.shop.simulate import HOUR_MS

START_MS = evaluate.START_MS
GAMING = 0.3
CART: dict[str, Any] = {
    "id": "cart",
    "name": "Cart left behind",
    "version": 1,
    "trigger": {"kinds": ["page_view", "product_view", "search"]},
    "eligibility": {"conditions": [{"field": "cart_waiting_s", "op": ">=", "value": 3600}]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "segment", "arms": dict.fromkeys(("new", "frequent", "dormant", "regular"), "ten")},
    "cool_down": {"after_offer": "20h"},
    "valid_for": "24h",
}


GUARD = {"free": 1, "per_order": 0.25}


class Found(NamedTuple):
    """Means by customer: of those who play, and of the others."""

    offers: tuple[float, float]
    used: tuple[float, float]
    earned_minor: int


def played(seed: int, customers: int, days: int, **changes: Any) -> Found:
    run = Run(seed, customers, START_MS, gaming=GAMING)
    in_force = InForce(Scorer(), evaluate.compiled(CART | changes))
    run.until(START_MS + days * DAY_MS, in_force, lambda *_: None, run.step_ms)
    assert isinstance(run.shop, GamingShop)
    plays = np.array(run.shop.plays)
    made, used = run.rows["offers_made"], run.rows["kind_total"][:, Kind.OFFER_REDEEMED]
    offers, redeemed = ((float(of[plays].mean()), float(of[~plays].mean())) for of in (made, used))
    return Found(offers, redeemed, run.shop.ledger.caused_minor)


def lost(without: Found, with_: Found) -> NDArray[np.float64]:
    """Shares, [offers or used, those who play or the others]."""
    before, after = np.array(without[:2]), np.array(with_[:2])
    return 1 - after / before


def test_a_guard_takes_more_from_those_who_provoke_offers_than_from_others() -> None:
    without, with_ = played(1, 120, 14), played(1, 120, 14, guard=GUARD)
    print(json.dumps({"without": without._asdict(), "with": with_._asdict()}))
    assert without.used[0] > 2 * without.used[1]  # it pays to play
    (offers, others_offers), (used, others_used) = lost(without, with_)
    assert offers > 1.5 * others_offers
    assert used > 1.5 * others_used
    assert with_.earned_minor > without.earned_minor


def test_who_plays_leaves_the_cart_comes_back_and_gives_up() -> None:
    """Nobody is offered anything: those who play buy later, until they have learned that it is no use."""
    shop = GamingShop(3, 60, START_MS, Coupons("EUR"), 0.5)
    cart_ms: dict[str, int] = {}
    late: dict[int, list[bool]] = {}
    for source, value in shop.until(START_MS + 40 * DAY_MS):
        if source == "clickstream" and value.kind == "cart_add":
            cart_ms.setdefault(value.user_id, value.time_ms)
        elif source == "orders" and value.kind == "placed":
            back = int((value.session_id or "v0")[1:]) > FIRST_NUMBER
            late.setdefault(int(value.user_id[1:]), []).append(back)
            assert not back or value.time_ms - cart_ms[value.user_id] >= HOUR_MS
    assert 20 < sum(shop.plays) < 40
    assert not any(sum(of) for customer, of in late.items() if not shop.plays[customer])
    of_players = [of for customer, of in late.items() if shop.plays[customer]]
    assert all(of[0] for of in of_players)
    # Some were on their way already when they gave up; nobody begins again.
    assert max(sum(of) for of in of_players) <= 2 * GIVES_UP_AFTER
    gave_up = [of for of in of_players if len(of) > 3 * GIVES_UP_AFTER]
    assert gave_up
    assert all(sum(of) >= GIVES_UP_AFTER and not any(of[-GIVES_UP_AFTER:]) for of in gave_up)


def test_without_campaigns_nobody_is_offered_anything() -> None:
    run = Run(1, 30, START_MS, gaming=GAMING)
    run.until(START_MS + DAY_MS, InForce(Scorer(), CampaignSet()), lambda *_: None, run.step_ms)
    assert not run.rows["offers_made"].any()
