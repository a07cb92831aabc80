"""Budgets: money that campaigns may cost, what of it is spent or reserved, and what a unit of it has to earn (lambda).

Each partition has its share of a budget, for good: users are spread over partitions by a hash, one user lives in one
partition, so an offer, its redemption and its expiry all meet the same purse. No worker asks another one, and the sum
of the shares is the budget: it holds whatever crashes, as the purse is stored with the rows.

An offer reserves the most that it can cost. It is settled by its redemption (what was taken off is spent, the rest is
free again), its expiry or its release (all of it is free). A user has money reserved for at most one offer at a time:
the row remembers which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.campaign import Campaign, CampaignSet, Profit
from stream.core.events import Kind
from stream.core.parity import Tally
from stream.core.row import DAY_MS, Rows

PENDING = 1
"""`ROW["open_offer"]` until the caller has entered the hash of the offer's id."""

COST_MAX_MINOR = 2**32 - 1
"""Of one offer under a budget: what a row can hold."""

PACE_EVERY_MS = 60_000
USED_SHARE_FIRST = 0.5  # of what is reserved, what is expected to be spent before anything is known
USED_SHARE_OFFERS = 20  # offers after which what is known counts as much
LEAD_MS = DAY_MS // 2  # how far ahead of the plan the profit policy may be while lambda brings it back
TRACKING_GAIN = 4.0  # lambda for a day of spending ahead of the plan
TRACKING_DAYS = 4.0  # in which a lasting distance from the plan adds that much again
PRICE_MAX = 1000.0


@dataclass(slots=True)
class Purse:
    """A partition's share of one budget, in minor units."""

    limit_minor: int = 0
    spent_minor: int = 0
    reserved_minor: int = 0
    settled_minor: int = 0
    """Reserved for offers that are settled by now ..."""
    used_minor: int = 0
    """... and what they cost in the end."""
    settled: int = 0
    price: float = 0.0
    """Lambda."""
    lasting: float = 0.0
    """The part of it that a lasting distance from the plan has made."""
    paced_ms: int = 0
    unknown: int = 0
    """Redemptions that named no open offer: of unknown offers, a second time, or after expiry. Not charged."""
    overdrawn_minor: int = 0
    """What redemptions took off beyond what their offers allowed; charged."""
    mismatched: int = 0
    """Orders whose discount is not what their offer allowed, or took off. Redemptions are charged, never orders."""

    @property
    def free_minor(self) -> int:
        """Neither spent nor reserved."""
        return self.limit_minor - self.spent_minor - self.reserved_minor

    @property
    def used_share(self) -> float:
        """Expected share of what is reserved that will be spent."""
        mean = self.settled_minor / self.settled if self.settled else 1.0
        weight = USED_SHARE_OFFERS * mean
        return (self.used_minor + USED_SHARE_FIRST * weight) / (self.settled_minor + weight)

    @property
    def forecast_minor(self) -> float:
        """What will have been spent when all open offers are settled."""
        return self.spent_minor + self.used_share * self.reserved_minor


ODD = ("unknown", "mismatched", "overdrawn_minor")
"""Fields of a purse that tell of what did not fit."""


OF_PARITY = "parity:"
"""What stands before the key of a tally where a wallet is stored."""


