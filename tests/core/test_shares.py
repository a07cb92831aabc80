"""Shares: whatever the purses were, nothing is won or lost by spreading them anew, and nobody overspends then."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.budget import Purse, Wallet, share_minor
from stream.core.row import new_rows
from stream.core.shares import count_held, respread

SUMS = ("limit_minor", "spent_minor", "reserved_minor", "settled_minor", "used_minor", "settled", "unknown")


@st.composite
def moves(draw: st.DrawFn) -> tuple[int, list[Wallet], list[int], list[int]]:
    """A budget in n purses, each within its limit, open offers that are part of what is reserved, and where they go."""
    total, n, m = draw(st.integers(0, 10**7)), draw(st.integers(1, 9)), draw(st.integers(1, 20))
    wallets, costs = [], []
    for p in range(n):
        limit = share_minor(total, p, n)
        spent = draw(st.integers(0, limit))
        reserved = draw(st.integers(0, limit - spent))
        cost = draw(st.integers(0, reserved))  # the rest is of users who were erased
        costs.append(cost)
        settled = draw(st.integers(0, 50))
        wallet = Wallet()
        wallet.purses[77] = Purse(
            limit, spent, reserved, settled_minor=settled * 3, used_minor=settled * 2, settled=settled,
            price=draw(st.floats(0, 9)), paced_ms=p, unknown=draw(st.integers(0, 5)),
        )  # fmt: skip
        wallets.append(wallet)
    return total, wallets, costs, [draw(st.integers(0, m - 1)) for _ in range(n)] + [m]


@given(moves())
def test_sums_are_kept_and_no_purse_is_over_its_limit(drawn: tuple[int, list[Wallet], list[int], list[int]]) -> None:
    total, wallets, costs, (*to, m) = drawn
    rows = new_rows(len(costs))
    rows["open_cost"], rows["open_campaign"] = costs, 77
    held: dict[str, NDArray[np.int64]] = {}
    count_held(held, rows, np.array(to), m)
    spread = respread([wallet.state() for wallet in wallets], {k: v.tolist() for k, v in held.items()}, m)
    purses = [Wallet.from_state(state).purses[77] for state in spread]

    def sums(of: list[Purse]) -> Mapping[str, int]:
        return {name: sum(asdict(purse)[name] for purse in of) for name in SUMS}

    assert sums(purses) == sums([wallet.purses[77] for wallet in wallets])
    for q, purse in enumerate(purses):
        assert purse.limit_minor == share_minor(total, q, m)
        assert purse.free_minor >= 0
        # An offer that ends gives back to its own partition what it held there.
        assert purse.reserved_minor >= sum(cost for cost, at in zip(costs, to, strict=True) if at == q)
    assert sum(purse.free_minor for purse in purses) == sum(wallet.purses[77].free_minor for wallet in wallets)
    prices = [wallet.purses[77].price for wallet in wallets]
    assert all(min(prices) - 1e-9 <= purse.price <= max(prices) + 1e-9 for purse in purses)


def test_an_offer_dearer_than_a_new_share() -> None:
    """One partition, 300 of 1,000 reserved for one user; four partitions of 250: the user's is full, none is over."""
    spread = respread([{"5": asdict(Purse(1000, 100, 300))}], {"5": [0, 300, 0, 0]}, 4)
    assert [(p["5"]["limit_minor"], p["5"]["spent_minor"], p["5"]["reserved_minor"]) for p in spread] == [
        (250, 100, 0),
        (250, -200, 300),
        (250, 100, 0),
        (250, 100, 0),
    ]


def test_a_purse_that_only_some_partitions_have() -> None:
    spread = respread([{}, {"5": asdict(Purse(10, 4, 0, paced_ms=9, price=2.0))}, {}], {}, 2)
    assert [(p["5"]["limit_minor"], p["5"]["spent_minor"]) for p in spread] == [(5, 2), (5, 2)]
    assert [(p["5"]["price"], p["5"]["paced_ms"]) for p in spread] == [(2.0, 9)] * 2
