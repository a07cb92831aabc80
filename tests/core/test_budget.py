"""Budgets: never overspent, settled by what becomes of offers, lambda moved so that spending follows the plan."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.absorb import note
from stream.core.budget import Wallet, name_open_offers, offer_key, share_minor
from stream.core.campaign import CampaignSet
from stream.core.decide import Decisions, Reason, decide
from stream.core.events import CONSENT_YES, EVENT, Kind
from stream.core.row import DAY_MS, Rows, new_rows
from tests.core import coupon

NOW_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
AGE_MS = 60_000


def campaign(**fields: Any) -> CampaignSet:
    return coupon.campaign(**{"budget": {"total_minor": 2_000, "pacing": "asap"}, **fields})


class World:
    """Some buyers in one partition, and a naive account of what they were promised."""

    def __init__(self, campaigns: CampaignSet, n: int, partition: int = 0, partitions: int = 1) -> None:
        self.campaigns = campaigns
        self.rows = new_rows(n)
        self.rows["consent"], self.rows["last_ms"] = CONSENT_YES, NOW_MS
        self.rows["count_30d"][:, :, Kind.ORDER_PLACED] = 1
        self.wallet = Wallet()
        self.place = partition, partitions
        self.next_offer = 1000
        self.promised: dict[int, tuple[int, int]] = {}  # offer -> (user, the most that it can cost)

    def view(self, users: list[int], now_ms: int = NOW_MS, price_minor: int = 0) -> Decisions:
        events = np.zeros(len(users), EVENT)
        events["kind"], events["time_ms"], events["price_minor"] = Kind.PRODUCT_VIEW, now_ms, price_minor
        rows: Rows = self.rows[users]
        self.wallet.follow(self.campaigns, *self.place, now_ms)
        scores = np.full((len(users), 1), np.nan, np.float32)
        draw = np.arange(len(users)) / max(len(users), 1)
        decisions = decide(events, rows, scores, self.campaigns, now_ms, draw, AGE_MS, self.wallet)
        offered = np.flatnonzero(decisions["reason"] == Reason.OFFERED)
        ids = [self.next_offer + i for i in range(len(offered))]
        self.next_offer += len(ids)
        name_open_offers(rows, offered, decisions[offered], self.campaigns, ids)
        self.rows[users] = rows
        for i, id_ in zip(offered.tolist(), ids, strict=True):
            self.promised[id_] = users[i], int(rows["open_cost"][i])
        return decisions

    def tell(self, user: int, kind: Kind, offer: int, amount: int = 0, discount: int = 0) -> None:
        event = np.zeros(1, EVENT)
        event["kind"], event["offer"], event["time_ms"] = kind, offer, NOW_MS
        event["amount_minor"], event["discount_minor"] = amount, discount
        self.wallet.settle(event, np.array([user]), self.rows)
        if kind > Kind.OFFER_REDEEMED:
            note(event, self.rows[user : user + 1])

    @property
    def purse(self) -> dict[str, float]:
        (purse,) = self.wallet.state().values()
        return purse


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["view", "view", "redeem", "expire", "release", "return", "again", "restart"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.integers(500, 4_000))
def test_a_budget_is_never_overspent_and_agrees_with_a_naive_account(
    actions: list[tuple[str, int]], total_minor: int
) -> None:
    world = World(campaign(budget={"total_minor": total_minor, "pacing": "asap"}), 6)
    world.wallet.follow(world.campaigns, 0, 1, NOW_MS)
    open_: dict[int, int] = {}  # user -> offer
    used: dict[int, int] = {}  # user -> amount of the last redemption
    spent = unknown = 0
    for action, user in actions:
        if action == "view":
            decision = world.view([user])[0]
            room = total_minor - spent - 500 * len(open_)
            expected = Reason.OPEN_OFFER if user in open_ else Reason.OFFERED if room >= 500 else Reason.BUDGET
            assert decision["reason"] == expected
            if expected == Reason.OFFERED:
                open_[user] = max(world.promised)
                used.pop(user, None)
        elif action == "redeem" and user in open_:
            world.tell(user, Kind.OFFER_REDEEMED, open_.pop(user), amount=300)
            used[user] = 300
            spent += 300
        elif action in ("expire", "release") and user in open_:
            world.tell(user, Kind.OFFER_EXPIRED if action == "expire" else Kind.OFFER_RELEASED, open_.pop(user))
        elif action == "return" and user in used:
            offer = max(o for o, (of, _) in world.promised.items() if of == user)
            spent -= used.pop(user)
            world.tell(user, Kind.ORDER_RETURNED, offer, discount=300)
            world.tell(user, Kind.ORDER_RETURNED, offer, discount=300)  # a second time it changes nothing
        elif action == "again" and user in used:
            offer = max(o for o, (of, _) in world.promised.items() if of == user)
            world.tell(user, Kind.OFFER_REDEEMED, offer, amount=300)
            unknown += 1
        elif action == "restart":
            world.wallet = Wallet.from_state(json.loads(json.dumps(world.wallet.state())))
        purse = world.purse
        assert (purse["spent_minor"], purse["reserved_minor"]) == (spent, 500 * len(open_))
        assert purse["spent_minor"] + purse["reserved_minor"] <= total_minor
        assert purse["unknown"] == unknown


def test_within_one_round_money_goes_to_the_first() -> None:
    world = World(campaign(), 7)
    reasons = world.view(list(range(7)))["reason"].tolist()
    assert reasons == [Reason.OFFERED] * 4 + [Reason.BUDGET] * 3
    assert world.purse["reserved_minor"] == 2_000
    assert (world.rows["open_offer"][:4] == [offer_key(1000 + i) for i in range(4)]).all()


@given(st.integers(1, 10**12), st.integers(1, 100))
def test_shares_of_partitions_are_the_budget(total_minor: int, partitions: int) -> None:
    shares = [share_minor(total_minor, i, partitions) for i in range(partitions)]
    assert sum(shares) == total_minor
    assert max(shares) - min(shares) <= 1


def test_a_redemption_after_expiry_or_of_nobodys_offer_is_counted_and_not_charged() -> None:
    world = World(campaign(), 1)
    world.view([0])
    world.tell(0, Kind.OFFER_EXPIRED, 1000)
    world.tell(0, Kind.OFFER_REDEEMED, 1000, amount=500)
    world.tell(0, Kind.OFFER_REDEEMED, 77, amount=500)
    assert (world.purse["spent_minor"], world.purse["reserved_minor"], world.purse["unknown"]) == (0, 0, 2)


def test_a_redemption_of_more_than_was_promised_is_charged_and_counted() -> None:
    world = World(campaign(), 1)
    world.view([0])
    world.tell(0, Kind.OFFER_REDEEMED, 1000, amount=700)
    assert (world.purse["spent_minor"], world.purse["overdrawn_minor"]) == (700, 200)
    world.tell(0, Kind.OFFER_REDEEMED, 1000, amount=700)
    world.tell(0, Kind.ORDER_PLACED, 1000, discount=1)
    assert world.wallet.odd() == {"unknown": 1, "mismatched": 1, "overdrawn_minor": 200}
    world.view([0])
    world.tell(0, Kind.OFFER_REDEEMED, 1001, amount=10**12)  # the most that the contract lets through
    assert world.purse["spent_minor"] == 700 + 10**12


def test_a_returned_order_gives_back_what_was_taken_off_once_and_whatever_it_says() -> None:
    for says in (0, 300, 100_000):
        world = World(campaign(), 1)
        world.view([0])
        world.tell(0, Kind.OFFER_REDEEMED, 1000, amount=300)
        for _ in range(2):
            world.tell(0, Kind.ORDER_RETURNED, 1000, discount=says)
        assert (world.purse["spent_minor"], world.purse["reserved_minor"]) == (0, 0)
        assert world.purse["mismatched"] == (says == 100_000)


@pytest.mark.parametrize(
    ("redeemed", "discount", "mismatched"),
    [(None, 500, 0), (None, 0, 0), (None, 501, 1), (300, 300, 0), (300, 0, 0), (300, 299, 1), (300, 500, 1)],
)
def test_an_order_whose_discount_does_not_match_its_offer_is_counted_and_not_charged(
    redeemed: int | None, discount: int, mismatched: int
) -> None:
    world = World(campaign(), 1)
    world.view([0])
    if redeemed is not None:
        world.tell(0, Kind.OFFER_REDEEMED, 1000, amount=redeemed)
    world.tell(0, Kind.ORDER_PLACED, 1000, discount=discount)
    world.tell(0, Kind.ORDER_PLACED, 77, discount=9_999)  # of another offer: nothing is known of it
    assert world.purse["mismatched"] == mismatched
    reserved = 500 if redeemed is None else 0
    assert (world.purse["spent_minor"], world.purse["reserved_minor"]) == (redeemed or 0, reserved)


def test_a_percentage_reserves_that_of_the_price_and_at_most_what_the_arm_allows() -> None:
    ten = {"id": "five", "kind": "percent", "percent": 10, "max_discount_minor": 900}
    world = World(campaign(arms=[ten]), 3)
    for user, (price, cost) in enumerate(((1_005, 101), (100_000, 900), (0, 900))):
        assert world.view([user], price_minor=price)["value_minor"].tolist() == [cost]
        assert world.rows["open_cost"][user] == cost


def test_a_dry_run_takes_no_money() -> None:
    world = World(campaign(state="dry_run"), 2)
    assert world.view([0, 1])["reason"].tolist() == [Reason.DRY_RUN] * 2
    assert world.purse["reserved_minor"] == 0
    assert not world.rows["open_cost"].any()


def test_a_budget_that_is_raised_or_cut_keeps_what_was_spent() -> None:
    world = World(campaign(), 9)
    world.view([0, 1])
    world.campaigns = campaign(version=2, budget={"total_minor": 1_400, "pacing": "asap"})
    assert world.view([2])["reason"].tolist() == [Reason.BUDGET]
    world.campaigns = campaign(version=3, budget={"total_minor": 1_500, "pacing": "asap"})
    assert world.view([2, 3])["reason"].tolist() == [Reason.OFFERED, Reason.BUDGET]


@pytest.mark.parametrize(
    "per_hour", [lambda _: 40, lambda hour: 200 if 60 <= hour < 66 else 0 if 90 <= hour < 102 else 40]
)
def test_spending_follows_the_plan_through_a_spike_and_a_lull(per_hour: Any) -> None:
    """Ten days, a third of the offers is redeemed, three hours after they were made; the rest expires then."""
    begin_ms = 1_790_035_200_000  # 2026-09-22
    total = 400_000
    world = World(campaign(**{"from": "2026-09-22", "until": "2026-10-02", "budget": {"total_minor": total}}), 20_000)
    due: list[tuple[int, int, int]] = []
    user, spent = 0, []
    for hour in range(240):
        now_ms = begin_ms + hour * 3_600_000
        while due and due[0][0] <= hour:
            _, who, offer = due.pop(0)
            kind = Kind.OFFER_REDEEMED if offer % 3 == 0 else Kind.OFFER_EXPIRED
            world.tell(who, kind, offer, amount=500)
        world.rows["last_ms"] = now_ms
        users = list(range(user, user + per_hour(hour)))
        user += len(users)
        before = world.next_offer
        world.view(users, now_ms)
        due += [(hour + 3, world.promised[o][0], o) for o in range(before, world.next_offer)]
        spent.append(world.purse["spent_minor"])
    for hour in range(48, 240, 6):
        if not 90 <= hour < 126:  # nobody comes for half a day: it takes the next one to make up for it
            assert spent[hour] == pytest.approx(total * hour / 240, rel=0.1), hour
    assert world.purse["spent_minor"] + world.purse["reserved_minor"] <= total
    assert world.purse["spent_minor"] <= total * 240 / 240
    assert DAY_MS
