"""How good a regression of the depth is: on decision points that an order follows, against the training users' mean."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.dataset import Dataset
from training.errors import TrainingError
from training.evaluate import n_draws
from training.metrics import interval, user_draws


def depths_known(dataset: Dataset) -> NDArray[np.bool_]:
    """[N]: an order with a known price follows within the horizon."""
    return dataset.known & ~np.isnan(dataset.depth)


def require_depths(train: Dataset, test: Dataset) -> None:
    """There is something to learn.

    Raises:
        TrainingError: too few orders with a known price follow, or all with the same discount.
    """
    for name, part in (("training", train), ("test", test)):
        depth = part.depth[depths_known(part)]
        if len(depth) < 2 or (name == "training" and np.ptp(depth) == 0):
            raise TrainingError(
                f"the {name} part has {len(depth)} decision points that an order with a known price follows, of "
                f"{len(np.unique(depth))} different depths: a depth cannot be learnt from these. Orders need their "
                "discount (discount_minor) and their total"
            )


def depth_figures(dataset: Dataset, score: NDArray[np.float32], expected: float, seed: int = 0) -> dict[str, Any]:
    """Errors of the depth with 95 % intervals, by a bootstrap that draws whole users.

    Args:
        dataset: users that were not trained on.
        score: [N].
        expected: mean depth of the training users; `base_mse` and `r2` (1 - mse / base_mse) are of always saying that.
        seed: of the bootstrap.
    """
    at = np.flatnonzero(depths_known(dataset))
    owner = np.repeat(np.arange(len(dataset.user)), np.diff(dataset.starts))[at]
    _, owner = np.unique(owner, return_inverse=True)
    error = dataset.depth[at].astype(np.float64) - score[at]
    base = dataset.depth[at].astype(np.float64) - expected
    n_users = int(owner.max()) + 1
    parts = (np.ones(len(at)), error**2, np.abs(error), base**2)
    sums = np.stack([np.bincount(owner, part, n_users).astype(np.float64) for part in parts])
    drawn = sums @ user_draws(n_users, n_draws(len(at)), seed).T.astype(np.float64)  # [4, draws]

    def said(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n, squared, absolute, by_mean = sums
        return {"mse": squared / n, "mae": absolute / n, "base_mse": by_mean / n, "r2": 1 - squared / by_mean}

    values, draws = said(sums.sum(axis=1)), said(drawn)
    figures = {name: interval(float(value), draws[name]).said() for name, value in values.items()}
    return {**figures, "events": len(at), "users": n_users, "mean_depth": float(dataset.depth[at].mean())}
