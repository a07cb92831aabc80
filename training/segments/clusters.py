"""Clusters of users: mini-batch k-means or DBSCAN, their quality, and names that stay from run to run."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import DBSCAN, MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

from stream.scoring.segments import NUMBER_MAX
from training.errors import TrainingError
from training.segments.sample import USED

METHODS = ("kmeans", "dbscan")
K_MIN, K_MAX = 3, 8
POINTS_MAX = 10_000
"""Points that DBSCAN and the silhouette look at, both of which compare all with all."""

NEAR = 0.5
"""A cluster is the same as one of an earlier run if their centres are this near: root mean square, in deviations."""

_NOISE_MAX = 0.3
_MIN_SAMPLES = 2 * len(USED)  # Sander et al., "Density-based clustering in spatial databases", 1998

Reals = NDArray[np.float64]

_SAID: dict[str, tuple[str, str]] = {
    "since_buy": ("ordered lately", "order long ago or never"),
    "tenure": ("known briefly", "known for long"),
    "events_1d": ("quiet today", "busy today"),
    "views_7d": ("few views", "many views"),
    "carts_1d": ("empty cart", "fills the cart"),
    "favourites_7d": ("no favourites", "many favourites"),
    "buys_30d": ("few orders", "many orders"),
    "category_share": ("many categories", "one category"),
    "discount_share": ("full price", "buys on discount"),
}


class Clusters(NamedTuple):
    """Points in groups."""

    label: NDArray[np.int64]
    """[N], 0 to K - 1; -1 = noise, which DBSCAN leaves outside."""
    centre: Reals
    """[K, len(USED)], means of the features."""
    figures: dict[str, Any]


def find(x: NDArray[np.float32], method: str, k: int | None, seed: int) -> Clusters:
    """Group points.

    Args:
        x: [N, len(USED)].
        method: one of METHODS.
        k: of k-means; None: the number from K_MIN to K_MAX with the highest silhouette.
        seed: of starts and samples.

    Raises:
        TrainingError: there is nothing to group, or DBSCAN finds one crowd.
    """
    if len(np.unique(x, axis=0)) < 2 * K_MAX:
        raise TrainingError(f"{len(np.unique(x, axis=0))} different steps are too few for segments")
    z = scaled(x)
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(z))[:POINTS_MAX])
    label = _dbscan(z, some) if method == "dbscan" else _kmeans(z, some, k, seed)
    n = int(label.max()) + 1
    inside = label[some] >= 0
    again = _dbscan(z, _others(some, rng)) if method == "dbscan" else _fit(z, n, seed + 1)
    figures = {
        "silhouette": float(silhouette_score(z[some][inside], label[some][inside])),
        "davies_bouldin": float(davies_bouldin_score(z[some][inside], label[some][inside])),
        "agreement_with_another_seed": float(adjusted_rand_score(label[some], again[some])),
        "noise_share": float((label < 0).mean()),
    }
    centre = np.stack([x[label == group].mean(axis=0, dtype=np.float64) for group in range(n)])
    return Clusters(label, centre, figures)


def scaled(x: NDArray[np.float32]) -> Reals:
    """Standardised features, float64 [N, F]; those that do not vary are 0."""
    deviation = x.std(axis=0, dtype=np.float64)
    return (x - x.mean(axis=0, dtype=np.float64)) / np.where(deviation > 0, deviation, 1)


def _fit(z: Reals, k: int, seed: int) -> NDArray[np.int64]:
    label = MiniBatchKMeans(k, batch_size=4_096, n_init=20, random_state=seed).fit_predict(z)
    _, found = np.unique(label, return_inverse=True)  # a start that nobody is near leaves a gap
    return found.astype(np.int64)


def _kmeans(z: Reals, some: NDArray[np.int64], k: int | None, seed: int) -> NDArray[np.int64]:
    labels = [_fit(z, n, seed) for n in ([k] if k else range(K_MIN, K_MAX + 1))]
    return max(labels, key=lambda label: silhouette_score(z[some], label[some])) if len(labels) > 1 else labels[0]


def _dbscan(z: Reals, some: NDArray[np.int64]) -> NDArray[np.int64]:
    """DBSCAN on a sample; the other points go with their nearest, if that is near enough.

    The radius is the quantile of the distance to the `_MIN_SAMPLES`th neighbour with the highest silhouette.
    """
    near = NearestNeighbors(n_neighbors=_MIN_SAMPLES).fit(z[some])
    reach = np.sort(near.kneighbors(z[some])[0][:, -1])
    best: tuple[float, float, NDArray[np.int64]] | None = None
    for quantile in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        radius = float(reach[int(quantile * (len(reach) - 1))])
        if radius <= 0:
            continue
        label = DBSCAN(eps=radius, min_samples=_MIN_SAMPLES).fit_predict(z[some])
        inside = label >= 0
        if not 2 <= len(np.unique(label[inside])) <= NUMBER_MAX or inside.mean() < 1 - _NOISE_MAX:
            continue
        worth = float(silhouette_score(z[some][inside], label[inside]))
        if best is None or worth > best[0]:
            best = worth, radius, label
    if best is None:
        raise TrainingError("DBSCAN finds one crowd and no groups in these events: use --method kmeans")
    _, radius, label = best
    distance, at = NearestNeighbors(n_neighbors=1).fit(z[some]).kneighbors(z)
    found: NDArray[np.int64] = np.where(distance[:, 0] <= radius, label[at[:, 0]], -1)
    return found


def _others(some: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Four fifths of a sample: what another draw might have been."""
    return np.sort(rng.choice(some, max(len(some) * 4 // 5, 1), replace=False))


class Named(NamedTuple):
    """What a cluster is called."""

    number: list[int]
    """[K], from 1: what stands in rows."""
    name: list[str]
    """[K]."""
    same: list[bool]
    """[K]: known from an earlier run."""


def named(clusters: Clusters, deviation: Reals, mean: Reals, previous: dict[str, Any] | None) -> Named:
    """Numbers and names: those of the earlier run's cluster with the nearest centre, else new ones.

    Centres are paired so that the sum of their distances is least (Kuhn, "The Hungarian method", 1955), and a pair
    counts where it is near. A number that was in use once is never given to another cluster.

    Args:
        clusters: to be named.
        deviation: [len(USED)], of the features.
        mean: [len(USED)].
        previous: the metadata of the earlier file; None = there is none.

    Raises:
        TrainingError: numbers have run out.
    """
    scale = np.where(deviation > 0, deviation, 1)
    n = len(clusters.centre)
    number, name, same = [0] * n, [""] * n, [False] * n
    used_up = 0
    if previous is not None:
        used_up = int(previous["numbers_used"])
        numbers = [int(key) for key in previous["centres"]]
        theirs = np.array([previous["centres"][str(key)] for key in numbers], np.float64)
        difference = (clusters.centre[:, None] - theirs) / scale
        distance = np.sqrt(np.square(difference).mean(axis=2))
        for ours, other in zip(*linear_sum_assignment(distance), strict=True):
            if distance[ours, other] <= NEAR:
                number[ours], same[ours] = numbers[other], True
                name[ours] = str(previous["names"][str(numbers[other])])
    sizes = np.bincount(clusters.label[clusters.label >= 0], minlength=n)
    for group in np.argsort(-sizes, kind="stable").tolist():
        if not same[group]:
            used_up += 1
            number[group] = used_up
            name[group] = _unique(_words((clusters.centre[group] - mean) / scale), name)
    if used_up > NUMBER_MAX:
        raise TrainingError(f"{used_up} segments were named over time; a row has room for {NUMBER_MAX}: begin anew")
    return Named(number, name, same)


def _words(z: Reals) -> str:
    """The two features that set a cluster apart most."""
    first, second = np.argsort(-np.abs(z), kind="stable")[:2].tolist()
    return ", ".join(_SAID[USED[at]][int(z[at] > 0)] for at in (first, second))


def _unique(name: str, taken: list[str]) -> str:
    found, turn = name, 1
    while found in taken:
        turn += 1
        found = f"{name} ({turn})"
    return found
