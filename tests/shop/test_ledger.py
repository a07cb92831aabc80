import random
import statistics

import pytest

from stream.shop.ledger import Ledger, Sale


def sale(user: str, price: int, *, discount: int = 0, caused: bool = False) -> Sale:
    return Sale(user, 0, price, price * 7 // 10, discount, caused)


def test_margin_discount_and_what_was_caused() -> None:
    ledger = Ledger()
    organic, gift, won = sale("a", 1_000), sale("b", 1_000, discount=100), sale("c", 2_000, discount=200, caused=True)
    for s in (organic, gift, won):
        ledger.sold(s)
    assert (ledger.orders, ledger.margin_minor, ledger.discount_minor) == (3, 300 + 200 + 400, 300)
    assert ledger.caused_minor == 400 - 100
    ledger.undone(won)
    assert (ledger.orders, ledger.margin_minor, ledger.discount_minor, ledger.caused_minor) == (2, 500, 100, -100)


def test_groups_count_from_the_first_decision_on_and_compare_by_campaign() -> None:
    draws = random.Random(1)
    ledger = Ledger()
    margins: dict[bool, list[int]] = {True: [], False: []}
    for i in range(200):
        user, held = f"u{i}", draws.random() < 0.3
        ledger.sold(sale(user, 10_000))  # before the decision: does not count
        ledger.decided("k", user, held_out=held)
        ledger.decided("k", user, held_out=not held)  # a second decision changes nothing
        total = 0
        for _ in range(draws.randrange(4)):
            one = sale(user, draws.randrange(100, 5_000))
            ledger.sold(one)
            total += one.margin_minor
        margins[held].append(total)
    found = ledger.compare()["k"]
    assert (found.offered, found.held_out) == (len(margins[False]), len(margins[True]))
    assert found.offered_mean_minor == pytest.approx(statistics.mean(margins[False]))
    assert found.held_out_mean_minor == pytest.approx(statistics.mean(margins[True]))
    squares = [statistics.variance(m) / len(m) for m in margins.values()]
    assert found.error_minor == pytest.approx(sum(squares) ** 0.5)
    assert found.earned_minor == pytest.approx(
        (found.offered_mean_minor - found.held_out_mean_minor) * len(margins[False])
    )


def test_nothing_to_compare() -> None:
    ledger = Ledger()
    assert ledger.compare() == {}
    ledger.decided("k", "a", held_out=False)
    ledger.sold(sale("a", 100))
    assert ledger.compare()["k"].earned_minor == 0
