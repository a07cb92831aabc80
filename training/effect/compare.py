"""Offered against held out: differences with intervals, narrowed by what is known from before, and what they can tell.

CUPED: Deng, Xu, Kohavi, Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment
data", WSDM 2013, with several covariates.
"""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from training.effect.outcomes import Exposed
from training.metrics import Figure
from training.tables import Reals

MONTH_MS = 30 * 86_400_000
POWER = 0.8
_Z = NormalDist().inv_cdf(0.975)
_Z_POWER = NormalDist().inv_cdf(POWER)

USERS_MIN = 20
"""In each group; below, no difference is told."""


class Difference(NamedTuple):
    """Of one outcome, offered minus held out, a user."""

    plain: Figure
    cuped: Figure
    held_out_mean: float
    variance_saved: float
    """Share of the squared standard error that CUPED takes away."""
    detectable: float
    """The least difference that these groups would show with power 0.8 (CUPED)."""
    power: float
    """To see the relevant difference, so many users."""
    months_to_answer: float
    """At the pace so far, until the power to see the relevant difference is 0.8; 0: it is there."""
    verdict: str

    def said(self) -> dict[str, Any]:
        """As JSON."""
        numbers = ("held_out_mean", "variance_saved", "detectable", "power", "months_to_answer")
        values = {name: getattr(self, name) for name in numbers}
        return {
            **self.cuped.said(),
            "without_cuped": self.plain.said(),
            **{name: value if np.isfinite(value) else None for name, value in values.items()},
            "verdict": self.verdict,
        }


UNKNOWN = Figure(float("nan"), float("nan"), float("nan"))


def difference(users: Exposed, outcome: str, relevant: float) -> Difference:
    """Of one outcome.

    Args:
        users: offered and held out.
        outcome: a name in `users.outcomes`.
        relevant: the difference that matters, as a share of the held-out mean.
    """
    y = users.outcomes[outcome]
    known = np.isfinite(y)
    y, offered, before = y[known], users.offered[known], users.before[known]
    if min(int(offered.sum()), int((~offered).sum())) < USERS_MIN:
        nan = float("nan")
        told = (
            f"too few users: {int(offered.sum())} offered, {int((~offered).sum())} held out, {USERS_MIN} needed of each"
        )
        return Difference(UNKNOWN, UNKNOWN, nan, nan, nan, nan, nan, told)
    plain, plain_error = _difference(y, offered)
    cuped, error = _difference(adjusted(y, offered, before), offered)
    held_out = float(y[~offered].mean())
    matters = relevant * abs(held_out)
    months = float(np.ptp(users.first_ms)) / MONTH_MS
    detectable = (_Z + _Z_POWER) * error
    power = NormalDist().cdf(matters / error - _Z) + NormalDist().cdf(-matters / error - _Z) if error > 0 else 1.0
    # Users come at the pace so far, and the squared standard error falls as they come.
    more = max((detectable / matters) ** 2 - 1, 0.0) * months if matters > 0 else float("inf")
    saved = 1 - (error / plain_error) ** 2 if plain_error > 0 else 0.0
    return Difference(plain, cuped, held_out, saved, detectable, power, more, _verdict(cuped, more, relevant))


def _verdict(cuped: Figure, months: float, relevant: float) -> str:
    if cuped.low > 0:
        return "more than without offers"
    if cuped.high < 0:
        return "less than without offers"
    if months == 0:
        return f"no difference of {100 * relevant:g} % or more was likely to stay unseen, and none is seen"
    wait = f"about {months:.1f} more months at this pace" if np.isfinite(months) else "no telling how long"
    return f"the data cannot tell yet; to see a difference of {100 * relevant:g} %: {wait}"


def adjusted(y: Reals, offered: Any, before: Reals) -> Reals:  # noqa: ANN401  bool [N]
    """The outcome minus what the time before already told, [N]; the same line for both groups."""
    x = before - before.mean(axis=0)
    # The line is fitted within the groups, or an effect would pass for a slope.
    within_x, within_y = x.copy(), y.copy()
    for group in (offered, ~offered):
        within_x[group] -= x[group].mean(axis=0)
        within_y[group] -= y[group].mean()
    slope = np.linalg.lstsq(within_x, within_y, rcond=None)[0]
    found: Reals = y - x @ slope
    return found


def _difference(y: Reals, offered: Any) -> tuple[Figure, float]:  # noqa: ANN401
    """Welch's interval, and the standard error."""
    a, b = y[offered], y[~offered]
    value = float(a.mean() - b.mean())
    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return Figure(value, value - _Z * error, value + _Z * error), error
