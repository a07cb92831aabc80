"""Qini and uplift curves: is the effect found where the model says it is?

Who is given and who is not is random; customers are ranked by predicted uplift, best first. Ties share one point.

- Qini curve at the first n: Y_given(n) - Y_not(n) N_given(n) / N_not(n)  (Radcliffe, 2007).
- Uplift curve at the first n: (Y_given(n) / N_given(n) - Y_not(n) / N_not(n)) n  (Gutierrez and Gerardy, 2017).

Both areas are taken above the diagonal of random choice and divided by the same area of a perfect ranking, in which
negative effects exist: 0 is random, 1 perfect, below 0 worse than random. This is the normalisation of scikit-uplift's
`qini_auc_score` and `uplift_auc_score`. Rates are small shares of customers, so a perfect ranking, which knows every
single outcome, is far away: a Qini of 0.05 can be worth a lot.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.tables import Reals

Weights = NDArray[np.float64] | NDArray[np.int64]
"""[N], how often a customer counts."""

NORMALISATION = "area above the random diagonal, divided by that of a perfect ranking (negative effects exist)"


class Curve(NamedTuple):
    """From (0, 0) on."""

    n: Reals
    """[K + 1], customers."""
    gain: Reals
    """[K + 1], outcomes more than without."""


class Ranked(NamedTuple):
    """Customers, best first; made once, weighed often."""

    order: NDArray[np.int64]
    """[N], places in the arrays that were given."""
    ends: NDArray[np.int64]
    """[K], last place of each run of equal scores."""
    given: Reals
    """[N], 1 or 0, in order."""
    outcome: Reals
    """[N], in order."""

    @classmethod
    def of(cls, score: Reals, given: NDArray[np.bool_], outcome: NDArray[np.bool_] | Reals) -> "Ranked":
        """By score, highest first.

        Args:
            score: [N], predicted uplift.
            given: [N], who was given, by chance.
            outcome: [N].
        """
        order = np.argsort(-score, kind="stable")
        ends = np.r_[np.flatnonzero(np.diff(score[order])), len(order) - 1]
        return cls(order, ends, given[order].astype(np.float64), outcome[order].astype(np.float64))


class _Sums(NamedTuple):
    """Over the first n customers, [K] each."""

    n_given: Reals
    n_not: Reals
    y_given: Reals
    y_not: Reals


def _sums(ranked: Ranked, weight: Weights) -> _Sums:
    w = np.asarray(weight, np.float64)[ranked.order]
    of = w * ranked.given, w * (1 - ranked.given)
    parts = (*of, of[0] * ranked.outcome, of[1] * ranked.outcome)
    return _Sums(*(np.cumsum(part)[ranked.ends] for part in parts))


def _over(a: Reals, b: Reals) -> Reals:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _qini_gain(s: _Sums) -> Reals:
    gain: Reals = s.y_given - s.y_not * _over(s.n_given, s.n_not)
    return gain


def _uplift_gain(s: _Sums) -> Reals:
    gain: Reals = (_over(s.y_given, s.n_given) - _over(s.y_not, s.n_not)) * (s.n_given + s.n_not)
    return gain


def qini_curve(ranked: Ranked, weight: Weights) -> Curve:
    """See the module."""
    sums = _sums(ranked, weight)
    return _curve(sums, _qini_gain(sums))


def uplift_curve(ranked: Ranked, weight: Weights) -> Curve:
    """See the module."""
    sums = _sums(ranked, weight)
    return _curve(sums, _uplift_gain(sums))


def qini(ranked: Ranked, weight: Weights) -> float:
    """Normalised area under the Qini curve; NaN where no ranking could be better than random.

    Perfect: outcomes that were given first, then all without an outcome, then outcomes that were not given.
    """
    sums = _sums(ranked, weight)
    return _share(_curve(sums, _qini_gain(sums)), _curve(perfect := _blocks(_totals(sums), _QINI), _qini_gain(perfect)))


def auuc(ranked: Ranked, weight: Weights) -> float:
    """Normalised area under the uplift curve; NaN where no ranking could be better than random.

    Perfect: outcomes that were given; then, of what is left, whatever makes the area larger, as scikit-uplift does.
    """
    sums = _sums(ranked, weight)
    totals = _totals(sums)
    idle = totals.n_given - totals.y_given
    order = _AUUC_IF_IDLE_FEW if totals.y_not > idle else _AUUC
    return _share(_curve(sums, _uplift_gain(sums)), _curve(perfect := _blocks(totals, order), _uplift_gain(perfect)))


def uplift_at(ranked: Ranked, share: float, weight: Weights) -> float:
    """Difference of the outcome's rate among the best `share` of customers; NaN where it has nobody of one group.

    Of customers with equal scores at the border, those of the stated share count in part, so no order decides.
    """
    s = _sums(ranked, weight)
    n = s.n_given + s.n_not
    at = share * n[-1]
    n_given, n_not, y_given, y_not = (float(np.interp(at, np.r_[0.0, n], np.r_[0.0, part])) for part in s)
    if n_given <= 0 or n_not <= 0:
        return float("nan")
    return y_given / n_given - y_not / n_not


# Blocks of equal customers: (given, outcome), best first.
_QINI = (((1, 1),), ((0, 0), (1, 0)), ((0, 1),))
_AUUC = (((1, 1),), ((0, 0),), ((1, 0),), ((0, 1),))
_AUUC_IF_IDLE_FEW = (((1, 1),), ((0, 0),), ((0, 1),), ((1, 0),))


class _Totals(NamedTuple):
    n_given: float
    n_not: float
    y_given: float
    y_not: float


def _totals(sums: _Sums) -> _Totals:
    return _Totals(*(float(part[-1]) for part in sums))


def _blocks(totals: _Totals, order: tuple[tuple[tuple[int, int], ...], ...]) -> _Sums:
    count = {
        (1, 1): totals.y_given,
        (1, 0): totals.n_given - totals.y_given,
        (0, 1): totals.y_not,
        (0, 0): totals.n_not - totals.y_not,
    }
    rows = [
        [sum(count[kind] for kind in block if kind[0] == given and kind[1] >= least) for block in order]
        for least in (0, 1)
        for given in (1, 0)
    ]
    return _Sums(*(np.cumsum(row) for row in rows))


def _curve(sums: _Sums, gain: Reals) -> Curve:
    return Curve(np.r_[0.0, sums.n_given + sums.n_not], np.r_[0.0, gain])


def _share(actual: Curve, perfect: Curve) -> float:
    diagonal = perfect.n[-1] * perfect.gain[-1] / 2
    best = float(np.trapezoid(perfect.gain, perfect.n)) - diagonal
    if best <= 0:
        return float("nan")
    return (float(np.trapezoid(actual.gain, actual.n)) - diagonal) / best
