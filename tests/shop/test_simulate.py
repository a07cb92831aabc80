import hashlib
import os
import subprocess
import sys
from collections import Counter

import msgspec
import pytest

from stream.kafka.codec import SOURCE_VALUES, Click, Feedback, Order, Redemption
from stream.shop.coupons import Coupons
from stream.shop.population import DAY_MS, TYPES
from stream.shop.simulate import Published, Shop, response
from tests.shop.test_calibration import START_MS, offer


def shop_of(seed: int = 1, customers: int = 60) -> Shop:
    return Shop(seed, customers, START_MS, Coupons("EUR"))


def lines(published: list[Published]) -> list[bytes]:
    return [source.encode() + b" " + msgspec.json.encode(value) for source, value in published]


def digest(seed: int) -> str:
    shop = shop_of(seed)
    found = lines([*shop.profiles(), *shop.until(START_MS + 3 * DAY_MS)])
    assert len(found) > 1_000
    return hashlib.sha256(b"\n".join(found)).hexdigest()


def test_the_same_seed_gives_the_same_events_byte_for_byte() -> None:
    assert digest(1) == digest(1) != digest(2)
    code = "from tests.shop.test_simulate import digest; print(digest(1))"
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        other = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert other.stdout.strip() == digest(1)


def test_events_come_in_the_order_of_time_and_are_what_the_contract_says() -> None:
    shop = shop_of()
    found = [*shop.profiles(), *shop.until(START_MS + 9 * DAY_MS)]
    times = [p.value.time_ms for p in found]
    assert times == sorted(times)
    ids = [(p.source, p.value.event_id) for p in found]
    assert len(set(ids)) == len(ids)
    for source, value in found:  # encoding checks nothing, decoding checks every bound
        assert msgspec.json.decode(msgspec.json.encode(value), type=SOURCE_VALUES[source]) == value
    kinds = {(p.source, p.value.kind) for p in found}
    assert {
        ("orders", "returned"),
        ("feedback", "rating"),
        ("clickstream", "search"),
        ("customers", "profile"),
    } <= kinds


def test_an_order_is_undone_only_after_it_was_placed_and_only_once() -> None:
    shop = shop_of(2, 400)
    placed: dict[str, int] = {}
    undone: Counter[str] = Counter()
    for _, value in shop.until(START_MS + 12 * DAY_MS):
        if isinstance(value, Order) and value.kind == "placed":
            placed[value.order_id] = value.time_ms
        elif isinstance(value, Order):
            assert placed[value.order_id] <= value.time_ms
            undone[value.order_id] += 1
    assert undone
    assert max(undone.values()) == 1
    assert shop.ledger.orders == len(placed) - len(undone)


def run_with_offers(*, offers: bool) -> tuple[Shop, list[Published]]:
    shop = shop_of(5, 300)
    found: list[Published] = []
    given: set[str] = set()
    while shop.next_ms < START_MS + 3 * DAY_MS:
        for published in list(shop.until(shop.next_ms + 1)):
            found.append(published)
            user = published.value.user_id
            if offers and published.value.kind == "product_view" and user not in given and int(user[1:]) % 2:
                given.add(user)
                found += shop.offer(offer(f"x{len(given)}", user, published.value.time_ms), published.value.time_ms)
    return shop, found


def test_an_offer_changes_what_its_customer_buys_and_nothing_else() -> None:
    without_shop, without = run_with_offers(offers=False)
    with_shop, with_ = run_with_offers(offers=True)
    clicks = [p.value for p in without if isinstance(p.value, Click)]
    assert [p.value for p in with_ if isinstance(p.value, Click)] == clicks

    def prices(found: list[Published], share: int) -> Counter[tuple[str, int, int]]:
        return Counter(
            (p.value.user_id, p.value.time_ms, p.value.total_minor + (p.value.discount_minor or 0))
            for p in found
            if isinstance(p.value, Order) and p.value.kind == "placed" and int(p.value.user_id[1:]) % 2 == share
        )

    assert prices(with_, 0) == prices(without, 0)
    assert not prices(without, 1) - prices(with_, 1)
    more = prices(with_, 1) - prices(without, 1)
    assert more.total() > 0
    # What the ledger says the offers earned is the difference between the two worlds, returns and all.
    assert with_shop.ledger.caused_minor == with_shop.ledger.margin_minor - without_shop.ledger.margin_minor
    assert with_shop.ledger.discount_minor > 0 == without_shop.ledger.discount_minor


def test_every_offer_is_issued_and_ends_once() -> None:
    shop, found = run_with_offers(offers=True)
    found += shop.until(START_MS + 5 * DAY_MS)
    ends: dict[str, list[str]] = {}
    for _, value in found:
        if isinstance(value, Redemption):
            ends.setdefault(value.offer_id, []).append(value.kind)
    orders = {p.value.offer_id: p.value for p in found if isinstance(p.value, Order) and p.value.kind == "placed"}
    seen = {p.value.offer_id for p in found if isinstance(p.value, Feedback) and p.value.kind == "offer_seen"}
    assert len(ends) == shop.coupons.campaigns["everybody"].offers > 100
    for offer_id, kinds in ends.items():
        assert kinds[:2] in (["issued", "redeemed"], ["issued", "expired"]), kinds
        assert kinds[2:] in ([], ["released"])
        assert (kinds[1] == "redeemed") == (offer_id in orders)
        if kinds[1] == "redeemed":
            assert offer_id in seen
            assert orders[offer_id].discount_minor


def test_an_offer_to_somebody_unknown_or_malformed_or_twice_is_no_trouble() -> None:
    shop = shop_of()
    now_ms = START_MS
    assert len(list(shop.offer(offer("a", "nobody", now_ms), now_ms))) == 1
    assert len(list(shop.offer(offer("b", "c9999999", now_ms), now_ms))) == 1
    assert len(list(shop.offer(offer("a", "c0000001", now_ms), now_ms))) == 0
    assert shop.coupons.repeated == 1
    for bad in (None, b"", b"{}", b"[1]", b"\xff", offer("c", "c0000001", now_ms).replace(b"percent", b"bribe")):
        assert list(shop.offer(bad, now_ms)) == []
    assert shop.coupons.malformed == 6
    assert list(shop.until(now_ms + DAY_MS))


def test_open_doors_changes_how_many_come() -> None:
    shop = shop_of(3, 2_000)
    shop.open_doors(5.0, START_MS)
    shop.open_doors(2.0, START_MS)  # replaces, does not add
    sessions = {p.value.session_id for p in shop.until(START_MS + 600_000) if isinstance(p.value, Click)}
    assert len(sessions) == pytest.approx(1_200, rel=0.15)


def test_a_deeper_discount_never_moves_less() -> None:
    moves = [response(i / 1000) for i in range(1_001)]
    assert moves == sorted(moves)
    assert moves[0] == 0
    assert moves[100] == pytest.approx(1.0)


def test_latent_types_are_as_frequent_as_they_should_be() -> None:
    population = shop_of(1, 20_000).population
    counts = Counter(population.latent(i) for i in range(population.n))
    for latent in TYPES:
        assert counts[latent] / population.n == pytest.approx(latent.share, abs=0.015)
    profiles = [population.profile(i, START_MS) for i in range(5_000)]
    assert sum(p.consent is True for p in profiles) / 5_000 == pytest.approx(0.92, abs=0.015)
    assert sum(p.objection is True for p in profiles) / 5_000 == pytest.approx(0.02, abs=0.01)
