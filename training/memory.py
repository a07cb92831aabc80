"""Where an LSTM begins: at a linear memory of the steps, which a convex fit finds.

From drawn weights, some hundred users teach an LSTM less than they teach logistic regression on the newest step and on
decayed means of all steps. Such a mean is something that an LSTM can hold: a unit whose forget gate says `decay` and
whose input gate says the rest, at first whatever comes. So the regression is fitted, its decayed sums become units of
the LSTM, its weights of the newest step those of the head, and training goes on from there.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.dataset import Dataset
from training.models.network import Network
from training.windows import batches, cut

WITH_MEMORY = "lstm"
"""The architecture that begins so."""
DECAYS = (0.5, 0.9)
COPIES = 3
"""Units for each sum: dropout takes them away one by one, not the whole sum."""
_PRIOR = 0.001
"""scikit-learn's C. The decision points of a user say much the same, so the fit is held back."""
_POINTS_MAX = 200_000
_WINDOWS = 256
_SWING = 0.3
"""Deviation of what goes into a unit: within it tanh is a line."""
_OPEN = 2.0
"""The output gate's bias."""

Array = NDArray[np.float64]


class Memory(NamedTuple):
    """K answers to prepared steps z [P], each a logit.

    newest[:, k] @ z + sum over d of older[d][:, k] @ (mean of z - centre, decayed by DECAYS[d]) + bias[k]
    """

    newest: Array
    """[P, K]."""
    older: list[Array]
    """[P, K] for each decay."""
    bias: Array
    """[K]."""
    centre: Array
    """[P], of the steps."""
    spread: list[Array]
    """[K] for each decay: the deviation of older[d][:, k] @ (z - centre)."""


def begin_with_memory(network: Network, train: Dataset, seed: int) -> None:
    """Put a linear memory into an LSTM and its head.

    Args:
        network: of `training.models.lstm`, its biases at the base rates.
        train: users to learn from.
        seed: of the windows that the fit sees.
    """
    memory = _fitted(network, train, seed)
    lstm, head, far = (network.trained.get_layer(name) for name in ("lstm", "head", "far"))
    n_units, n_answers = lstm.units, len(memory.bias)
    kernel, recurrent, bias = (weights.copy() for weights in lstm.get_weights())
    of_units = np.zeros((n_units, n_answers))
    places = itertools.product(range(n_answers), range(len(DECAYS)), range(COPIES))
    for unit, (answer, at, _) in enumerate(places):
        older, decay = memory.older[at][:, answer], DECAYS[at]
        scale = _SWING / max(float(memory.spread[at][answer]), 1e-6)
        gates = unit + n_units * np.arange(4)  # input, forget, candidate, output
        kernel[:, gates], recurrent[:, gates] = 0, 0
        kernel[:, gates[2]] = scale * older
        bias[gates] = _logit(1 - decay), _logit(decay), -scale * (older @ memory.centre), _OPEN
        of_units[unit, answer] = (1 + np.exp(-_OPEN)) / scale / COPIES
    lstm.set_weights([kernel, recurrent, bias])
    weights = np.concatenate([of_units, memory.newest])
    head.begin_with(weights[:, 0], float(memory.bias[0]))
    far.set_weights([weights[:, 1:], memory.bias[1:]])


def _fitted(network: Network, train: Dataset, seed: int) -> Memory:
    prepared = network.sequence.get_layer("prepared")
    rng = np.random.default_rng(seed)
    n_arms = train.shown.shape[1]
    seen: list[Array] = []
    labels, known = [], []
    centre = np.zeros(0)
    for part in batches(train, cut(train.starts, rng), rng, _WINDOWS):
        z = prepared(part.x).numpy().astype(np.float64)
        judged = part.weight > 0
        at = judged.any(axis=-1)
        centre = centre if len(centre) else z[at].mean(axis=0)
        seen.append(np.concatenate([z[at], *(_decayed(z - centre, decay)[at] for decay in DECAYS)], axis=1))
        # The first column for the horizon asked for, whatever arm was shown; then one for each further horizon.
        labels.append(part.label[at][:, n_arms - 1 :])
        known.append(
            np.concatenate([judged[at][:, :n_arms].any(axis=1, keepdims=True), judged[at][:, n_arms:]], axis=1)
        )
        if sum(map(len, seen)) >= _POINTS_MAX:
            break
    x = np.concatenate(seen)
    fits = [_fit(x[k], y[k]) for y, k in zip(np.concatenate(labels).T, np.concatenate(known).T, strict=True)]
    newest, *older = np.split(np.stack([weights for weights, _ in fits], axis=1), 1 + len(DECAYS))
    z = x[:, : len(newest)] - centre
    return Memory(newest, older, np.array([bias for _, bias in fits]), centre, [(z @ one).std(axis=0) for one in older])


def _fit(x: Array, label: NDArray[np.float32]) -> tuple[Array, float]:
    """Weights [D] and bias of logistic regression, of x as it is; zeros and the base rate where there is one class."""
    if len(x) == 0 or label.min() == label.max():
        return np.zeros(x.shape[1]), _logit(float(np.clip(label.mean() if len(x) else 0.5, 1e-4, 1 - 1e-4)))
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread < 1e-3, 1.0, spread)
    found = LogisticRegression(C=_PRIOR, max_iter=200).fit((x - centre) / spread, label > 0)
    weights = found.coef_[0] / spread
    return weights, float(found.intercept_[0] - weights @ centre)


def _decayed(z: Array, decay: float) -> Array:
    """[B, T, P]: at each step the sum of (1 - decay) * decay^age * z over it and those before it."""
    means, mean = np.empty_like(z), np.zeros_like(z[:, 0])
    for at in range(z.shape[1]):
        mean = decay * mean + (1 - decay) * z[:, at]
        means[:, at] = mean
    return means


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))
