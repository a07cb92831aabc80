"""How far what a model sees and says now is from what it was trained on: the population stability index.

PSI = sum over bins of (now - then) ln(now / then), in shares (Lewis, "An introduction to credit scoring", 1994). Below
0.1 nothing has happened, above 0.25 something has: the field's rule of thumb (Siddiqi, "Credit risk scorecards", 2006).

    said = reference(steps, scores)         where the model is made; it travels in the file's metadata
    seen = Seen(parse_reference(said))      where it scores
    seen.add(steps, scores); seen.psi()     {"score": 0.01, "kind": 0.3, ...}
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FEATURES
from stream.core.row import N_FEATURES

BINS = 10
"""Of a feature, and of the score: deciles, or fewer where there are fewer different values."""

SCORE = "score"
"""What the score is called beside the features."""

_HALF = 0.5  # added to each bin's count: a bin that is empty now, or was then, must not make the index infinite


class Reference(NamedTuple):
    """What a model was trained on, in bins: one line a feature, in the order of the step, the score's last."""

    code: NDArray[np.int64]
    """[F, 256]: place in `share` of each byte of each feature."""
    edges: NDArray[np.float32]
    """[BINS - 1]: a score above the i-th is in bin i + 1 or higher; infinite where there are fewer bins."""
    share: NDArray[np.float64]
    """[(F + 1) * BINS]: of the training data, 1 in each line."""
    n: NDArray[np.int64]
    """[F + 1]: bins of each line."""


def reference(steps: NDArray[np.uint8], scores: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Bins for a file's metadata, as JSON.

    Args:
        steps: uint8 [N, F], N >= 1, of training.
        scores: [M], M >= 1, of users that were not trained on: a network's scores of its own training users are
            further apart than those that it will give.
    """
    said: dict[str, Any] = {}
    for place, feature in enumerate(FEATURES):
        values = steps[:, place]
        edges = _edges(values.astype(np.int64))
        said[feature.name] = {"edges": edges.tolist(), "share": _shares(values, edges)}
    rounded = scores.astype(np.float32)
    edges = _edges(rounded)
    said[SCORE] = {"edges": [float(edge) for edge in edges], "share": _shares(rounded, edges)}
    return said


def _edges(values: NDArray[Any]) -> NDArray[Any]:
    """Upper ends of all bins but the last, the ends themselves included."""
    different = np.unique(values)
    if len(different) <= BINS:
        return different[:-1]
    found: NDArray[Any] = np.unique(np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    return found[found < different[-1]]


def _shares(values: NDArray[Any], edges: NDArray[Any]) -> list[float]:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return (counts / len(values)).round(6).tolist()


def parse_reference(said: Mapping[str, Any]) -> Reference:
    """Read what `reference` wrote.

    Raises:
        ValueError: it is not what `reference` writes.
    """
    code = np.zeros((N_FEATURES, 256), np.int64)
    score_edges = np.full(BINS - 1, np.inf, np.float32)
    share = np.zeros((N_FEATURES + 1, BINS))
    n = np.zeros(N_FEATURES + 1, np.int64)
    names = [*(feature.name for feature in FEATURES), SCORE]
    for line, name in enumerate(names):
        try:
            edges = np.array(said[name]["edges"], np.float64)
            shares = np.array(said[name]["share"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"reference bins of {name}: {type(error).__name__}: {error}") from error
        in_order = edges.ndim == 1 and bool(np.all(np.diff(edges) > 0)) and bool(np.isfinite(edges).all())
        if not in_order or len(edges) >= BINS or shares.shape != (len(edges) + 1,):
            raise ValueError(f"reference bins of {name}: edges {edges.tolist()}, shares {shares.tolist()}")
        if not (np.all(shares >= 0) and abs(float(shares.sum()) - 1) < 1e-3):
            raise ValueError(f"reference bins of {name}: shares {shares.tolist()} do not add up to 1")
        n[line] = len(shares)
        share[line, : len(shares)] = shares
        if line < N_FEATURES:
            code[line] = line * BINS + np.searchsorted(edges, np.arange(256), side="left")
        else:
            score_edges[: len(edges)] = edges
    return Reference(code, score_edges, share.reshape(-1), n)


class Seen:
    """What came by, in a reference's bins; older events count for less and less."""

    def __init__(self, then: Reference, keep: int) -> None:
        """Nothing yet.

        Args:
            then: the bins.
            keep: when so many events have been counted, all counts are halved.
        """
        self._then = then
        self._keep = keep
        self._counts = np.zeros((N_FEATURES + 1) * BINS)
        self.n = 0.0
        """Events counted."""

    def add(self, steps: NDArray[np.uint8], scores: NDArray[np.float32]) -> None:
        """Count events.

        Args:
            steps: uint8 [n, F].
            scores: float32 [n], finite.
        """
        then = self._then
        codes = then.code[np.arange(N_FEATURES), steps].reshape(-1)
        of_score = N_FEATURES * BINS + np.searchsorted(then.edges, scores, side="left")
        self._counts += np.bincount(np.concatenate([codes, of_score]), minlength=len(self._counts))
        self.n += len(steps)
        if self.n > self._keep:
            self._counts /= 2
            self.n /= 2

    def psi(self) -> dict[str, float]:
        """The index by feature, and of the score under `SCORE`."""
        then = self._then
        n = np.repeat(then.n, BINS)
        there = np.tile(np.arange(BINS), len(then.n)) < n
        now = (self._counts + _HALF) / (self.n + _HALF * n)
        before = (then.share * max(self.n, 1.0) + _HALF) / (max(self.n, 1.0) + _HALF * n)
        terms = np.where(there, (now - before) * np.log(now / before), 0.0)
        found = terms.reshape(-1, BINS).sum(axis=1)
        names = [*(feature.name for feature in FEATURES), SCORE]
        return dict(zip(names, found.tolist(), strict=True))
