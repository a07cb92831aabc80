"""Policies: which arm, and how deep, for triggers that a campaign may serve. All but `Explore` are deterministic."""

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.campaign import (
    Arm,
    ArmKind,
    BySegment,
    Calendar,
    Campaign,
    Explore,
    Frequency,
    Linear,
    Objective,
    Occasion,
    Policy,
    Profit,
    Threshold,
    Today,
)
from stream.core.events import Kind
from stream.core.facts import Triggers

NONE = -1
"""The arm "none"."""

Floats = NDArray[np.float64]


class Choice(NamedTuple):
    """What a policy chose."""

    arm: NDArray[np.int16]
    """[n], index into the campaign's arms, or NONE."""
    depth_bp: NDArray[np.int32] | None
    """[n], where the policy sets the depth; None = the arm's own."""


def needs_score(policy: Policy) -> bool:
    """Whether the policy cannot choose without a model's score."""
    return isinstance(policy, Threshold | Linear)


def cannot_choose(policy: Policy) -> bool:
    """Whether the policy has learned nothing yet to choose by."""
    return isinstance(policy, Profit) and policy.response is None


def choose(  # noqa: PLR0911 one for each policy
    campaign: Campaign,
    score: NDArray[np.float32],
    triggers: Triggers,
    at: NDArray[np.int64],
    today: Today,
    dual_price: float,
) -> Choice:
    """Ask a campaign's policy.

    Args:
        campaign: whose policy is asked.
        score: [n], P(purchase) without an offer; NaN = not known, for which a policy that needs it chooses "none".
        triggers: the triggers, of which
        at: [n] are asked about.
        today: day of the shop.
        dual_price: what one unit of the campaign's budget has to earn.
    """
    policy = campaign.policy
    match policy:
        case Threshold():
            # In float64: a threshold of 0.3 means 0.3, not the float32 next to it.
            return _one_arm(score.astype(np.float64) > policy.probability, policy.arm)
        case Frequency():
            return _one_arm(triggers.count(policy.window, Kind.ORDER_PLACED)[at] > policy.more_than, policy.arm)
        case Linear():
            depth_bp = linear_depth_bp(policy, score)
            return _one_arm((depth_bp > 0) & (score == score), policy.arm)._replace(depth_bp=depth_bp)  # noqa: PLR0124 (NaN)
        case BySegment():
            return Choice(np.array(policy.arms, np.int16)[triggers.segments()[at]], None)
        case Calendar():
            return _one_arm(_celebrates(policy, triggers, at, today), policy.arm)
        case Profit():
            return Choice(_most_profitable(campaign.arms, policy, triggers, at, dual_price), None)
        case Explore():  # drawn by `decide`, as all exploration
            return _one_arm(np.zeros(len(at), bool), NONE)


def linear_depth_bp(policy: Linear, score: NDArray[np.float32]) -> NDArray[np.int32]:
    """The depth of a linear policy in basis points, int32 [n]; 0 where the score [n] is not known."""
    depth = np.clip(score.astype(np.float64) * policy.slope + policy.intercept, policy.depth_min, policy.depth_max)
    return np.rint(np.nan_to_num(depth) * 10_000).astype(np.int32)


def _one_arm(chosen: NDArray[np.bool_], arm: int) -> Choice:
    return Choice(np.where(chosen, np.int16(arm), np.int16(NONE)), None)


