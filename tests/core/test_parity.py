"""Parity: no group of users gets offers more often than the bound lets it, whatever the policy wants for whom."""

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.budget import Wallet
from stream.core.campaign import CampaignSet
from stream.core.decide import Decisions, Reason, decide, holdout
from stream.core.events import CONSENT_YES, EVENT, Kind
from stream.core.parity import COMPARED_FROM, Tally
from stream.core.row import DAY_MS, new_rows
from stream.core.shares import respread
from tests.core import coupon

NOW_MS = 1_790_000_000_000
GROUPS = 3
RATIO = Fraction(4, 5)


def campaign(**fields: Any) -> CampaignSet:
    return coupon.campaign(**{"parity": {"by": "tier", "ratio_min": float(RATIO)}, **fields})


def ask(
    campaigns: CampaignSet, wallet: Wallet, groups: Sequence[int], wants: Sequence[bool], first_user: int = 0
) -> Decisions:
    """One round: users of these tiers, for some of whom the policy wants an offer."""
    n = len(groups)
    wallet.follow(campaigns, 0, 1, NOW_MS)
    rows, events = new_rows(n), np.zeros(n, EVENT)
    rows["consent"], rows["last_ms"], rows["tier"] = CONSENT_YES, NOW_MS, groups
    rows["first_ms"] = NOW_MS - 90 * DAY_MS
    rows["count_30d"][:, :, Kind.ORDER_PLACED] = np.array(wants, int)[:, None]
    events["kind"], events["time_ms"] = Kind.PRODUCT_VIEW, NOW_MS
    events["user"] = np.arange(first_user, first_user + n)
    scores = np.full((n, 1), np.nan, np.float32)
    return decide(events, rows, scores, campaigns, NOW_MS, np.zeros(n), 60_000, wallet)


class Account:
    """What was asked and offered, counted one by one."""

    def __init__(self) -> None:
        self.asked, self.offered = [0] * GROUPS, [0] * GROUPS

    def most(self, group: int) -> Fraction | None:
        """Offers that a group may have had; None = any number."""
        rates = [
            Fraction(self.offered[g], self.asked[g])
            for g in range(GROUPS)
            if g != group and self.asked[g] >= COMPARED_FROM
        ]
        return min(rates) / RATIO * self.asked[group] + 1 if rates else None


USERS = st.lists(st.tuples(st.integers(0, GROUPS - 1), st.booleans()), max_size=400)


