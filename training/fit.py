"""Fit a network to the training users; stop where it gets worse on the validation users; then use both."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.scoring.artefact import DEPTH, PURCHASE
from training.calibrate import Scaling, scaling
from training.dataset import FAR, Dataset, joined
from training.memory import WITH_MEMORY, begin_with_memory
from training.metrics import best_f1_threshold
from training.models.network import Network
from training.models.registry import Builder
from training.prepare import Standard, standard
from training.share import ALONE, Share
from training.windows import Batch, Windows, batches, cut
from training.workers import agreed, lost_told, over_workers, strategy_of


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


_NORM_MAX = 1.0
"""Of the gradient of each weight."""
_GENTLY = 1 / 6
"""Of the learning rate."""
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
    share: Share = ALONE,
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
        share: of every batch, that this worker takes; all come to the same weights.

    Raises:
        TrainingError: another worker was lost.
    """
    tf.config.experimental.enable_op_determinism()
    with lost_told(share):
        strategy = strategy_of(share)
        return _fit(build, train, valid, plan, on_epoch, start, _On(strategy, share))


class _On(NamedTuple):
    """By whom is computed."""

    strategy: Any
    share: Share


def _fit(
    build: Builder,
    train: Dataset,
    valid: Dataset,
    plan: Plan,
    on_epoch: Callable[[Epoch], None],
    start: Start | None,
    on: _On,
) -> Fitted:
    # 1.
    first = _Fit(build, train, plan, start, on)
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
    found = first.plain(weights)
    scaled, threshold = Scaling(1.0, 0.0), float("nan")
    if found.answers == PURCHASE and (valid.known & (valid.shown > 0).any(axis=1)).any():
        logit, label = _judged_logits(found, valid, valid_windows)
        scaled = scaling(logit, label, len(valid.user))
        if label.any():
            threshold = _threshold(label, logit, scaled)
    # 2.
    both = _Fit(build, joined(train, valid), plan, start, on)
    for number in range(1, best.number + 1):
        both.epoch(number)
    network = both.plain(both.weights())
    if scaled != Scaling(1.0, 0.0):
        network.sequence.get_layer("head").rescale(scaled.slope, scaled.shift)
    return Fitted(network, history, best, scaled, threshold, Start(first.standard, weights))


class _Fit:
    """One network on its way; the same seed takes the same way."""

    def __init__(self, build: Builder, train: Dataset, plan: Plan, start: Start | None, on: _On) -> None:
        keras.utils.set_random_seed(plan.seed)
        self._build, self._train, self._plan, self._share = build, train, plan, on.share
        self._rng = np.random.default_rng(plan.seed)
        n_arms = train.shown.shape[1]
        self.standard = standard(dequantise(train.steps)) if start is None else start.standard
        with on.strategy.scope():
            self.network = network = build(self.standard, n_arms, plan.dropout)
            self._model = model = network.trained
            self._optimiser = optimiser = keras.optimizers.AdamW(plan.learning_rate, weight_decay=plan.weight_decay)
        # What begins at a memory is trained gently, or the memory is gone before the network has a better one.
        self._rate = plan.learning_rate * (_GENTLY if network.architecture == WITH_MEMORY else 1.0)
        if start is None:
            _begin_at_the_base_rates(network, train)
            if network.architecture == WITH_MEMORY:
                begin_with_memory(network, train, plan.seed)
        else:
            model.set_weights(start.weights)
        model.set_weights(agreed(model.get_weights(), on.strategy, on.share))
        n_answers = n_arms + len(FAR)
        shapes = (
            tf.TensorSpec((None, None, train.steps.shape[1]), tf.float32),
            tf.TensorSpec((None, None, n_answers), tf.float32),
            tf.TensorSpec((None, None, n_answers), tf.float32),
        )

        def losses(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor, *, training: bool) -> tuple[Any, Any, Any]:
            """(sum of what is asked for, its weight, this worker's part of the mean of all answers).

            Log losses; of a depth the squared error. The means are over what all workers judge.
            """
            said = model(x, training=training)
            each = keras.losses.binary_crossentropy(label[..., None], said[..., None])
            if network.answers == DEPTH:
                each = tf.concat([tf.square(label - said)[..., :1], each[..., 1:]], axis=-1)
            each = tf.reduce_sum(weight * each, axis=(0, 1))
            asked, far = tf.reduce_sum(each[:n_arms]), tf.reduce_sum(each[n_arms:])
            weight_asked = over_workers(tf.reduce_sum(weight[..., :n_arms]))
            judged = tf.cast(tf.reduce_any(weight > 0, axis=-1), tf.float32)
            mean = asked / tf.maximum(weight_asked, 1.0)
            if network.answers != DEPTH:
                mean += far / tf.maximum(over_workers(tf.reduce_sum(judged)), 1.0)
            return over_workers(asked), weight_asked, mean

        def learn(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                asked, weight_asked, mean = losses(x, label, weight, training=True)
            variables = model.trainable_variables
            # Clipped here, as the optimiser would clip each worker's share by itself. It sums up what workers give it,
            # now the same on all of them, so each gives an equal part.
            gradients = [
                tf.clip_by_norm(over_workers(one), _NORM_MAX) / on.share.of for one in tape.gradient(mean, variables)
            ]
            optimiser.apply(gradients, variables)
            return asked, weight_asked

        def judge(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tuple[Any, Any]:
            return losses(x, label, weight, training=False)[:2]

        self._learn = tf.function(lambda *part: on.strategy.run(learn, part), input_signature=shapes)
        self._judge = tf.function(lambda *part: on.strategy.run(judge, part), input_signature=shapes)

    def plain(self, weights: Weights) -> Network:
        """The network with these weights, of this process alone: to be asked, and to be exported."""
        network = self._build(self.standard, self._train.shown.shape[1], self._plan.dropout)
        network.trained.set_weights(weights)
        return network

    def weights(self) -> Weights:
        weights: Weights = self._model.get_weights()
        return weights

    def epoch(self, number: int) -> float:
        """One pass over the training users; the mean log loss of the horizon asked for."""
        done = (number - 1) / self._plan.epochs
        self._optimiser.learning_rate.assign(self._rate * (0.02 + 0.98 * (1 + np.cos(np.pi * done)) / 2))
        windows = cut(self._train.starts, self._rng)
        parts = batches(self._train, windows, self._rng, self._plan.batch, self.network.answers, self._share)
        return _mean(self._learn, parts)

    def loss(self, dataset: Dataset, windows: Windows) -> float:
        """The mean log loss on others."""
        rng = np.random.default_rng(0)
        parts = batches(dataset, windows, rng, 4 * self._plan.batch, self.network.answers, self._share)
        return _mean(self._judge, parts)


def _mean(of: Callable[..., Any], parts: Iterator[Batch]) -> float:
    total, n = 0.0, 0.0
    for part in parts:
        asked, weight = of(*part)
        total += float(asked)
        n += float(weight)
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
