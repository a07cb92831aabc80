"""What a sequence model must beat: the base rate, logistic regression and boosted trees on hand-made aggregates.

Aggregates are what one would compute in a warehouse without looking at the order of events: how long the user is
known, how long ago the last order was, counts by kind in windows. They are columns of the worker's own step, so no
feature has a second implementation.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stream.core.features import FEATURES, dequantise
from training.dataset import Dataset
from training.errors import TrainingError

AGGREGATES = (
    *("since_buy", "tenure", "events_1h", "events_1d", "views_7d"),
    *("carts_1d", "favourites_7d", "buys_30d", "session_events"),
)
POINTS_MAX = 1_000_000
"""Decision points that yardsticks are fitted to, and that are kept beside a model: more teach 9 columns nothing."""

_COLUMNS = [[feature.name for feature in FEATURES].index(name) for name in AGGREGATES]
_FOLDS = 5

MAKERS: dict[str, Callable[[int], Any]] = {
    "logistic": lambda _seed: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1_000)),
    # Small trees, strongly regularised: the defaults (31 leaves) were worse on users not seen.
    "trees": lambda seed: HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=200,
        l2_regularization=10.0,
        random_state=seed,
    ),
}


class Beside(NamedTuple):
    """What is kept of the training users in the folder of a model: for yardsticks, drift, and to know who was seen."""

    sha256: str
    """Of the model's file."""
    user: NDArray[np.uint64]
    """[U], hashes of the users that it was trained on, validation included."""
    steps: NDArray[np.uint8]
    """[P, F], decision points of these users."""
    label: NDArray[np.bool_]
    """[P]."""


def beside(train: Dataset, sha256: str, seed: int) -> Beside:
    """Up to POINTS_MAX decision points, drawn where there are more."""
    at = np.flatnonzero(train.known)
    if len(at) > POINTS_MAX:
        at = np.sort(np.random.default_rng(seed).choice(at, POINTS_MAX, replace=False))
    return Beside(sha256, np.sort(train.user), train.steps[at], train.label[at])


def beside_bytes(kept: Beside) -> bytes:
    """As a file, .npz."""
    stored = io.BytesIO()
    np.savez_compressed(stored, sha256=np.array(kept.sha256), user=kept.user, steps=kept.steps, label=kept.label)
    return stored.getvalue()


def read_beside(path: Path, sha256: str) -> Beside | None:
    """What lies beside the model of this SHA-256; None where nothing does, or it belongs to another model.

    Raises:
        TrainingError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            kept = Beside(str(stored["sha256"]), stored["user"], stored["steps"], stored["label"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise TrainingError(f"{path}: not what `training run` writes: {error}; delete it, or train again") from error
    return kept if kept.sha256 == sha256 else None


def fitted_scores(kept: Beside, steps: NDArray[np.uint8], seed: int) -> dict[str, NDArray[np.float64]]:
    """Scores [N] of each yardstick, fitted to the training users.

    Args:
        kept: of the training users; both outcomes occur.
        steps: uint8 [N, F], to be scored.
        seed: of the trees.
    """
    return {name: _scores(make(seed), kept.steps, kept.label, steps) for name, make in MAKERS.items()}


def crossed_scores(dataset: Dataset, seed: int) -> dict[str, NDArray[np.float64]]:
    """Scores [N] of each yardstick for all steps, each user's by a fit to other users of the same data set.

    Empty where some users' others have labels of one class only.
    """
    user = np.repeat(np.arange(len(dataset.user)), np.diff(dataset.starts))
    fold = np.random.default_rng(seed).permutation(len(dataset.user))[user] % _FOLDS
    scores = {name: np.empty(len(user)) for name in MAKERS}
    for turn in np.unique(fold):
        others, own = (fold != turn) & dataset.known, fold == turn
        if len(np.unique(dataset.label[others])) < 2:
            return {}
        for name, make in MAKERS.items():
            scores[name][own] = _scores(make(seed), dataset.steps[others], dataset.label[others], dataset.steps[own])
    return scores


def _scores(
    model: Any,  # noqa: ANN401  scikit-learn has no types
    steps: NDArray[np.uint8],
    label: NDArray[np.bool_],
    judged: NDArray[np.uint8],
) -> NDArray[np.float64]:
    model.fit(_aggregates(steps), label)
    scores: NDArray[np.float64] = model.predict_proba(_aggregates(judged))[:, 1]
    return scores


def _aggregates(steps: NDArray[np.uint8]) -> NDArray[np.float32]:
    return dequantise(steps)[:, _COLUMNS]
