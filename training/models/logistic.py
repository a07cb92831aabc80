"""Logistic regression on the newest step and the mean of the last ones."""

import keras
import tensorflow as tf

from stream.core.row import N_STEPS
from training.models.head import Head
from training.models.network import Network, windowed
from training.prepare import Standard


class Mean(keras.layers.Layer):
    """See `training.models.network.Body`."""

    def call(self, z: tf.Tensor, there: tf.Tensor, *, last: bool) -> tf.Tensor:
        """The layer itself."""
        both = tf.concat([z * there, there], axis=-1)
        # An average over zeros too, divided by the share of what is there: a sum over a whole window has bits that
        # depend on the batch size.
        mean = tf.nn.avg_pool1d(both if last else tf.pad(both, ((0, 0), (N_STEPS - 1, 0), (0, 0))), N_STEPS, 1, "VALID")
        return mean[..., :-1] / mean[..., -1:]


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.windowed`."""
    return windowed("logistic", Mean(), standard, Head(n_arms), dropout)
