"""What each arm is expected to bring, for DM and DR: learned on other users than those it is used for."""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from training.ope.estimators import Log
from training.tables import Reals

FOLDS = 5

PRIOR = 50.0
"""An arm's mean is shrunk as if so many decisions with the mean of all arms had been logged before."""

LEAF_SHARE = 0.02


def expected_rewards(log: Log, seed: int) -> Reals:
    """[N, A]: each arm's shrunk mean, and what boosted trees find beyond it in what was known at the decision.

    Args:
        log: users are kept whole in a fold.
        seed: of folds and trees.
    """
    fold = np.random.default_rng(seed).permutation(int(log.user.max()) + 1)[log.user] % FOLDS
    found = np.empty((len(log.arm), len(log.arms)))
    with threadpool_limits(1):
        for number in range(FOLDS):
            left_out = fold == number
            if left_out.any():
                found[left_out] = _fitted(log, ~left_out, left_out, seed)
    return found


def _fitted(log: Log, rows: NDArray[np.bool_], left_out: NDArray[np.bool_], seed: int) -> Reals:
    arm, reward, arms = log.arm[rows], log.reward[rows], len(log.arms)
    overall = float(reward.mean()) if len(reward) else 0.0
    count, total = np.bincount(arm, minlength=arms), np.bincount(arm, reward, arms)
    mean = (total + PRIOR * overall) / (count + PRIOR)
    found = np.tile(mean, (int(left_out.sum()), 1))
    if not log.x.shape[1] or len(reward) < 500:
        return found
    x = np.column_stack([log.x[rows], arm])
    model = HistGradientBoostingRegressor(
        max_depth=3,
        max_iter=60,
        learning_rate=0.06,
        min_samples_leaf=max(20, int(LEAF_SHARE * len(reward))),
        l2_regularization=10.0,
        early_stopping=False,
        random_state=seed,
    ).fit(x, reward - mean[arm])
    for one in range(arms):
        found[:, one] += model.predict(np.column_stack([log.x[left_out], np.full(len(found), one)]))
    return found