def _celebrates(policy: Calendar, triggers: Triggers, at: NDArray[np.int64], today: Today) -> NDArray[np.bool_]:
    """Whose occasion is near today, bool [n]."""
    days = [
        today.date + dt.timedelta(days=shift) for shift in range(-policy.days_after, policy.days_before + 1)
    ]  # those whose occasion would make today one of its days
    if policy.occasion == Occasion.DATES:
        named = any(
            (y in (0, d.year)) and (m in (0, d.month)) and day == d.day for d in days for y, m, day in policy.dates
        )
        return np.full(len(at), named)
    codes = [d.month * 32 + d.day for d in days]
    if any((d.month, d.day) == (2, 28) and not _is_leap(d.year) for d in days):
        codes.append(2 * 32 + 29)  # in other years they celebrate a day earlier
    if policy.occasion == Occasion.BIRTHDAY:
        return np.isin(triggers["birthday"][at], codes)
    registered_ms = triggers["registered_ms"][at]
    # The day of the shop with today's distance from UTC: a registration within an hour of midnight may be a day off
    # where clocks have changed since.
    shift_ms = today.day * 86_400_000 - today.begins_ms
    date = ((registered_ms + shift_ms) // 86_400_000).astype("M8[D]")
    month = date.astype("M8[M]")
    code = (month.astype(np.int64) % 12 + 1) * 32 + (date - month).astype(np.int64) + 1
    year_ago = date < np.datetime64(today.date) - np.timedelta64(policy.days_after + 180, "D")
    return (registered_ms != 0) & year_ago & np.isin(code, codes)


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def discounts(arms: tuple[Arm, ...], basket: Floats) -> Floats:
    """What each arm takes off a basket, minor units, float64 [n, arms]; what it costs, for shipping and gifts."""
    off = np.empty((len(basket), len(arms)))
    for i, arm in enumerate(arms):
        if arm.kind == ArmKind.PERCENT:
            value = basket * (arm.depth_bp / 10_000)
            if arm.max_discount_minor:
                value = np.minimum(value, arm.max_discount_minor)
        elif arm.tiers:
            value = np.zeros(len(basket))
            for min_spend_minor, off_minor in arm.tiers:
                value[basket >= min_spend_minor] = off_minor
        elif arm.kind == ArmKind.COUPON:
            value = np.minimum(basket, arm.value_minor)
        else:
            value = np.full(len(basket), float(arm.cost_minor))
        off[:, i] = np.where(basket >= arm.min_spend_minor, value, 0)
    return off


class Gains(NamedTuple):
    """What the profit policy sees in each arm, float64 [n, arms]; money in minor units, but of the objective orders."""

    uplift: Floats
    """P(purchase) with the arm less that without."""
    gain: Floats
    """What the campaign's objective gains, the cost of the discount taken off."""
    cost: Floats
    """Expected, of the discount."""
    net: Floats
    """The gain less the dual price of the cost; -inf where there is no uplift."""


def gains(arms: tuple[Arm, ...], policy: Profit, triggers: Triggers, at: NDArray[np.int64], dual_price: float) -> Gains:
    """Value each arm for the triggers `at`, by a response that is there."""
    if policy.response is None:
        raise ValueError("nothing is learned yet")
    forecast = policy.response.forecast(triggers, at)
    off = discounts(arms, forecast.basket)
    depth = off / np.maximum(forecast.basket, 1)[:, None]
    buys = forecast.buys(depth)
    more = buys - forecast.buys_unprompted[:, None]
    cost = forecast.redeems(depth) * off
    if policy.objective == Objective.MARGIN:
        gain = more * (forecast.basket * policy.margin_rate)[:, None] - cost
    elif policy.objective == Objective.REVENUE:
        gain = more * forecast.basket[:, None] - cost
    else:
        gain = more
    return Gains(more, gain, cost, np.where(more > 0, gain - dual_price * cost, -np.inf))


def _most_profitable(
    arms: tuple[Arm, ...], policy: Profit, triggers: Triggers, at: NDArray[np.int64], dual_price: float
) -> NDArray[np.int16]:
    """The arm of the largest uplift less the dual price of its expected cost; NONE where no arm's is above 0, [n].

    A multiple-choice knapsack, solved by its dual (Albert and Goldenberg, "E-commerce promotions personalization via
    online multiple-choice knapsack with uplift modeling", arXiv 2108.13298).
    """
    if policy.response is None:
        return np.full(len(at), NONE, np.int16)
    net = gains(arms, policy, triggers, at, dual_price).net
    best = net.argmax(axis=1)
    return np.where(net[np.arange(len(best)), best] > 0, best, NONE).astype(np.int16)


def arm_values(
    campaign: Campaign, score: NDArray[np.float32], triggers: Triggers, today: Today, dual_price: float
) -> list[dict[str, Any]]:
    """What a campaign's policy saw in each of its arms for one trigger: for people, one entry an arm.

    Each has `arm` and `chosen`, by the policy alone; of the profit policy also `uplift`, `gain`, `cost` and `net`.
    """
    at = np.zeros(1, np.int64)
    chosen, depth_bp = choose(campaign, score, triggers, at, today, dual_price)
    valued: dict[str, Floats] = {}
    if isinstance(campaign.policy, Profit) and campaign.policy.response is not None:
        valued = gains(campaign.arms, campaign.policy, triggers, at, dual_price)._asdict()
    found = []
    for i, arm in enumerate(campaign.arms):
        entry: dict[str, Any] = {"arm": arm.id, "chosen": int(chosen[0]) == i}
        if depth_bp is not None and entry["chosen"]:
            entry["depth_bp"] = int(depth_bp[0])
        found.append(entry | {name: float(of_arms[0, i]) for name, of_arms in valued.items()})
    return found
