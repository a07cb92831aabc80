"""Fit a network to the training users; stop where it gets worse on the validation users; then use both."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stream.core.features import dequantise
from training.calibrate import Scaling, scaling
from training.dataset import FAR, Dataset, joined
from training.metrics import best_f1_threshold
from training.models.network import Network
from training.models.registry import Builder
from training.prepare import standard
from training.windows import Batch, Windows, batches, cut


class Plan(NamedTuple):
    """How long and how hard to train."""

    epochs: int = 12
    """At most: training stops after `patience` epochs without a better validation loss."""
    patience: int = 4
    batch: int = 64
    """Windows."""
    learning_rate: float = 3e-3
    """Of the first epoch; it falls along a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017)."""
    weight_decay: float = 0.02
    dropout: float = 0.3
    seed: int = 1


class Epoch(NamedTuple):
    """What one pass over the training users came to."""

    number: int
    loss: float
    """Mean log loss of the judged steps, for the horizon asked for."""
    valid_loss: float


class Fitted(NamedTuple):
    """The network, fitted to training and validation users, its scores scaled."""

    network: Network
    history: list[Epoch]
    """Of the fit that the validation users were kept out of."""
    best: Epoch
    scaling: Scaling
    """Folded into the head."""
    threshold: float
    """From which saying yes has the highest F1 on the validation users; NaN where there is no purchase among them."""


Weights = list[NDArray[np.float32]]

_AS_GOOD = 1.02
"""Of two epochs whose validation losses differ by less than 2 %, the later is taken: validation users are few, their
loss is noisy, and late epochs, with their low learning rates, do better on others than it can tell."""


def fit(
    build: Builder, train: Dataset, valid: Dataset, plan: Plan, on_epoch: Callable[[Epoch], None] = lambda _: None
) -> Fitted:
    """Fit by AdamW on the log loss of all horizons.

    1. On the training users, to find the best epoch by the log loss on the validation users, and Platt's scaling there.
    2. Anew on both, for as many epochs: a tenth more users is worth more than a validation that has served its purpose.

    Args:
        build: makes the network.
        train: users to learn from.
        valid: other users, to know when to stop.
        plan: how long and how hard.
        on_epoch: told after each epoch of the first fit.
    """
    tf.config.experimental.enable_op_determinism()
    # 1.
    first = _Fit(build, train, plan)
    valid_windows = cut(valid.starts, np.random.default_rng(plan.seed))
    history: list[Epoch] = []
    best, weights = Epoch(0, np.inf, np.inf), first.weights()
    for number in range(1, plan.epochs + 1):
        epoch = Epoch(number, first.epoch(number), first.loss(valid, valid_windows))
        history.append(epoch)
        on_epoch(epoch)
        if epoch.valid_loss <= _AS_GOOD * min(one.valid_loss for one in history):
            best, weights = epoch, first.weights()
        elif number - best.number >= plan.patience:
            break
    first.network.trained.set_weights(weights)
    scaled, threshold = Scaling(1.0, 0.0), float("nan")
    if valid.known.any():
        logit, label = _judged_logits(first.network, valid, valid_windows)
        scaled = scaling(logit, label, len(valid.user))
        if label.any():
            threshold = _threshold(label, logit, scaled)
    # 2.
    both = _Fit(build, joined(train, valid), plan)
    for number in range(1, best.number + 1):
        both.epoch(number)
    both.network.sequence.get_layer("head").rescale(scaled.slope, scaled.shift)
    return Fitted(both.network, history, best, scaled, threshold)


class _Fit:
    """One network on its way; the same seed takes the same way."""

    def __init__(self, build: Builder, train: Dataset, plan: Plan) -> None:
        keras.utils.set_random_seed(plan.seed)
        self._train, self._plan = train, plan
        self._rng = np.random.default_rng(plan.seed)
        self.network = build(standard(dequantise(train.steps)), 1, plan.dropout)
        self._model = model = self.network.trained
        _begin_at_the_base_rates(model, train)
        self._optimiser = optimiser = keras.optimizers.AdamW(
            plan.learning_rate, weight_decay=plan.weight_decay, clipnorm=1.0
        )
        n_answers = 1 + len(FAR)
        shapes = (
            tf.TensorSpec((None, None, train.steps.shape[1]), tf.float32),
            tf.TensorSpec((None, None, n_answers), tf.float32),
            tf.TensorSpec((None, None, n_answers), tf.float32),
        )

        def losses(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor, *, training: bool) -> tf.Tensor:
            """Sum of the log losses of each answer, [1 + len(FAR)]."""
            each = keras.losses.binary_crossentropy(label[..., None], model(x, training=training)[..., None])
            return tf.reduce_sum(weight * each, axis=(0, 1))

        @tf.function(input_signature=shapes)
        def learn(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = losses(x, label, weight, training=True)
                mean = tf.reduce_sum(loss) / tf.maximum(tf.reduce_sum(weight[..., 0]), 1.0)
            optimiser.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)
            return loss[0]

        @tf.function(input_signature=shapes)
        def judge(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return losses(x, label, weight, training=False)[0]

        self._learn, self._judge = learn, judge

    def weights(self) -> Weights:
        weights: Weights = self._model.get_weights()
        return weights

    def epoch(self, number: int) -> float:
        """One pass over the training users; the mean log loss of the horizon asked for."""
        done = (number - 1) / self._plan.epochs
        self._optimiser.learning_rate.assign(self._plan.learning_rate * (0.02 + 0.98 * (1 + np.cos(np.pi * done)) / 2))
        windows = cut(self._train.starts, self._rng)
        return _mean(self._learn, batches(self._train, windows, self._rng, self._plan.batch))

    def loss(self, dataset: Dataset, windows: Windows) -> float:
        """The mean log loss on others."""
        return _mean(self._judge, batches(dataset, windows, np.random.default_rng(0), 4 * self._plan.batch))


def _mean(of: Callable[..., tf.Tensor], parts: Iterator[Batch]) -> float:
    total, n = 0.0, 0.0
    for part in parts:
        total += float(of(*part))
        n += float(part.weight[..., 0].sum())
    return total / max(n, 1.0)


def _begin_at_the_base_rates(model: keras.Model, train: Dataset) -> None:
    rates = [train.label[train.known].mean()]
    rates += [
        label[known].mean() if known.any() else 0.5
        for label, known in zip(train.far_label.T, train.far_known.T, strict=True)
    ]
    odds = np.clip(rates, 1e-4, 1 - 1e-4)
    bias = np.log(odds / (1 - odds))
    model.get_layer("head").begin_at(float(bias[0]))
    model.get_layer("far").bias.assign(bias[1:])


def _threshold(label: NDArray[np.bool_], logit: NDArray[np.float64], scaled: Scaling) -> float:
    return best_f1_threshold(label, 1 / (1 + np.exp(-(scaled.slope * logit + scaled.shift))))


def _judged_logits(network: Network, valid: Dataset, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the network says of every decision point, before the sigmoid, and what came of it."""
    scores, labels = [], []
    for part in batches(valid, windows, np.random.default_rng(0), 256):
        judged = part.weight[..., 0] > 0
        scores.append(network.sequence(part.x, training=False).numpy()[..., 0][judged].astype(np.float64))
        labels.append(part.label[..., 0][judged] > 0)
    score = np.clip(np.concatenate(scores), 1e-7, 1 - 1e-7)
    return np.log(score / (1 - score)), np.concatenate(labels)
