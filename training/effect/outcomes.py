"""Who was offered something and who was held out, and what they did before and after: one row a user and campaign."""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.records import Decision, Feedback, Order
from training.tables import Reals

GROUPS = {"offered": True, "holdout": False}
"""By reason: both are logged only where the policy chose an arm, so the groups differ by chance alone."""


@dataclass(frozen=True)
class Exposed:
    """Users of one campaign, from their first decision in which its policy chose an arm."""

    campaign: str
    offered: NDArray[np.bool_]
    """[N]; False: held out."""
    first_ms: NDArray[np.int64]
    """[N]"""
    outcomes: dict[str, Reals]
    """By name, [N] each, over the horizon after it; NaN where there is none, such as the rating of who gave none."""
    before: Reals
    """[N, C], the same user before: orders, revenue, and the score of the decision."""
    users_too_recent: int
    """Left out: their horizon is not over."""


class Margins(NamedTuple):
    """How an order's margin is known."""

    rate: float | None
    """Share of the price before discounts that is left after its cost, for orders without costs."""


def exposed(
    decisions: list[Decision], orders: list[Order], feedback: list[Feedback], horizon_ms: int, margins: Margins
) -> list[Exposed]:
    """Of every campaign that held somebody out or offered something.

    Raises:
        TrainingError: a user of a campaign is offered and held out, so the holdout is not what it says.
    """
    times_ms = [d.time_ms for d in decisions] + [o.time_ms for o in orders] + [f.time_ms for f in feedback]
    end_ms = max(times_ms, default=0)
    ledger = Ledger(orders, feedback, margins)
    by_campaign: dict[str, dict[str, Decision]] = defaultdict(dict)
    for decision in sorted(decisions, key=lambda one: one.time_ms):
        if decision.campaign_id is not None and decision.reason in GROUPS:
            first = by_campaign[decision.campaign_id].setdefault(decision.user_id, decision)
            if GROUPS[first.reason] != GROUPS[decision.reason]:
                told = (
                    f"{decision.user_id} is {decision.reason} in {decision.campaign_id}, and was {first.reason} before"
                )
                mend = "the holdout changed under way; judge each part of the log by itself"
                raise TrainingError(f"decision {decision.decision_id}: {told}: {mend}")
    return [_of_campaign(name, firsts, ledger, end_ms, horizon_ms) for name, firsts in sorted(by_campaign.items())]


def _of_campaign(campaign: str, firsts: dict[str, Decision], ledger: "Ledger", end_ms: int, horizon_ms: int) -> Exposed:
    complete = [one for one in firsts.values() if one.time_ms + horizon_ms <= end_ms]
    rows = [ledger.between(one.user_id, one.time_ms, one.time_ms + horizon_ms) for one in complete]
    before = [ledger.between(one.user_id, one.time_ms - horizon_ms, one.time_ms) for one in complete]
    names = Period._fields
    columns = {name: np.array([getattr(row, name) for row in rows], np.float64) for name in names}
    past = [[one.orders, one.revenue, first.score or 0.0] for one, first in zip(before, complete, strict=True)]
    return Exposed(
        campaign,
        np.array([GROUPS[one.reason] for one in complete], bool),
        np.array([one.time_ms for one in complete], np.int64),
        {"conversion": (columns["orders"] > 0).astype(np.float64), **columns},
        np.array(past, np.float64).reshape(len(complete), 3),
        len(firsts) - len(complete),
    )


class Period(NamedTuple):
    """What one user did in a stretch of time. Money in minor units."""

    orders: float
    revenue: float
    """Paid minus paid back."""
    margin: float
    """Revenue minus cost of what was sold and not returned; NaN where an order tells neither cost nor rate."""
    discount: float
    rating: float
    """Mean; NaN without one."""
    complaints: float


class _Entry(NamedTuple):
    time_ms: int
    orders: float = 0.0
    revenue: float = 0.0
    margin: float = 0.0
    discount: float = 0.0
    rating: float = 0.0
    """0: none was given."""
    complaints: float = 0.0


class Ledger:
    """Orders and feedback of each user, in order of time."""

    def __init__(self, orders: list[Order], feedback: list[Feedback], margins: Margins) -> None:
        self._orders: dict[str, list[_Entry]] = defaultdict(list)
        self._feedback: dict[str, list[_Entry]] = defaultdict(list)
        placed = {(one.user_id, one.order_id): one for one in orders if one.kind == "placed"}
        for one in sorted(orders, key=lambda order: order.time_ms):
            if one.kind == "placed":
                discount, margin = float(one.discount_minor or 0), order_margin(one, margins)
                entry = _Entry(one.time_ms, 1.0, float(one.total_minor), margin, discount)
            else:
                # What is paid back takes its share of the order's margin with it.
                first = placed.get((one.user_id, one.order_id))
                share = (
                    min(one.total_minor / first.total_minor, 1.0) if first is not None and first.total_minor else 0.0
                )
                back = share * order_margin(first, margins) if first is not None else float("nan")
                gone = -1.0 if one.kind == "cancelled" and share >= 1 else 0.0
                entry = _Entry(one.time_ms, gone, -float(one.total_minor), -back)
            self._orders[one.user_id].append(entry)
        for said in sorted(feedback, key=lambda one: one.time_ms):
            if said.kind == "rating":
                self._feedback[said.user_id].append(_Entry(said.time_ms, rating=float(said.rating or 0)))
            elif said.kind == "complaint":
                self._feedback[said.user_id].append(_Entry(said.time_ms, complaints=1.0))

    def between(self, user: str, from_ms: int, until_ms: int) -> Period:
        """What the user did from the one moment, not included, to the other, included."""
        sold = _cut(self._orders.get(user, []), from_ms, until_ms)
        said = _cut(self._feedback.get(user, []), from_ms, until_ms)
        ratings = [one.rating for one in said if one.rating > 0]
        return Period(
            orders=sum(one.orders for one in sold),
            revenue=sum(one.revenue for one in sold),
            margin=sum(one.margin for one in sold),
            discount=sum(one.discount for one in sold),
            rating=sum(ratings) / len(ratings) if ratings else float("nan"),
            complaints=sum(one.complaints for one in said),
        )


def order_margin(order: Order, margins: Margins) -> float:
    """What an order leaves after the cost of its goods, minor units; NaN where nobody says what they cost."""
    lines = order.lines or []
    if lines and all(line.unit_cost_minor is not None for line in lines):
        return float(order.total_minor - sum(line.quantity * (line.unit_cost_minor or 0) for line in lines))
    if margins.rate is None:
        return float("nan")
    discount = order.discount_minor or 0
    return margins.rate * (order.total_minor + discount) - discount


def _cut(entries: list[_Entry], from_ms: int, until_ms: int) -> list[_Entry]:
    first, end = (bisect_right(entries, at_ms, key=lambda one: one.time_ms) for at_ms in (from_ms, until_ms))
    return entries[first:end]
