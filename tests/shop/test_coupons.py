import json
from typing import Any

import pytest

from stream.shop.coupons import Coupons, Offer

NOW_MS = 1_700_000_000_000


def value(**fields: Any) -> bytes:
    trigger = {"topic": "orders", "partition": 0, "offset": 0, "time_ms": NOW_MS, "kind": "placed"}
    return json.dumps(
        {
            "offer_id": "o1",
            "user_id": "ann",
            "campaign_id": "k",
            "kind": "percent",
            "percent": 10,
            "currency": "EUR",
            "trigger": trigger,
            "valid_until_ms": NOW_MS + 1_000,
            "cost_reserved_minor": 300,
        }
        | fields
    ).encode()


def taken(coupons: Coupons, **fields: Any) -> Offer:
    found = coupons.take(value(**fields), NOW_MS)
    assert found
    return found[0]


TIERS = [{"min_spend_minor": 5_000, "off_minor": 500}, {"min_spend_minor": 10_000, "off_minor": 1_500}]


@pytest.mark.parametrize(
    ("fields", "basket_minor", "off_minor"),
    [
        ({"percent": 10}, 9_999, 999),
        ({"percent": 12.5}, 10_000, 1_250),
        ({"percent": 50, "max_discount_minor": 2_000}, 10_000, 2_000),
        ({"percent": 10, "min_spend_minor": 5_000}, 4_999, 0),
        ({"percent": 10, "min_spend_minor": 5_000}, 5_000, 500),
        ({"kind": "amount", "tiers": TIERS}, 4_999, 0),
        ({"kind": "amount", "tiers": TIERS}, 5_000, 500),
        ({"kind": "amount", "tiers": TIERS}, 99_999, 1_500),
        ({"kind": "coupon", "value_minor": 500}, 300, 300),  # never more than the basket
        ({"kind": "coupon", "value_minor": 500, "min_spend_minor": 2_500}, 2_500, 500),
        ({"kind": "free_shipping"}, 5_000, 490),
    ],
)
def test_what_an_offer_takes_off(fields: dict[str, Any], basket_minor: int, off_minor: int) -> None:
    assert taken(Coupons("EUR"), **fields).discount_minor(basket_minor) == off_minor


def test_the_best_of_several_is_used_and_only_while_it_is_open() -> None:
    coupons = Coupons("EUR")
    ten = taken(coupons, offer_id="ten")
    twenty = taken(coupons, offer_id="twenty", percent=20)
    ids = ["ten", "twenty", "unknown"]
    assert coupons.best(ids, 1_000, NOW_MS) is twenty
    assert coupons.best(ids, 1_000, NOW_MS + 1_000) is None
    assert coupons.best(ids, 3, NOW_MS) is None  # takes nothing off
    said = coupons.redeem(twenty, "order", 200, NOW_MS)
    assert (said.kind, said.offer_id, said.order_id, said.amount_minor, said.currency) == (
        *("redeemed", "twenty", "order"),
        *(200, "EUR"),
    )
    assert coupons.best(ids, 1_000, NOW_MS) is ten
    assert coupons.expire(twenty, NOW_MS) is None
    expired = coupons.expire(ten, NOW_MS)
    assert expired
    assert expired.kind == "expired"
    assert not coupons.is_open(ten)


def test_budget_is_reserved_spent_and_given_back() -> None:
    coupons = Coupons("EUR")
    one, two = taken(coupons, offer_id="one"), taken(coupons, offer_id="two")
    campaign = coupons.campaigns["k"]
    assert (campaign.offers, campaign.reserved_minor, campaign.spent_minor) == (2, 600, 0)
    coupons.redeem(one, "order", 250, NOW_MS)
    assert (campaign.redeemed, campaign.reserved_minor, campaign.spent_minor) == (1, 300, 250)
    coupons.expire(two, NOW_MS)
    assert (campaign.expired, campaign.reserved_minor, campaign.spent_minor) == (1, 0, 250)
    released = coupons.release("order", 250, NOW_MS)
    assert released
    assert (released.kind, released.offer_id, released.order_id) == ("released", "one", "order")
    assert campaign.spent_minor == 0
    assert coupons.release("order", 250, NOW_MS) is None
    assert coupons.release("another", 250, NOW_MS) is None