@settings(max_examples=30, deadline=None)
@given(USERS, st.integers(0, 100))
def test_one_by_one_an_offer_is_withheld_where_a_naive_account_says_so(
    users: list[tuple[int, bool]], restart: int
) -> None:
    campaigns, wallet, account = campaign(), Wallet(), Account()
    for i, (group, wanted) in enumerate(users):
        if i == restart:
            wallet = Wallet.from_state(json.loads(json.dumps(wallet.state())))
        (reason,) = ask(campaigns, wallet, [group], [wanted])["reason"].tolist()
        account.asked[group] += 1
        most = account.most(group)
        free = most is None or account.offered[group] + 1 <= most
        assert reason == (Reason.POLICY_NONE if not wanted else Reason.OFFERED if free else Reason.PARITY)
        account.offered[group] += reason == Reason.OFFERED


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_in_rounds_no_group_is_ever_further_ahead_than_the_bound(seed: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    campaigns, wallet, account = campaign(), Wallet(), Account()
    eager = draw.random(GROUPS)
    for _ in range(40):
        groups = draw.choice(GROUPS, size, p=[0.6, 0.3, 0.1])
        wants = draw.random(size) < eager[groups]
        reasons = ask(campaigns, wallet, groups.tolist(), wants.tolist())["reason"]
        for group, reason in zip(groups.tolist(), reasons.tolist(), strict=True):
            account.asked[group] += 1
            account.offered[group] += reason == Reason.OFFERED
        assert (wants == np.isin(reasons, (Reason.OFFERED, Reason.PARITY))).all()
        for group in set(groups[reasons == Reason.OFFERED].tolist()):
            most = account.most(group)
            assert most is None or account.offered[group] <= most


def rates(campaigns: CampaignSet, partitions: int) -> float:
    """Lowest over highest rate, over all partitions: the policy wants five times as many offers for one group."""
    draw = np.random.default_rng(7)
    asked, offered = np.zeros(2), np.zeros(2)
    wallets = [Wallet() for _ in range(partitions)]
    for _ in range(4_000 // partitions):
        for wallet in wallets:
            groups = draw.integers(0, 2, 10)
            wants = draw.random(10) < np.array([0.1, 0.5])[groups]
            reasons = ask(campaigns, wallet, groups.tolist(), wants.tolist())["reason"]
            np.add.at(asked, groups, 1)
            np.add.at(offered, groups[reasons == Reason.OFFERED], 1)
    found = offered / asked
    return float(found.min() / found.max())


def test_over_all_partitions_it_holds_within_chance() -> None:
    assert rates(campaign(parity={"by": "tier", "ratio_min": 0.8}), 8) > 0.75
    assert rates(campaign(parity={"by": "tier", "ratio_min": 0.1}), 8) < 0.25  # what the policy wants


def test_a_group_that_the_policy_wants_nothing_for_holds_the_others_back() -> None:
    campaigns, wallet = campaign(), Wallet()
    ask(campaigns, wallet, [0] * COMPARED_FROM, [False] * COMPARED_FROM)
    reasons = ask(campaigns, wallet, [1] * 50, [True] * 50)["reason"].tolist()
    assert reasons == [Reason.OFFERED] + [Reason.PARITY] * 49
    # As soon as it gets some, the others follow: one of 60 is 1.04 of 50 at four fifths, and one more.
    ask(campaigns, wallet, [0] * COMPARED_FROM, [True] + [False] * (COMPARED_FROM - 1))
    assert ask(campaigns, wallet, [1], [True])["reason"].tolist() == [Reason.OFFERED]
    assert ask(campaigns, wallet, [1], [True])["reason"].tolist() == [Reason.PARITY]


def test_users_are_grouped_by_segment() -> None:
    campaigns, wallet = campaign(parity={"by": "segment", "ratio_min": 1}), Wallet()
    ask(campaigns, wallet, [0] * 40, [False] * 40)
    frequent = ask(campaigns, wallet, [0] * 3, [True] * 3)  # an order in each tile of the window: frequent ones
    assert frequent["reason"].tolist() == [Reason.OFFERED, Reason.PARITY, Reason.PARITY]


def test_who_is_held_out_does_not_count_and_a_dry_run_is_not_bound() -> None:
    campaigns, wallet = campaign(holdout=0.5), Wallet()
    ask(campaigns, wallet, [0] * 1_000, [True] * 1_000)
    held = holdout(np.arange(1_000, dtype=np.uint64), campaigns.campaigns[0].salt, 0.5)
    (tally,) = wallet.tallies.values()
    assert tally.asked.sum() == tally.offered.sum() == (~held).sum()
    dry, wallet = campaign(state="dry_run"), Wallet()
    ask(dry, wallet, [0] * 50, [False] * 50)
    assert set(ask(dry, wallet, [1] * 50, [True] * 50)["reason"].tolist()) == {Reason.DRY_RUN}


def test_an_offer_that_there_was_no_money_for_does_not_count() -> None:
    campaigns, wallet = campaign(budget={"total_minor": 1_500, "pacing": "asap"}), Wallet()
    reasons = ask(campaigns, wallet, [1] * 5, [True] * 5)["reason"].tolist()
    assert reasons == [Reason.OFFERED] * 3 + [Reason.BUDGET] * 2
    (tally,) = wallet.tallies.values()
    assert (tally.asked.sum(), tally.offered.sum()) == (5, 3)


def test_without_a_tally_nothing_is_offered() -> None:
    """As without a purse: nobody can tell what was offered before."""
    campaigns = campaign()
    wallet = Wallet()
    wallet.follow(CampaignSet(), 0, 1, NOW_MS)
    rows, events = new_rows(1), np.zeros(1, EVENT)
    rows["consent"], rows["last_ms"] = CONSENT_YES, NOW_MS
    rows["count_30d"][:, :, Kind.ORDER_PLACED] = 1
    events["kind"], events["time_ms"] = Kind.PRODUCT_VIEW, NOW_MS
    made = decide(events, rows, np.zeros((1, 1), np.float32), campaigns, NOW_MS, np.zeros(1), 60_000, wallet)
    assert made["reason"].tolist() == [Reason.PARITY]


def test_grouped_in_another_way_they_are_counted_anew() -> None:
    wallet = Wallet()
    ask(campaign(), wallet, [1] * 9, [True] * 9)
    ask(campaign(version=2, parity={"by": "tier", "ratio_min": 0.5}), wallet, [1], [True])
    assert sum(int(tally.asked.sum()) for tally in wallet.tallies.values()) == 10
    ask(campaign(version=3, parity={"by": "segment", "ratio_min": 0.5}), wallet, [1], [True])
    assert sum(int(tally.asked.sum()) for tally in wallet.tallies.values()) == 1


@pytest.mark.parametrize("n", [1, 3, 8])
def test_another_number_of_partitions_keeps_the_sums(n: int) -> None:
    wallets = [Wallet() for _ in range(4)]
    for i, wallet in enumerate(wallets):
        ask(campaign(), wallet, [1] * (7 + i) + [2] * i, [True] * (7 + i) + [False] * i)
    wallets[3].tallies = {key: Tally("segment") for key in wallets[3].tallies}  # it has met a version of long ago
    spread = [Wallet.from_state(state) for state in respread([wallet.state() for wallet in wallets], {}, n)]
    tallies = [tally for wallet in spread for tally in wallet.tallies.values()]
    assert {tally.by for tally in tallies} == {"tier"}
    asked, offered = (np.sum([getattr(tally, name) for tally in tallies], axis=0) for name in ("asked", "offered"))
    assert asked[[2, 3]].tolist() == [7 + 8 + 9, 0 + 1 + 2]  # a tier's group is one above its number
    assert offered[[2, 3]].tolist() == [24, 0]