class Wallet:
    """The purses of one partition, and its tallies of offers by group, by `Campaign.key`."""

    def __init__(self) -> None:
        self.purses: dict[int, Purse] = {}
        self.tallies: dict[int, Tally] = {}

    def __bool__(self) -> bool:
        return bool(self.purses)

    def price(self, campaign: Campaign) -> float:
        """What one unit of the campaign's budget has to earn; 0 without one."""
        purse = self.purses.get(campaign.key) if self.purses else None
        return purse.price if purse else 0.0

    def follow(self, campaigns: CampaignSet, partition: int, n_partitions: int, now_ms: int) -> None:
        """Take over the budgets and the bounds of parity of the campaigns in force, and bring lambda up to date.

        A budget that was raised or cut changes the limit; what was spent stays. The purse of a campaign that is gone
        stays too: its offers may be redeemed, and it may come back. Who is grouped in another way is counted anew.
        """
        for campaign in campaigns.campaigns:
            if campaign.parity is not None:
                tally = self.tallies.get(campaign.key)
                if tally is None or tally.by != campaign.parity.by:
                    self.tallies[campaign.key] = Tally(campaign.parity.by)
            if campaign.budget is None:
                continue
            purse = self.purses.setdefault(campaign.key, Purse())
            purse.limit_minor = share_minor(campaign.budget.total_minor, partition, n_partitions)
            if campaign.budget.paced and isinstance(campaign.policy, Profit):
                _pace(purse, campaign, now_ms)

    def affords(self, campaign: Campaign, cost_minor: NDArray[np.int64], now_ms: int) -> NDArray[np.bool_]:
        """Which offers there is money for, in this order, bool [n]; where one is too much, so are those after it.

        Args:
            campaign: with a budget.
            cost_minor: [n], the most that each would cost; 0 = no offer.
            now_ms: time of the decision.
        """
        purse = self.purses.get(campaign.key)
        if purse is None or campaign.budget is None:
            return np.zeros(len(cost_minor), bool)
        total = np.cumsum(cost_minor)
        afforded: NDArray[np.bool_] = total <= purse.free_minor
        if campaign.budget.paced:
            lead_ms = LEAD_MS if isinstance(campaign.policy, Profit) else 0
            left = _planned_minor(purse, campaign, now_ms + lead_ms) - purse.forecast_minor
            afforded &= total * purse.used_share <= left
        return afforded

    def reserve(self, rows: Rows, at: NDArray[np.int64], offers: NDArray[np.void], campaigns: CampaignSet) -> None:
        """Reserve the money of offers made, in place.

        Args:
            rows: ROW [any], of which
            at: [n] got an offer.
            offers: DECISION [n], those.
            campaigns: in force.
        """
        for index in np.unique(offers["campaign"]).tolist():
            campaign = campaigns.campaigns[index]
            if campaign.budget is None:
                continue
            those = offers["campaign"] == index
            to, cost = at[those], costs_minor(campaign, offers[those])
            rows["open_offer"][to] = PENDING
            rows["open_campaign"][to] = campaign.key
            rows["open_cost"][to] = cost
            rows["offer_used"][to] = 0
            self.purses[campaign.key].reserved_minor += int(cost.sum())

    def settle(self, events: Events, row: NDArray[np.int64], rows: Rows) -> None:
        """Settle what became of offers, and give back what returned orders had cost, in place.

        1. An offer that is open: redeemed, its amount is spent; expired or released, nothing is.
        2. An order cancelled or returned that had used the last settled offer: what the redemption took off is given
           back, once; never more, whatever the order says.
        3. An order whose discount is more than its open offer allows, or another one than the redemption's, is counted.
        4. Any other redemption is counted as unknown: of an offer that no row knows, a second time, after expiry.

        Args:
            events: EVENT [N], in the order in which they apply.
            row: [N], each event's row in `rows`.
            rows: ROW [any].
        """
        which = np.flatnonzero(_SETTLES[events["kind"]] & (events["offer"] != 0))
        for i in which.tolist():
            self._settle(events[i], rows[row[i] : row[i] + 1])

    def _settle(self, event: np.void, row: Rows) -> None:
        purse = self.purses.get(int(row["open_campaign"][0]))
        kind, cost = int(event["kind"]), int(row["open_cost"][0])
        known = purse is not None and int(row["open_offer"][0]) == offer_key(int(event["offer"]))
        if purse is None or not known:
            if purse is not None and kind == Kind.OFFER_REDEEMED:
                purse.unknown += 1
            return
        used_before = bool(row["offer_used"][0])
        if kind in _ORDERS:  # 3. One that says no discount says nothing against the redemption.
            discount = int(event["discount_minor"])
            purse.mismatched += discount not in (0, cost) if used_before else discount > cost
        if cost and not used_before and kind in _ENDS:  # 1.
            used = int(event["amount_minor"]) if kind == Kind.OFFER_REDEEMED else 0
            purse.reserved_minor -= cost
            purse.spent_minor += used
            purse.overdrawn_minor += max(used - cost, 0)
            purse.settled_minor += cost
            purse.used_minor += used
            purse.settled += 1
            row["open_cost"], row["offer_used"] = min(used, COST_MAX_MINOR), kind == Kind.OFFER_REDEEMED
            if kind != Kind.OFFER_REDEEMED:
                row["open_offer"] = 0
        elif used_before and kind in (Kind.ORDER_CANCELLED, Kind.ORDER_RETURNED):  # 2.
            purse.spent_minor -= cost
            row["open_offer"], row["open_cost"], row["offer_used"] = 0, 0, 0
        elif kind == Kind.OFFER_REDEEMED:  # 4.
            purse.unknown += 1

    def odd(self) -> dict[str, int]:
        """What was told of offers and did not fit, since ever, by the names in ODD."""
        purses = list(self.purses.values())  # at once: another thread may add one meanwhile
        return {field: sum(getattr(purse, field) for purse in purses) for field in ODD}

    def state(self) -> dict[str, dict[str, float]]:
        """To be stored with the rows."""
        purses: dict[str, dict[str, float]] = {str(key): asdict(purse) for key, purse in self.purses.items()}
        return purses | {f"{OF_PARITY}{key}": tally.state() for key, tally in self.tallies.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Mapping[str, float]]) -> "Wallet":
        """What `state` stored."""
        wallet = cls()
        for key, stored in state.items():
            if key.startswith(OF_PARITY):
                wallet.tallies[int(key.removeprefix(OF_PARITY))] = Tally.from_state(stored)
            else:
                wallet.purses[int(key)] = Purse(**stored)  # type: ignore[arg-type]
        return wallet


