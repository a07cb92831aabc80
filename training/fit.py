"""Fit a network to the training users; stop where it gets worse on the validation users."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stream.core.features import dequantise
from training.calibrate import Scaling, scaling
from training.dataset import Dataset
from training.models.recurrent import Recurrent
from training.models.registry import Builder
from training.prepare import standard
from training.windows import Batch, Windows, batches, cut


class Plan(NamedTuple):
    """How long and how hard to train."""

    epochs: int = 40
    """At most: training stops after `patience` epochs without a better validation loss."""
    patience: int = 5
    batch: int = 64
    """Windows."""
    learning_rate: float = 3e-3
    dropout: float = 0.3
    seed: int = 1


class Epoch(NamedTuple):
    """What one pass over the training users came to."""

    number: int
    loss: float
    """Mean log loss of the judged steps."""
    valid_loss: float


class Fitted(NamedTuple):
    """The network with the weights of its best epoch, its scores scaled."""

    network: Recurrent
    history: list[Epoch]
    best: Epoch
    scaling: Scaling
    """Folded into the head."""


def fit(
    build: Builder, train: Dataset, valid: Dataset, plan: Plan, on_epoch: Callable[[Epoch], None] = lambda _: None
) -> Fitted:
    """Fit by Adam on the log loss, then scale the scores to be probabilities for the validation users.

    Args:
        build: makes the network.
        train: users to learn from.
        valid: other users, to know when to stop.
        plan: how long and how hard.
        on_epoch: told after each.
    """
    keras.utils.set_random_seed(plan.seed)
    tf.config.experimental.enable_op_determinism()
    network = build(standard(dequantise(train.steps)), 1, plan.dropout)
    model = network.sequence
    buys = float(train.label[train.known].mean())
    model.get_layer("head").bias.assign([np.log(buys / (1 - buys))])  # begin at the base rate
    optimiser = keras.optimizers.Adam(plan.learning_rate, clipnorm=1.0)
    shapes = (
        tf.TensorSpec((None, None, train.steps.shape[1]), tf.float32),
        tf.TensorSpec((None, None, 1), tf.float32),
        tf.TensorSpec((None, None), tf.float32),
    )

    def losses(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor, *, training: bool) -> tf.Tensor:
        return weight * keras.losses.binary_crossentropy(label, model(x, training=training))

    @tf.function(input_signature=shapes)
    def learn(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses(x, label, weight, training=True))
            mean = loss / tf.maximum(tf.reduce_sum(weight), 1.0)
        optimiser.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)
        return loss

    @tf.function(input_signature=shapes)
    def judge(x: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(losses(x, label, weight, training=False))

    def mean_loss(of: Callable[..., tf.Tensor], parts: Iterator[Batch]) -> float:
        total, n = 0.0, 0.0
        for part in parts:
            total += float(of(*part))
            n += float(part.weight.sum())
        return total / max(n, 1.0)

    rng = np.random.default_rng(plan.seed)
    valid_windows = cut(valid.starts, np.random.default_rng(plan.seed))
    history: list[Epoch] = []
    best, weights = Epoch(0, np.inf, np.inf), model.get_weights()
    for number in range(1, plan.epochs + 1):
        loss = mean_loss(learn, batches(train, cut(train.starts, rng), rng, plan.batch))
        valid_loss = mean_loss(judge, batches(valid, valid_windows, rng, 4 * plan.batch))
        epoch = Epoch(number, loss, valid_loss)
        history.append(epoch)
        on_epoch(epoch)
        if epoch.valid_loss < best.valid_loss:
            best, weights = epoch, model.get_weights()
        elif number - best.number >= plan.patience:
            break
    model.set_weights(weights)
    scaled = Scaling(1.0, 0.0)
    if valid.known.any():
        scaled = scaling(*_judged_logits(model, valid, valid_windows))
        kernel, bias = model.get_layer("head").get_weights()
        model.get_layer("head").set_weights([kernel * scaled.slope, bias * scaled.slope + scaled.shift])
    return Fitted(network, history, best, scaled)


def _judged_logits(
    model: keras.Model, valid: Dataset, windows: Windows
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the network says of every decision point, before the sigmoid, and what came of it."""
    scores, labels = [], []
    for part in batches(valid, windows, np.random.default_rng(0), 256):
        judged = part.weight > 0
        scores.append(model(part.x, training=False).numpy()[..., 0][judged].astype(np.float64))
        labels.append(part.label[..., 0][judged] > 0)
    score = np.clip(np.concatenate(scores), 1e-7, 1 - 1e-7)
    return np.log(score / (1 - score)), np.concatenate(labels)
