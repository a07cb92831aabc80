"""Response: how likely a user is to buy within the horizon, by the depth of what is offered, and what the basket is.

Learned from randomised decisions alone (`stream.campaigns.learn`); here it is only applied. It is logistic in facts of
the row and the trigger; an offer adds a shift of its own and a slope in its depth, both of which depend on the facts.
The slope is cut at 0, so a deeper offer is never less likely to be taken; the shift may be negative ("sleeping dogs").

No sum here runs over a matrix product, whose order numpy leaves to the machine and the number of rows: the same row
gives the same bits in any batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HEADS = ("base", "shift", "slope", "redeem", "redeem_slope", "basket")
"""Linear predictors, in the order of the columns of `weights`."""


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
    base: Floats
    shift: Floats
    slope: Floats
    redeem: Floats
    redeem_slope: Floats

    @property
    def buys_unprompted(self) -> Floats:
        """P(purchase) without an offer."""
        return sigmoid(self.base)

    def buys(self, depth: Floats) -> Floats:
        """P(purchase) with an offer that takes off `depth`, a share of the basket; 0 = it does not apply: no effect."""
        offered = (self.base + self.shift)[:, None] + self.slope[:, None] * depth
        return np.where(depth > 0, sigmoid(offered), self.buys_unprompted[:, None])

    def redeems(self, depth: Floats) -> Floats:
        """P(the offer is used), at most P(purchase)."""
        used = sigmoid(self.redeem[:, None] + self.redeem_slope[:, None] * depth)
        return np.where(depth > 0, np.minimum(used, self.buys(depth)), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """A learned response."""

    facts: tuple[str, ...]
    """Names of the facts looked at; each makes two features, see `features`."""
    centre: Floats
    """[facts], of log(1 + fact)."""
    scale: Floats
    """[facts]."""
    intercepts: Floats
    """[HEADS]."""
    weights: Floats
    """[2 x facts, HEADS]."""
    horizon_ms: int

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> Forecast:
        """What is expected of the users of the triggers `at`, [n]."""
        heads = np.repeat(self.intercepts[:, None], len(at), axis=1)
        for i, name in enumerate(self.facts):
            known, missing = features(triggers.fact(name)[at], float(self.centre[i]), float(self.scale[i]))
            heads += self.weights[2 * i][:, None] * known
            if missing.any():
                heads += self.weights[2 * i + 1][:, None] * missing
        base, shift, slope, redeem, redeem_slope, basket = heads
        return Forecast(
            np.exp(np.clip(basket, 0, 30)),
            base,
            shift,
            np.maximum(slope, 0),
            redeem,
            np.maximum(redeem_slope, 0),
        )


def features(fact: Floats, centre: float, scale: float) -> tuple[Floats, Floats]:
    """A fact as the response sees it, float64 [n].

    Returns:
        (log(1 + fact), centred and scaled, 0 where it is not known; 1 where it is not known, else 0).
    """
    missing = np.isnan(fact)
    known = (np.log1p(np.maximum(fact, 0)) - centre) / scale
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
    facts = learned["facts"]
    if not isinstance(facts, list) or not all(isinstance(name, str) for name in facts):
        raise ValueError("facts: must be a list of names")
    arrays = {name: np.array(learned[name], np.float64) for name in ("centre", "scale", "intercepts", "weights")}
    shapes = {
        "centre": (len(facts),),
        "scale": (len(facts),),
        "intercepts": (len(HEADS),),
        "weights": (2 * len(facts), len(HEADS)),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name}: must be finite numbers in the shape {shape}")
    if (arrays["scale"] <= 0).any():
        raise ValueError("scale: must be above 0")
    horizon_ms = learned["horizon_ms"]
    if not isinstance(horizon_ms, int) or horizon_ms <= 0:
        raise ValueError("horizon_ms: must be a whole number above 0")
    return Response(
        tuple(facts), arrays["centre"], arrays["scale"], arrays["intercepts"], arrays["weights"], horizon_ms
    )


def to_document(response: Response) -> dict[str, object]:
    """The form in which a response is published."""
    return {
        "facts": list(response.facts),
        "centre": response.centre.tolist(),
        "scale": response.scale.tolist(),
        "intercepts": response.intercepts.tolist(),
        "weights": response.weights.tolist(),
        "horizon_ms": response.horizon_ms,
    }
