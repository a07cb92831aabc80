"""Fit a network to the training users; stop where it gets worse on the validation users; then use both."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.scoring.artefact import DEPTH, PURCHASE
from training.calibrate import Scaling, scaling
from training.dataset import FAR, Dataset, joined
from training.metrics import best_f1_threshold
from training.models.network import Network
from training.models.registry import Builder
from training.prepare import Standard, standard
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
    start: "Start"
    """From where a later fit may start: of the first fit, which has not seen the validation users."""


Weights = list[NDArray[np.float32]]


class Start(NamedTuple):
    """Weights to start from instead of drawn ones, and the standardisation that they were trained under."""

    standard: Standard
    weights: Weights


_AS_GOOD = 1.02
"""Of two epochs whose validation losses differ by less than 2 %, the later is taken: validation users are few, their
loss is noisy, and late epochs, with their low learning rates, do better on others than it can tell."""


def fit(
    build: Builder,
    train: Dataset,
    valid: Dataset,
    plan: Plan,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    start: Start | None = None,
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
        start: from where both fits start; None: from drawn weights.
    """
    tf.config.experimental.enable_op_determinism()
    # 1.
    first = _Fit(build, train, plan, start)
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
    if first.network.answers == PURCHASE and (valid.known & (valid.shown > 0).any(axis=1)).any():
        logit, label = _judged_logits(first.network, valid, valid_windows)
        scaled = scaling(logit, label, len(valid.user))
        if label.any():
            threshold = _threshold(label, logit, scaled)
    # 2.
    both = _Fit(build, joined(train, valid), plan, start)
    for number in range(1, best.number + 1):
        both.epoch(number)
    if scaled != Scaling(1.0, 0.0):
        both.network.sequence.get_layer("head").rescale(scaled.slope, scaled.shift)
    return Fitted(both.network, history, best, scaled, threshold, Start(first.standard, weights))


class _Fit:
    """One network on its way; the same seed takes the same way."""

    def __init__(self, build: Builder, train: Dataset, plan: Plan, start: Start | None) -> None:
        keras.utils.set_random_seed(plan.seed)
        self._train, self._plan = train, plan
        self._rng = np.random.default_rng(plan.seed)
        n_arms = train.shown.shape[1]
        self.standard = standard(dequantise(train.steps)) if start is None else start.standard
        self.network = network = build(self.standard, n_arms, plan.dropout)
        self._model = model = self.network.trained
        if start is None:
            _begin_at_the_base_rates(network, train)
        else:
            model.set_weights(start.weights)
        self._optimiser = optimiser = keras.optimizers.AdamW(
            plan.learning_rate, weight_decay=plan.weight_decay, clipnorm=1.0
        )
        n_answers = n_arms + len(FAR)
        shapes = (
            tf.TensorSpec((None, None, train.steps.shape[1]), tf.float32),
            tf.TensorSpec((None, None, n_answers), tf.float32),
            tf.TensorSpec((None, None, n_answers), tf.float32),
        )

        def losses(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
            """(sum of what is asked for, mean of all answers): log losses; of a depth the squared error."""
            said = model(x, training=training)
            each = keras.losses.binary_crossentropy(label[..., None], said[..., None])
            if network.answers == DEPTH:
                each = tf.concat([tf.square(label - said)[..., :1], each[..., 1:]], axis=-1)
            each = tf.reduce_sum(weight * each, axis=(0, 1))
            asked, far = tf.reduce_sum(each[:n_arms]), tf.reduce_sum(each[n_arms:])
            n_asked = tf.maximum(tf.reduce_sum(weight[..., :n_arms]), 1.0)
            n_steps = tf.maximum(tf.reduce_sum(tf.cast(tf.reduce_any(weight > 0, axis=-1), tf.float32)), 1.0)
            return asked, asked / n_asked + (0.0 if network.answers == DEPTH else far / n_steps)

        @tf.function(input_signature=shapes)
        def learn(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                asked, mean = losses(x, label, weight, training=True)
            optimiser.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)
            return asked

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
        parts = batches(self._train, windows, self._rng, self._plan.batch, self.network.answers)
        return _mean(self._learn, parts, self._train.shown.shape[1])

    def loss(self, dataset: Dataset, windows: Windows) -> float:
        """The mean log loss on others."""
        rng = np.random.default_rng(0)
        parts = batches(dataset, windows, rng, 4 * self._plan.batch, self.network.answers)
        return _mean(self._judge, parts, dataset.shown.shape[1])


def _mean(of: Callable[..., tf.Tensor], parts: Iterator[Batch], n_arms: int) -> float:
    total, n = 0.0, 0.0
    for part in parts:
        total += float(of(*part))
        n += float(part.weight[..., :n_arms].sum())
    return total / max(n, 1.0)


def _begin_at_the_base_rates(network: Network, train: Dataset) -> None:
    asked = [train.label[train.known & (shown > 0)].mean() for shown in train.shown.T]
    if network.answers == DEPTH:
        asked = [np.nanmean(train.depth[train.known])]
    far = [
        label[known].mean() if known.any() else 0.5
        for label, known in zip(train.far_label.T, train.far_known.T, strict=True)
    ]
    odds = np.clip(far, 1e-4, 1 - 1e-4)
    network.sequence.get_layer("head").begin_at(np.clip(asked, 1e-4, 1 - 1e-4).tolist())
    network.trained.get_layer("far").bias.assign(np.log(odds / (1 - odds)))


def _threshold(label: NDArray[np.bool_], logit: NDArray[np.float64], scaled: Scaling) -> float:
    return best_f1_threshold(label, 1 / (1 + np.exp(-(scaled.slope * logit + scaled.shift))))


def _judged_logits(network: Network, valid: Dataset, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the network says of every decision point, before the sigmoid, and what came of it."""
    scores, labels = [], []
    for part in batches(valid, windows, np.random.default_rng(0), 256):
        n_arms = valid.shown.shape[1]
        judged = part.weight[..., :n_arms] > 0
        scores.append(network.sequence(part.x, training=False).numpy()[judged].astype(np.float64))
        labels.append(part.label[..., :n_arms][judged] > 0)
    score = np.clip(np.concatenate(scores), 1e-7, 1 - 1e-7)
    return np.log(score / (1 - score)), np.concatenate(labels)
