"""Learning how users respond to offers, from randomised decisions alone, for the profit policy.

    response = fit(facts, records)        what `stream.core.response` applies

Nothing is known here of who the users are or how they respond: facts of the row go in, what they did within the horizon
comes out. Logistic regressions with a ridge, whose strength is chosen by how well held-out decisions are foretold.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.response import HEADS, Response, features, sigmoid

Floats = NDArray[np.float64]

DEPTH_UNIT = 0.1  # depths are looked at in tenths, so that one ridge suits shift and slope
RIDGE_BASE = 1.0
RIDGES = (5.0, 20.0, 80.0)
"""Strengths that are tried on what depends on the offer."""
ITERATIONS_MAX = 30
CLIP_WEIGHT = 20.0
"""Of a decision, relative to the mean, where it was improbable."""


class Records(NamedTuple):
    """N decisions whose arm was drawn with a known probability, and what followed within the horizon."""

    facts: Floats
    """[N, facts] at the trigger; NaN = not known."""
    depth: Floats
    """[N]: share of the basket that the offer took off at most; 0 = none."""
    propensity: Floats
    """[N]: probability of what was done."""
    bought: NDArray[np.bool_]
    redeemed: NDArray[np.bool_]
    basket_minor: Floats
    """[N]: before discount; only of those who bought."""


def fit(names: tuple[str, ...], records: Records, horizon_ms: int) -> Response:
    """Learn a response.

    Args:
        names: of the facts.
        records: at least some hundred decisions, with and without an offer.
        horizon_ms: within which a purchase counts.
    """
    centre, scale, x = _features(records.facts)
    offered = records.depth > 0
    depth = records.depth / DEPTH_UNIT
    # Where every arm was drawn alike all weights are 1; where a policy chose too, its choices count less.
    weight = 1 / records.propensity
    weight = np.minimum(weight / weight.mean(), CLIP_WEIGHT)
    m = x.shape[1]
    one = np.ones((len(x), 1))
    t, d = offered[:, None].astype(float), depth[:, None]
    design = np.hstack([one, x, t, t * x, d, d * x])
    ridge = _chosen_ridge(design, records.bought.astype(float), weight, m)
    buy = _logistic(design, records.bought.astype(float), weight, _penalties(m, ridge))
    used = np.hstack([one, x, d, d * x])[offered]
    used_penalties = _penalties(m, ridge)[: 2 * (m + 1)]
    redeem = _logistic(used, records.redeemed[offered].astype(float), weight[offered], used_penalties)
    basket = _basket(x, records)
    parts = {
        "base": buy[: m + 1],
        "shift": buy[m + 1 : 2 * m + 2],
        "slope": buy[2 * m + 2 :] / DEPTH_UNIT,
        "redeem": redeem[: m + 1],
        "redeem_slope": redeem[m + 1 :] / DEPTH_UNIT,
        "basket": basket,
    }
    intercepts = np.array([parts[head][0] for head in HEADS])
    weights = np.stack([parts[head][1:] for head in HEADS], axis=1)
    return Response(names, centre, scale, intercepts, weights, horizon_ms)


def _features(facts: Floats) -> tuple[Floats, Floats, Floats]:
    """(centre [F], scale [F], features [N, 2 F], in the pairs that a response has)."""
    logs = np.log1p(np.maximum(facts, 0))
    n_known = np.maximum((~np.isnan(facts)).sum(axis=0), 1)
    centre = np.nansum(logs, axis=0) / n_known
    spread = np.sqrt(np.nansum((logs - centre) ** 2, axis=0) / n_known)
    scale = np.where(spread > 1e-9, spread, 1.0)
    x = np.empty((len(facts), 2 * facts.shape[1]))
    for i in range(facts.shape[1]):
        x[:, 2 * i], x[:, 2 * i + 1] = features(facts[:, i], float(centre[i]), float(scale[i]))
    return centre, scale, x


def _penalties(m: int, ridge: float) -> Floats:
    """Of the coefficients of base, shift and slope; constants are free."""
    return np.concatenate([[0.0], np.full(m, RIDGE_BASE), [0.0], np.full(m, ridge), [0.0], np.full(m, ridge)])


def _logistic(design: Floats, outcome: Floats, weight: Floats, penalty: Floats) -> Floats:
    """Logistic regression with a ridge, by Newton's method with halved steps where one overshoots."""
    penalty = penalty + 1e-6
    coefficients = np.zeros(design.shape[1])
    rate = np.clip(np.average(outcome, weights=weight), 1e-4, 1 - 1e-4)
    coefficients[0] = np.log(rate / (1 - rate))

    def loss(at: Floats) -> float:
        z = design @ at
        return float((weight * (np.logaddexp(0, z) - outcome * z)).sum() + (penalty * at**2).sum() / 2)

    now = loss(coefficients)
    for _ in range(ITERATIONS_MAX):
        p = sigmoid(design @ coefficients)
        gradient = design.T @ (weight * (p - outcome)) + penalty * coefficients
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (then := loss(coefficients - size * step)) > now and size > 1e-6:
            size /= 2
        coefficients = coefficients - size * step
        if now - then < 1e-6 * abs(now):
            break
        now = then
    return coefficients


def _chosen_ridge(design: Floats, outcome: Floats, weight: Floats, m: int) -> float:
    """The strength with which the one half of the decisions foretells the other best."""
    half = np.arange(len(design)) % 2 == 0
    best, least = RIDGES[-1], np.inf
    for ridge in RIDGES:
        found = 0.0
        for learned, judged in ((half, ~half), (~half, half)):
            coefficients = _logistic(design[learned], outcome[learned], weight[learned], _penalties(m, ridge))
            z = design[judged] @ coefficients
            found += float((weight[judged] * (np.logaddexp(0, z) - outcome[judged] * z)).sum())
        if found < least:
            best, least = ridge, found
    return best


def _basket(x: Floats, records: Records) -> Floats:
    """Linear in the logarithm, scaled so that baskets sum up to what they were (Duan's smearing, JASA 1983)."""
    bought = records.bought & (records.basket_minor > 0)
    design = np.hstack([np.ones((int(bought.sum()), 1)), x[bought]])
    target = np.log(records.basket_minor[bought])
    penalty = np.concatenate([[1e-6], np.full(x.shape[1], 10.0)])
    coefficients: Floats = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ target)
    coefficients[0] += np.log(np.mean(np.exp(target - design @ coefficients)))
    return coefficients
