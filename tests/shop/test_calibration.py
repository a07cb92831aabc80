"""The constants are what the files say, and the simulated shop behaves like its constants."""

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stream.kafka.codec import Click, Order
from stream.shop import calibration
from stream.shop.coupons import Coupons
from stream.shop.population import DAY_MS
from stream.shop.simulate import Published, Shop
from tests.shop import calibrate

START_MS = 1_700_006_400_000  # a midnight
N_CUSTOMERS = 1_500
KINDS = ("product_view", "cart_add", "favourite", "placed")


def test_constants_are_what_the_files_say(shared_data: Path) -> None:
    assert calibration.QUANTILES == calibrate.QUANTILES
    for name, value in calibrate.figures(shared_data).items():
        assert getattr(calibration, name) == value, name


@pytest.fixture(scope="module")
def nine_days() -> list[Published]:
    return list(Shop(7, N_CUSTOMERS, START_MS, Coupons("EUR")).until(START_MS + 9 * DAY_MS))


@pytest.fixture(scope="module")
def visits(nine_days: list[Published]) -> dict[str, list[Click | Order]]:
    """Calibrated kinds only, by session."""
    found: dict[str, list[Click | Order]] = defaultdict(list)
    for _, value in nine_days:
        if isinstance(value, Click | Order) and value.kind in KINDS:
            assert value.session_id
            found[value.session_id].append(value)
    return found


def test_shares_of_kinds(nine_days: list[Published]) -> None:
    kinds = Counter(str(p.value.kind) for p in nine_days)
    found = np.array([kinds[k] for k in KINDS])
    expected = np.array(calibration.KIND_COUNTS)
    assert found / found.sum() == pytest.approx(expected / expected.sum(), rel=0.08)


def test_lengths_of_sessions_and_gaps_within(visits: dict[str, list[Click | Order]]) -> None:
    lengths = [len(v) for v in visits.values()]
    gaps_s = [(b.time_ms - a.time_ms) / 1000 for v in visits.values() for a, b in pairwise(v)]
    for share in (0.25, 0.5, 0.75, 0.9, 0.95):
        at = calibration.QUANTILES.index(share)
        assert np.quantile(lengths, share) == pytest.approx(calibration.SESSION_EVENTS[at], abs=1), share
        assert np.quantile(gaps_s, share) == pytest.approx(calibration.GAP_S[at], rel=0.08), share
    assert max(gaps_s) <= calibrate.SESSION_GAP_S


def test_how_often_customers_come_and_at_which_hour(visits: dict[str, list[Click | Order]]) -> None:
    per_customer = Counter(v[0].user_id for v in visits.values())
    assert per_customer.total() / N_CUSTOMERS == pytest.approx(calibration.VISITS_9D_MEAN, rel=0.05)
    hours = np.bincount([v[0].time_ms // 3_600_000 % 24 for v in visits.values()], minlength=24)
    expected = np.array(calibration.HOUR_EVENTS)
    assert hours / hours.sum() == pytest.approx(expected / expected.sum(), rel=0.25, abs=0.003)


def test_who_buys_and_what(visits: dict[str, list[Click | Order]]) -> None:
    orders = [e for v in visits.values() for e in v if isinstance(e, Order)]
    buys = Counter(o.user_id for o in orders)
    counts = [*buys.values(), *[0] * (N_CUSTOMERS - len(buys))]
    assert len(buys) / N_CUSTOMERS == pytest.approx(calibration.BUYERS_9D, abs=0.04)
    assert calibrate.dispersion(counts) == pytest.approx(calibration.BUYS_9D_VARIANCE_TO_MEAN, rel=0.25)
    in_session = 0
    for visit in visits.values():
        seen: set[str | None] = set()
        for event in visit:
            if isinstance(event, Order):
                in_session += (event.lines or [])[0].product_id in seen
            else:
                seen.add(event.product_id)
    # Of purchases that open a visit nothing was seen: they are drawn from earlier visits.
    opening = sum(isinstance(v[0], Order) for v in visits.values())
    assert in_session / (len(orders) - opening) == pytest.approx(calibration.BOUGHT_SEEN_IN_SESSION, abs=0.1)


def test_prices(visits: dict[str, list[Click | Order]]) -> None:
    of_product = {e.product_id: e.price_minor for v in visits.values() for e in v if isinstance(e, Click)}
    prices = [price for price in of_product.values() if price is not None]
    assert len(prices) > 3_000
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        at = calibration.QUANTILES.index(share)
        assert np.quantile(prices, share) == pytest.approx(calibration.PRICE_MINOR[at], rel=0.12), share


def test_offers_to_all_are_redeemed_as_often_as_completejourneys_campaigns() -> None:
    coupons = Coupons("EUR")
    shop = Shop(3, 4_000, START_MS, coupons)
    for _ in shop.until(START_MS + DAY_MS):  # customers have seen products
        pass
    given: set[str] = set()
    while shop.next_ms < START_MS + 3 * DAY_MS:
        for _, value in list(shop.until(shop.next_ms + 1)):
            day_two = value.time_ms < START_MS + 2 * DAY_MS
            if day_two and value.kind == "product_view" and value.user_id not in given:
                given.add(value.user_id)
                for _ in shop.offer(offer(f"o{len(given)}", value.user_id, value.time_ms), value.time_ms):
                    pass
    campaign = coupons.campaigns["everybody"]
    expected = calibration.REDEEMED / calibration.TARGETED
    assert campaign.offers > 2_500
    error = (expected * (1 - expected) / campaign.offers) ** 0.5
    assert campaign.redeemed / campaign.offers == pytest.approx(expected, abs=3 * error)
    assert campaign.redeemed + campaign.expired == campaign.offers


def offer(id_: str, user_id: str, now_ms: int) -> bytes:
    trigger = {"topic": "clickstream", "partition": 0, "offset": 0, "time_ms": now_ms, "kind": "product_view"}
    return json.dumps(
        {
            "offer_id": id_,
            "user_id": user_id,
            "campaign_id": "everybody",
            "kind": "percent",
            "percent": 10,
            "currency": "EUR",
            "trigger": trigger,
            "valid_until_ms": now_ms + DAY_MS,
            "cost_reserved_minor": 0,
        }
    ).encode()
