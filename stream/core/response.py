"""Response: how likely a user is to buy within the horizon, by the depth of what is offered, and what the basket is.

Learned from randomised decisions alone (`stream.campaigns.learn`); here it is only applied. What a user would do anyway
and what an offer adds are two causes of a purchase, apart from each other (a noisy OR), each logistic in facts of the
row and the trigger. What is added grows with a power of the depth, so a deeper offer is never less likely to be taken.
Who buys because of an offer uses it; of those who would buy anyway, a share that is learned does.

No sum here runs over a matrix product, whose order numpy leaves to the machine and the number of rows: the same row
gives the same bits in any batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HEADS = ("base", "added", "basket")
"""Linear predictors, in the order of the columns of `weights`."""

DEPTH_UNIT = 0.1
"""The depth at which `added` is what it says."""

PER_AT_LEAST = 10.0  # added to what a count is divided by: a cart after one view is no habit


class Asked(Protocol):
    """What `stream.core.facts.Triggers` is here."""

    def event(self, field: str) -> NDArray[Any]:
        """A column of the events, [n]."""

    def fact(self, name: str) -> Floats:
        """A fact by name, float64 [n]."""


class Expected(Protocol):
    """What is expected of n users; probabilities within the horizon, [n] or, by depth, [n, arms]."""

    @property
    def basket(self) -> Floats:
        """Minor units, of those who buy; before discount."""

    @property
    def buys_unprompted(self) -> Floats:
        """P(purchase) without an offer."""

    def buys(self, depth: Floats) -> Floats:
        """P(purchase) with an offer that takes off `depth`, a share of the basket; 0 = it does not apply: no effect."""

    def redeems(self, depth: Floats) -> Floats:
        """P(the offer is used)."""


class Responds(Protocol):
    """What the profit policy asks: a `Response`, or, in the simulated shop, the truth."""

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> Expected:
        """What is expected of the users of the triggers `at`, [n]."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of n users; probabilities within the horizon, [n] or, by depth, [n, arms]."""

    basket: Floats
    """Minor units, of those who buy; before discount."""
    buys_unprompted: Floats
    """P(purchase) without an offer."""
    added: Floats
    """P(an offer of 10 % brings a purchase of somebody who would not buy anyway)."""
    depth_power: float
    used_anyway: float
    """Share of those who would buy without an offer that uses one."""
    offset: float
    """Of P(purchase) with any offer: what it changes beyond those who use it; below 0 where offers put people off."""

    def _won(self, depth: Floats) -> Floats:
        added = np.minimum(self.added[:, None] * (depth / DEPTH_UNIT) ** self.depth_power, 1.0)
        return np.where(depth > 0, (1 - self.buys_unprompted[:, None]) * added, 0.0)

    def buys(self, depth: Floats) -> Floats:
        """P(purchase) with an offer that takes off `depth`, a share of the basket; 0 = it does not apply: no effect."""
        offered = self.buys_unprompted[:, None] + self._won(depth) + np.where(depth > 0, self.offset, 0.0)
        return np.clip(offered, 0.0, 1.0)

    def redeems(self, depth: Floats) -> Floats:
        """P(the offer is used)."""
        return np.where(depth > 0, self.used_anyway * self.buys_unprompted[:, None] + self._won(depth), 0.0)


class Feature(NamedTuple):
    """What a response looks at: a fact, or how often it is for each of another one."""

    fact: str
    per: str = ""
    """Fact that it is divided by; empty = it is looked at as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """A learned response."""

    features: tuple[Feature, ...]
    """Each makes two columns, see `columns`."""
    centre: Floats
    """[features], of the logarithm."""
    scale: Floats
    """[features]."""
    intercepts: Floats
    """[HEADS]."""
    weights: Floats
    """[2 x features, HEADS]."""
    depth_power: float
    used_anyway: float
    offset: float
    horizon_ms: int

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> Forecast:
        """What is expected of the users of the triggers `at`, [n]."""
        heads = np.repeat(self.intercepts[:, None], len(at), axis=1)
        for i, feature in enumerate(self.features):
            per = triggers.fact(feature.per)[at] if feature.per else None
            known, missing = columns(triggers.fact(feature.fact)[at], per, float(self.centre[i]), float(self.scale[i]))
            heads += self.weights[2 * i][:, None] * known
            if missing.any():
                heads += self.weights[2 * i + 1][:, None] * missing
        base, added, basket = heads
        return Forecast(
            np.exp(np.clip(basket, 0, 30)),
            sigmoid(base),
            sigmoid(added),
            self.depth_power,
            self.used_anyway,
            self.offset,
        )


def logs(fact: Floats, per: Floats | None) -> Floats:
    """The logarithm that is looked at, float64 [n]; NaN where a fact is not known."""
    counted = np.log1p(np.maximum(fact, 0))
    return counted if per is None else counted - np.log(np.maximum(per, 0) + PER_AT_LEAST)


def columns(fact: Floats, per: Floats | None, centre: float, scale: float) -> tuple[Floats, Floats]:
    """A feature as the response sees it, float64 [n].

    Returns:
        (`logs`, centred and scaled, 0 where it is not known; 1 where it is not known, else 0).
    """
    known = (logs(fact, per) - centre) / scale
    missing = np.isnan(known)
    known[missing] = 0
    return known, missing.astype(np.float64)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), float64."""
    return 1 / (1 + np.exp(-np.clip(x, -35, 35)))


def from_document(learned: Mapping[str, object]) -> Response:
    """A response from the form in which it is published.

    Raises:
        ValueError, KeyError, TypeError: it is not one.
    """
    told = learned["features"]
    if not isinstance(told, list) or not all(isinstance(f, dict) and set(f) <= {"fact", "per"} for f in told):
        raise ValueError("features: must be a list of objects with fact and, where it is a rate, per")
    features = tuple(Feature(str(f["fact"]), str(f.get("per", ""))) for f in told)
    arrays = {name: np.array(learned[name], np.float64) for name in ("centre", "scale", "intercepts", "weights")}
    shapes = {
        "centre": (len(features),),
        "scale": (len(features),),
        "intercepts": (len(HEADS),),
        "weights": (2 * len(features), len(HEADS)),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name}: must be finite numbers in the shape {shape}")
    if (arrays["scale"] <= 0).any():
        raise ValueError("scale: must be above 0")
    horizon_ms = learned["horizon_ms"]
    if not isinstance(horizon_ms, int) or horizon_ms <= 0:
        raise ValueError("horizon_ms: must be a whole number above 0")
    limits = {"depth_power": (0.0, 10.0), "used_anyway": (0.0, 1.0), "offset": (-1.0, 1.0)}
    scalars = []
    for name, (low, high) in limits.items():
        value = learned[name]
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name}: must be a number from {low:g} to {high:g}")
        scalars.append(float(value))
    depth_power, used_anyway, offset = scalars
    return Response(
        features,
        arrays["centre"],
        arrays["scale"],
        arrays["intercepts"],
        arrays["weights"],
        depth_power,
        used_anyway,
        offset,
        horizon_ms,
    )


def to_document(response: Response) -> dict[str, object]:
    """The form in which a response is published."""
    return {
        "features": [{"fact": f.fact, "per": f.per} if f.per else {"fact": f.fact} for f in response.features],
        "centre": response.centre.tolist(),
        "scale": response.scale.tolist(),
        "intercepts": response.intercepts.tolist(),
        "weights": response.weights.tolist(),
        "depth_power": response.depth_power,
        "used_anyway": response.used_anyway,
        "offset": response.offset,
        "horizon_ms": response.horizon_ms,
    }
