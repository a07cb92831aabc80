"""Who gets offers, and how deep: rates and depths by group, and how far prices of one product lie apart."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import interval, user_draws
from training.records import Decision, Offer, Order
from training.tables import Reals

REPLICATES = 500
SEED = 20_260_101

PRODUCTS_MAX = 20
"""With the widest spread of prices, listed by name."""

SALES_MIN = 10
"""Of a product before its prices are compared."""

UNKNOWN = "unknown"


def depth(offer: Offer) -> float:
    """Share of the price that the offer takes off; NaN where it does not tell (a coupon without a minimum spend)."""
    if offer.percent is not None:
        return offer.percent / 100
    if offer.value_minor is not None and offer.min_spend_minor:
        return min(offer.value_minor / offer.min_spend_minor, 1.0)
    return float("nan")


def by_group(
    decisions: list[Decision], offers: list[Offer], group_of: dict[str, str], parity_min: float
) -> dict[str, dict[str, Any]]:
    """Campaign by campaign: offer rate and mean depth of each group, and whether they are close enough.

    Users who are held out are left out: they get nothing by lot. A rate is the share of a group's users with a decision
    of the campaign who got at least one offer of it. What a campaign's own bound (`parity`) holds to is offers per
    decision in which it had an arm eligible; it is told beside.

    Args:
        decisions: of any campaign.
        offers: of any campaign.
        group_of: by user; others are "unknown".
        parity_min: least ratio of the lowest to the highest group that counts as parity.
    """
    decided: dict[str, set[str]] = defaultdict(set)
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    withheld: dict[str, Counter[str]] = defaultdict(Counter)
    for one in decisions:
        if one.campaign_id is not None and not one.holdout:
            decided[one.campaign_id].add(one.user_id)
            asked[one.campaign_id][one.user_id] += bool(set(one.eligible) - {"none"})
            withheld[one.campaign_id][one.user_id] += one.reason == "parity"
    depths: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for offer in offers:
        depths[offer.campaign_id][offer.user_id].append(depth(offer))
        decided[offer.campaign_id].add(offer.user_id)
    return {
        name: _campaign(sorted(users), depths[name], asked[name], withheld[name], group_of, parity_min)
        for name, users in sorted(decided.items())
    }


def _campaign(
    users: list[str],
    depths: dict[str, list[float]],
    asked: Counter[str],
    withheld: Counter[str],
    group_of: dict[str, str],
    parity_min: float,
) -> dict[str, Any]:
    groups = sorted({group_of.get(user, UNKNOWN) for user in users})
    group = np.array([groups.index(group_of.get(user, UNKNOWN)) for user in users], np.int64)
    got = np.array([bool(depths.get(user)) for user in users], np.float64)
    known = [[one for one in depths.get(user, []) if one == one] for user in users]  # noqa: PLR0124  NaN is not itself
    sums = np.column_stack(
        [
            *(np.ones(len(users)), got, [sum(one) for one in known], [float(len(one)) for one in known]),
            *([float(len(depths.get(user, []))) for user in users], [float(asked[user]) for user in users]),
        ]
    )
    table = _by_group(sums, group, len(groups), np.ones((1, len(users))))[0]
    drawn = _by_group(sums, group, len(groups), user_draws(len(users), REPLICATES, SEED))
    rates, means = _ratio(table[:, 1], table[:, 0]), _ratio(table[:, 2], table[:, 3])
    per_decision, drawn_per_decision = _ratio(table[:, 4], table[:, 5]), _ratio(drawn[:, :, 4], drawn[:, :, 5])
    drawn_rates, drawn_means = _ratio(drawn[:, :, 1], drawn[:, :, 0]), _ratio(drawn[:, :, 2], drawn[:, :, 3])
    parity = interval(_parity(rates[None])[0], _parity(drawn_rates))
    depth_parity = interval(_parity(means[None])[0], _parity(drawn_means))
    decision_parity = interval(_parity(per_decision[None])[0], _parity(drawn_per_decision))
    return {
        "groups": {
            name: {
                "users": int(table[at, 0]),
                "offer_rate": interval(float(rates[at]), drawn_rates[:, at]).said(),
                "mean_depth": interval(float(means[at]), drawn_means[:, at]).said(),
                "decisions": int(table[at, 5]),
                "offers_per_decision": interval(float(per_decision[at]), drawn_per_decision[:, at]).said(),
                "withheld": sum(
                    withheld[user] for user, number in zip(users, group.tolist(), strict=True) if number == at
                ),
            }
            for at, name in enumerate(groups)
        },
        "parity_of_rates": parity.said(),
        "parity_of_depths": depth_parity.said(),
        "parity_of_offers_per_decision": decision_parity.said(),
        "bound": parity_min,
        "verdict": {
            name: _verdict(one.low, one.high, parity_min)
            for name, one in (("rates", parity), ("depths", depth_parity), ("offers_per_decision", decision_parity))
        },
    }


def _by_group(sums: Reals, group: NDArray[np.int64], n_groups: int, weight: NDArray[Any]) -> Reals:
    """[R, G, C], sums of each group under each draw of users."""
    found = np.zeros((len(weight), n_groups, sums.shape[1]))
    for number in range(n_groups):
        of = group == number
        found[:, number] = weight[:, of] @ sums[of]
    return found


def _ratio(a: Reals, b: Reals) -> Reals:
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)


def _parity(values: Reals) -> Reals:
    """[R], lowest over highest of the groups that are known; NaN where fewer than two are."""
    filled_low, filled_high = np.nan_to_num(values, nan=np.inf), np.nan_to_num(values, nan=-np.inf)
    low, high = filled_low.min(axis=1), filled_high.max(axis=1)
    enough = (np.isfinite(values).sum(axis=1) > 1) & (high > 0)
    return np.divide(low, high, out=np.full(len(values), np.nan), where=enough)


def _verdict(low: float, high: float, bound: float) -> str:
    if not np.isfinite(low):
        return "one group only, or nothing to compare"
    if low >= bound:
        return "within the bound"
    return "outside the bound" if high < bound else "the data cannot tell"


def price_dispersion(orders: list[Order]) -> list[dict[str, Any]]:
    """Products by how far apart lies what customers paid for a piece, widest first.

    An order's discount falls on all its lines. Each sale is compared with the list price at its time
    (`unit_price_minor`), so a price that changed for everybody is no dispersion.
    """
    paid: dict[str, list[float]] = defaultdict(list)
    for order in orders:
        listed = sum(line.quantity * line.unit_price_minor for line in order.lines or [])
        if order.kind != "placed" or listed <= 0:
            continue
        left = max(1 - (order.discount_minor or 0) / listed, 0.0)
        for line in order.lines or []:
            paid[line.product_id].append(left)
    found: list[dict[str, Any]] = []
    for product, shares in sorted(paid.items()):
        if len(shares) < SALES_MIN:
            continue
        low, high = np.quantile(shares, [0.1, 0.9]).tolist()
        figures = {"mean": float(np.mean(shares)), "deviation": float(np.std(shares)), "p10": low, "p90": high}
        found.append({"product_id": product, "sales": len(shares), "share_of_list_price": figures})
    return sorted(found, key=lambda one: -one["share_of_list_price"]["deviation"])[:PRODUCTS_MAX]
