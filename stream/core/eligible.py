"""Eligibility: which triggers a campaign may serve at all."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stream.core.campaign import Campaign, Condition
from stream.core.facts import Floats, Triggers

Mask = NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Floats, tuple[float, ...]], Mask]] = {
    "<": lambda fact, values: fact < values[0],
    "<=": lambda fact, values: fact <= values[0],
    ">": lambda fact, values: fact > values[0],
    ">=": lambda fact, values: fact >= values[0],
    "==": lambda fact, values: fact == values[0],
    "!=": lambda fact, values: (fact != values[0]) & ~np.isnan(fact),
    "in": np.isin,
    "not_in": lambda fact, values: ~np.isin(fact, values) & ~np.isnan(fact),
}


def eligible(campaign: Campaign, triggers: Triggers, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the triggers `at` that meet all of a campaign's demands, in the same order.

    The cheap and telling demands come first, and the rest is asked of what is left.
    """
    at = at[campaign.kinds[triggers.event("kind")[at]]]
    for column, wanted in (
        ("product", campaign.products),
        ("category", campaign.categories),
        ("brand", campaign.brands),
    ):
        if wanted is not None and len(at):
            at = at[_among(triggers.event(column)[at], wanted)]
    if campaign.segments is not None and len(at):
        at = at[campaign.segments[triggers.segments()[at]]]
    for condition in campaign.conditions:
        if not len(at):
            break
        at = at[_meets(condition, triggers.fact(condition.fact)[at])]
    return at


def _meets(condition: Condition, fact: Floats) -> Mask:
    return _COMPARE[condition.op](fact, condition.values)


def _among(values: NDArray[np.uint32], wanted: NDArray[np.uint32]) -> Mask:
    """Which values are in `wanted` (ascending, not empty). 0, not given, never is: no name hashes to it."""
    place = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
    among: Mask = wanted[place] == values
    return among
