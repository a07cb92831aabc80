"""What a policy would have earned, from the log of another one.

Sources: Dudik, Langford, Li, "Doubly robust policy evaluation and learning", ICML 2011 (DM, IPS, DR); Swaminathan and
Joachims, "The self-normalized estimator for counterfactual learning", NIPS 2015 (SNIPS); Su, Dimakopoulou,
Krishnamurthy, Dudik, "Doubly robust off-policy evaluation with shrinkage", ICML 2020 (shrunk DR, optimistic weights).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.metrics import Figure, interval, user_draws
from training.tables import Reals

REPLICATES = 500
SEED = 20_260_101

EFFECTIVE_MIN = 100.0
"""Below so many effective decisions an interval is not to be trusted."""

WEIGHT_SHARE_MAX = 0.05
"""One decision that carries more of all weight than this decides too much."""


@dataclass(frozen=True)
class Log:
    """Logged decisions and the policy that is judged by them."""

    arms: tuple[str, ...]
    arm: NDArray[np.int64]
    """[N], what was given."""
    reward: Reals
    """[N], what came of it."""
    propensity: Reals
    """[N], probability of the arm that was given, under the policy that gave it; above 0."""
    target: Reals
    """[N, A], probabilities of the policy that is judged; rows sum to 1."""
    user: NDArray[np.int64]
    """[N], 0 to U - 1: decisions of one user are drawn together."""
    x: Reals
    """[N, F], what was known at the decision; F may be 0."""
    notes: tuple[str, ...] = ()
    """What the reader of the log has to warn of."""


class Judged(NamedTuple):
    """Of one policy."""

    estimates: dict[str, Figure]
    effective_size: float
    """(sum w)^2 / sum w^2: so many decisions of the judged policy itself would tell as much."""
    largest_weight: float
    mean_weight: float
    """1 where every arm that the judged policy takes could have been given."""
    shrinkage: float
    """Lambda of the shrunk DR; infinite: not shrunk, which is DR."""
    warnings: list[str]

    def said(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **{name: figure.said() for name, figure in self.estimates.items()},
            "effective_size": self.effective_size,
            "largest_weight": self.largest_weight,
            "mean_weight": self.mean_weight,
            "shrinkage": self.shrinkage if np.isfinite(self.shrinkage) else None,
            "warnings": self.warnings,
        }


def check(log: Log) -> None:
    """Refuse what no estimator can work on.

    Raises:
        TrainingError: nothing logged, a propensity that is not in (0, 1], probabilities that are none.
    """
    if not len(log.arm):
        raise TrainingError("there are no decisions to judge a policy by")
    bad = np.flatnonzero(~((log.propensity > 0) & (log.propensity <= 1)))
    if len(bad):
        raise TrainingError(
            f"decision {bad[0] + 1}: propensity {log.propensity[bad[0]]:g} is not above 0 and at most 1"
        )
    off = np.flatnonzero((np.abs(log.target.sum(axis=1) - 1) > 1e-6) | (log.target < 0).any(axis=1))
    if len(off):
        raise TrainingError(f"decision {off[0] + 1}: the judged policy's probabilities do not sum to 1")


def judge(log: Log, expected: Reals) -> Judged:
    """All estimators with 95 % intervals (bootstrap over users).

    Args:
        log: checked.
        expected: [N, A], a model's expected reward of each arm, fitted without the user concerned.
    """
    rows = np.arange(len(log.arm))
    w = log.target[rows, log.arm] / log.propensity
    dm = (log.target * expected).sum(axis=1)
    residual = log.reward - expected[rows, log.arm]
    shrinkage = best_shrinkage(w, dm, residual)
    shrunk = shrunk_weights(w, shrinkage)
    # Everything is a ratio of sums over decisions, so a sample of users needs the sums by user only.
    parts = np.column_stack([np.ones(len(w)), w, dm, w * log.reward, dm + w * residual, dm + shrunk * residual])
    by_user = np.zeros((int(log.user.max()) + 1, parts.shape[1]))
    np.add.at(by_user, log.user, parts)
    draws = user_draws(len(by_user), REPLICATES, SEED) @ by_user
    whole = by_user.sum(axis=0)
    estimates = {
        name: interval(float(value), drawn)
        for (name, value), drawn in zip(_estimates(whole).items(), _estimates(draws.T).values(), strict=True)
    }
    total = float(w.sum())
    effective = total**2 / float((w**2).sum()) if total > 0 else 0.0
    mean = float(w.mean())
    return Judged(estimates, effective, float(w.max()), mean, shrinkage, [*log.notes, *_warnings(w, effective)])


def _estimates(sums: Reals) -> dict[str, Any]:
    n, w, dm, wr, dr, shrunk = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"dm": dm / n, "ips": wr / n, "snips": np.divide(wr, w), "dr": dr / n, "dr_shrunk": shrunk / n}


def shrunk_weights(w: Reals, shrinkage: float) -> Reals:
    """Optimistic shrinkage: lambda w / (w^2 + lambda); small weights stay, large ones go down."""
    if np.isinf(shrinkage):
        return w
    found: Reals = shrinkage * w / (w**2 + shrinkage) if shrinkage > 0 else np.zeros_like(w)
    return found


def best_shrinkage(w: Reals, dm: Reals, residual: Reals) -> float:
    """The lambda with the least estimated squared error: variance, and the square of the bias that it brings."""
    n = len(w)
    grid = [0.0, *np.geomspace(0.01, 1e5, 50).tolist(), float("inf")]

    def error(shrinkage: float) -> float:
        shrunk = shrunk_weights(w, shrinkage)
        bias = float(((w - shrunk) * residual).mean())
        # The estimate of the bias is noisy itself, and noise is not to pass for unbiasedness: its variance is added.
        noise = float(((w - shrunk) * residual).var()) / n
        return float((dm + shrunk * residual).var()) / n + bias**2 + noise

    return min(grid, key=error)


def _warnings(w: Reals, effective: float) -> list[str]:
    n, total = len(w), float(w.sum())
    if total <= 0:
        return ["thin support: the log never did what the judged policy would do; nothing is known about it"]
    found = []
    if effective < EFFECTIVE_MIN:
        found.append(
            f"thin support: {n} decisions tell as much as {effective:.0f} of the judged policy's own; "
            f"below {EFFECTIVE_MIN:.0f} an interval is not to be trusted"
        )
    if float(w.max()) / total > WEIGHT_SHARE_MAX:
        found.append(f"thin support: one decision carries {100 * float(w.max()) / total:.0f} % of all weight")
    error = float(w.std()) / np.sqrt(n)
    if abs(float(w.mean()) - 1) > 4 * error + 1e-9:
        found.append(
            f"the mean weight is {float(w.mean()):.3f} +- {error:.3f}, not 1: the judged policy does what the log "
            "could not have done, or propensities are wrong"
        )
    return found