NO_BUDGETS = Wallet()
"""Of a worker without any budget: never filled."""

_ENDS = (Kind.OFFER_REDEEMED, Kind.OFFER_EXPIRED, Kind.OFFER_RELEASED)
_SETTLES = np.zeros(len(Kind), bool)
_ORDERS = (Kind.ORDER_PLACED, Kind.ORDER_CANCELLED, Kind.ORDER_RETURNED)
_SETTLES[[*_ENDS, *_ORDERS]] = True


def name_open_offers(
    rows: Rows, at: NDArray[np.int64], offers: NDArray[np.void], campaigns: CampaignSet, ids: Sequence[int]
) -> None:
    """Enter which offers were made, where money was reserved for one, in place.

    Args:
        rows: ROW [any], of which
        at: [n] got offers, in the order in which they were made; a row may have got several.
        offers: DECISION [n], those.
        campaigns: in force.
        ids: n 64-bit hashes of the offers' ids.
    """
    for i, index, id_ in zip(at.tolist(), offers["campaign"].tolist(), ids, strict=True):
        if campaigns.campaigns[index].budget is not None:
            rows["open_offer"][i] = offer_key(id_)


def offer_key(offer: int) -> int:
    """An offer in rows: the low 32 bits of the hash of its id, above PENDING."""
    return max(offer & 0xFFFFFFFF, PENDING + 1)


def share_minor(total_minor: int, partition: int, n_partitions: int) -> int:
    """A partition's share of a budget; the first partitions have a unit more where it does not divide."""
    share, rest = divmod(total_minor, n_partitions)
    return share + (partition < rest)


def cost_max_minor(campaign: Campaign, arm: NDArray[np.int16], price_minor: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most that an offer of each arm takes off, int64 [n]: what is reserved for it, and what it says it is worth.

    Of percent arms it is the percentage of the price that triggered it, where there is one, and what the arm allows at
    most.

    Args:
        campaign: with a budget.
        arm: [n], index into its arms; -1 = "none", which costs 0.
        price_minor: [n], of the triggers; 0 = not given.
    """
    most = np.array([*(a.cost_max_minor for a in campaign.arms), 0])[arm]
    depth_bp = np.array([*(a.depth_bp for a in campaign.arms), 0])[arm]
    of_price = -(-price_minor * depth_bp // 10_000)
    cost: NDArray[np.int64] = np.where((of_price > 0) & (of_price < most), of_price, most)
    return cost


def costs_minor(campaign: Campaign, offers: NDArray[np.void]) -> NDArray[np.int64]:
    """What is reserved for offers of one campaign, int64 [n]."""
    fixed = np.array([arm.cost_minor for arm in campaign.arms])[offers["arm"]]
    cost: NDArray[np.int64] = np.maximum(offers["value_minor"], fixed)
    return cost


def _planned_minor(purse: Purse, campaign: Campaign, now_ms: int) -> float:
    """What may be spent by then: the limit, evenly over the campaign's time."""
    elapsed = (now_ms - campaign.from_ms) / (campaign.until_ms - campaign.from_ms)
    return purse.limit_minor * min(max(elapsed, 0.0), 1.0)


def _pace(purse: Purse, campaign: Campaign, now_ms: int) -> None:
    """Move lambda so that the forecast follows the plan: proportional and integral control of the distance from it."""
    if not campaign.from_ms <= now_ms < campaign.until_ms:
        return
    if now_ms - purse.paced_ms < PACE_EVERY_MS:
        return
    days = min((now_ms - purse.paced_ms) / DAY_MS, 0.25) if purse.paced_ms else 0.0
    a_day_minor = max(purse.limit_minor * DAY_MS / (campaign.until_ms - campaign.from_ms), 1.0)
    ahead_days = (purse.forecast_minor - _planned_minor(purse, campaign, now_ms)) / a_day_minor
    ahead_days = min(max(ahead_days, -2.0), 2.0)
    purse.lasting = min(max(purse.lasting + TRACKING_GAIN * ahead_days * days / TRACKING_DAYS, 0.0), PRICE_MAX)
    purse.price = min(max(purse.lasting + TRACKING_GAIN * ahead_days, 0.0), PRICE_MAX)
    purse.paced_ms = now_ms
