"""Learning how users respond to offers, from randomised decisions alone, for the profit policy.

    response = fit(FEATURES, BASKET_FEATURES, records, horizon_ms)        what `stream.core.response` applies

Nothing is known here of who the users are or how they respond: facts of the row go in, what they did within the horizon
comes out, in three steps.

1. What users do anyway: purchases of those who got no offer, and those of the others that used none.
2. What an offer adds: redemptions beyond the share of 1. that uses what is there. They tell more than purchases do: the
   many that an offer does not change are not among them, and what is learned of cost and of gain cannot disagree (an
   error in the cost alone is what a policy that wants most gain for its cost finds first).
3. Whether purchases agree: where offers change them by significantly more or less than redemptions say (they put people
   off; or bring some who forget to use them), the difference is added for all.

Ridges, and the power of the depth, are chosen by how well they tell what happened.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.response import DEPTH_UNIT, HEADS, Feature, Response, logs, sigmoid

Floats = NDArray[np.float64]

RIDGE_BASE = 1.0
RIDGES = (5.0, 20.0, 80.0)
"""Strengths that are tried on what an offer adds."""
DEPTH_POWERS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1)
ITERATIONS_MAX = 30
CLIP_WEIGHT = 20.0
"""Of a decision, relative to the mean, where it was improbable."""
USED_AT_LEAST = 0.05
"""Of those who would buy anyway, who use an offer: no offer is free."""
ADDED_FIRST = 0.05
OFFSET_ERRORS = 3.0
"""Standard errors from which on a difference between purchases and redemptions is believed."""


class Records(NamedTuple):
    """N decisions whose arm was drawn with a known probability, and what followed within the horizon."""

    facts: Floats
    """[N, facts] at the trigger, in the order of `facts_of`; NaN = not known."""
    depth: Floats
    """[N]: share of the basket that the offer took off at most; 0 = none."""
    propensity: Floats
    """[N]: probability of what was done."""
    bought: NDArray[np.bool_]
    redeemed: NDArray[np.bool_]
    basket_minor: Floats
    """[N]: before discount; only of those who bought."""


FEATURES = (
    Feature("views_30d"),
    *(Feature(fact, "views_30d") for fact in ("carts_30d", "favourites_30d", "purchases_30d", "searches_30d")),
    *(Feature(fact) for fact in ("offers_seen_30d", "offers_redeemed_30d", "offers_dismissed_30d")),
)
"""Who responds: how much a user does, what of it for each view, and how they took offers before."""

BASKET_FEATURES = (Feature("trigger_price_minor"),)
"""What more tells how much is bought. Not who responds: a few thousand redemptions have chance correlations with the
price, and they would decide where the money is."""


def facts_of(features: tuple[Feature, ...]) -> tuple[str, ...]:
    """The facts that features are made of, each once."""
    return tuple(dict.fromkeys(name for feature in features for name in feature if name))


def fit(features: tuple[Feature, ...], basket: tuple[Feature, ...], records: Records, horizon_ms: int) -> Response:
    """Learn a response.

    Args:
        features: what to look at.
        basket: what more to look at for the size of the basket.
        records: at least some hundred decisions, with and without an offer; facts as `facts_of(features + basket)`.
        horizon_ms: within which a purchase counts.
    """
    centre, scale, known, missing = _columns(features + basket, records.facts)
    n = len(features)
    x = np.hstack([np.ones((len(known), 1)), known[:, :n], missing[:, :n]])
    offered = records.depth > 0
    # Where every arm was drawn alike all weights are 1; where a policy chose too, its choices count less.
    weight = 1 / records.propensity
    weight = np.minimum(weight / weight.mean(), CLIP_WEIGHT)
    # 1.
    base, used_anyway = _anyway(x, records, weight)
    p = sigmoid(x @ base)
    # 2.
    by_depth = (records.depth[offered] / DEPTH_UNIT)[:, None] ** np.array(DEPTH_POWERS)
    some = _Thinned(
        x[offered], used_anyway * p[offered], 1 - p[offered], records.redeemed[offered].astype(float), weight[offered]
    )
    middle = len(DEPTH_POWERS) // 2
    ridge = min(RIDGES, key=lambda r: _held_out(some, by_depth[:, middle], _penalties(x.shape[1], r)))
    tried = [_thinned(some, h, _penalties(x.shape[1], ridge)) for h in by_depth.T]
    best = min(range(len(tried)), key=lambda i: tried[i][1])
    added = tried[best][0]
    # 3.
    won = some.rest * np.minimum(sigmoid(some.x @ added) * by_depth[:, best], 1)
    offset = _offset(records, weight, p, won)

    sizes = _basket(np.hstack([known, missing]), records)
    intercepts = np.array([base[0], added[0], sizes[0]])
    weights = np.zeros((2, n + len(basket), len(HEADS)))  # known, then missing
    weights[:, :n, 0], weights[:, :n, 1] = base[1:].reshape(2, n), added[1:].reshape(2, n)
    weights[:, :, 2] = sizes[1:].reshape(2, -1)
    pairs = weights.transpose(1, 0, 2).reshape(-1, len(HEADS))
    return Response(
        features + basket, centre, scale, intercepts, pairs, DEPTH_POWERS[best], used_anyway, offset, horizon_ms
    )


def _anyway(x: Floats, records: Records, weight: Floats) -> tuple[Floats, float]:
    """(coefficients of P(purchase without an offer), share of such purchases that would use one).

    Who got an offer and bought without it would have bought anyway; how many do so tells that share.
    """
    offered = records.depth > 0
    unused = (records.bought & ~(offered & records.redeemed)).astype(float)
    penalty = _penalties(x.shape[1], RIDGE_BASE)
    none = np.zeros(len(x))
    some = _Thinned(x[~offered], none[~offered], none[~offered] + 1, unused[~offered], weight[~offered])
    base, _ = _thinned(some, some.rest, penalty)
    used = 1.0
    for _ in range(3):
        p = sigmoid(x[offered] @ base)
        seen = np.average(unused[offered], weights=weight[offered]) / np.average(p, weights=weight[offered])
        used = min(max(1 - float(seen), USED_AT_LEAST), 1.0)
        share = np.where(offered, max(1 - used, 1e-6), 1.0)
        base, _ = _thinned(_Thinned(x, none, none + 1, unused, weight), share, penalty)
    return base, used


def _offset(records: Records, weight: Floats, p: Floats, won: Floats) -> float:
    """What offers change purchases by beyond what redemptions say; 0 where that may be chance."""
    offered = records.depth > 0
    surprise = records.bought - p
    surprise[offered] -= won
    means, errors = [], []
    for those in (offered, ~offered):
        w = weight[those] / weight[those].sum()
        mean = float((w * surprise[those]).sum())
        means.append(mean)
        errors.append(float((w**2 * (surprise[those] - mean) ** 2).sum()))
    difference = means[0] - means[1]
    # Purchases of both went into p: where offers put people off, p errs between the two.
    return difference if abs(difference) > OFFSET_ERRORS * sum(errors) ** 0.5 else 0.0


def _columns(features: tuple[Feature, ...], facts: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """(centre [F], scale [F], what is known [N, F], what is missing [N, F])."""
    place = {name: i for i, name in enumerate(facts_of(features))}
    seen = np.stack([logs(facts[:, place[f]], facts[:, place[p]] if p else None) for f, p in features], axis=1)
    missing = np.isnan(seen)
    n_known = np.maximum((~missing).sum(axis=0), 1)
    centre = np.nansum(seen, axis=0) / n_known
    spread = np.sqrt(np.nansum((seen - centre) ** 2, axis=0) / n_known)
    scale = np.where(spread > 1e-9, spread, 1.0)
    known = np.where(missing, 0.0, (seen - centre) / scale)
    return centre, scale, known, missing.astype(float)


def _penalties(m: int, ridge: float) -> Floats:
    """Of a constant, which is as good as free, and m - 1 coefficients."""
    return np.concatenate([[1e-6], np.full(m - 1, ridge)])


class _Thinned(NamedTuple):
    """Outcomes with P = floor + rest x share x sigmoid(x b): what happens anyway, and what is looked for."""

    x: Floats
    floor: Floats
    rest: Floats
    outcome: Floats
    weight: Floats

    def probability(self, b: Floats, share: Floats) -> Floats:
        return np.clip(self.floor + self.rest * np.minimum(share * sigmoid(self.x @ b), 1), 1e-7, 1 - 1e-7)

    def loss(self, b: Floats, share: Floats) -> float:
        p = self.probability(b, share)
        return -float((self.weight * (self.outcome * np.log(p) + (1 - self.outcome) * np.log1p(-p))).sum())


def _thinned(some: _Thinned, share: Floats, penalty: Floats) -> tuple[Floats, float]:
    """(coefficients b, penalised loss), by Fisher scoring with halved steps where one overshoots."""

    def loss(at: Floats) -> float:
        return some.loss(at, share) + float((penalty * at**2).sum() / 2)

    b = np.zeros(some.x.shape[1])
    b[0] = np.log(ADDED_FIRST / (1 - ADDED_FIRST))
    now = loss(b)
    for _ in range(ITERATIONS_MAX):
        s = sigmoid(some.x @ b)
        p = some.probability(b, share)
        slope = some.rest * share * s * (1 - s)
        per = some.weight / (p * (1 - p))
        gradient = some.x.T @ (per * slope * (p - some.outcome)) + penalty * b
        curvature = (some.x * (per * slope**2)[:, None]).T @ some.x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (then := loss(b - size * step)) > now and size > 1e-6:
            size /= 2
        if then > now:
            break
        b = b - size * step
        before, now = now, then
        if before - now < 1e-7 * abs(now):
            break
    return b, now


def _held_out(some: _Thinned, share: Floats, penalty: Floats) -> float:
    """How badly the one half of the decisions foretells the other."""
    half = np.arange(len(share)) % 2 == 0
    found = 0.0
    for learned, judged in ((half, ~half), (~half, half)):
        b, _ = _thinned(_Thinned(*(column[learned] for column in some)), share[learned], penalty)
        found += _Thinned(*(column[judged] for column in some)).loss(b, share[judged])
    return found


def _basket(x: Floats, records: Records) -> Floats:
    """Linear in the logarithm, scaled so that baskets sum up to what they were (Duan's smearing, JASA 1983)."""
    bought = records.bought & (records.basket_minor > 0)
    design = np.hstack([np.ones((int(bought.sum()), 1)), x[bought]])
    target = np.log(records.basket_minor[bought])
    penalty = np.concatenate([[1e-6], np.full(x.shape[1], 10.0)])
    coefficients: Floats = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ target)
    coefficients[0] += np.log(np.mean(np.exp(target - design @ coefficients)))
    return coefficients
