"""Four causal convolutions, each looking twice as far back (Bai, Kolter, Koltun, arXiv:1803.01271, 2018)."""

import keras
import tensorflow as tf

from training.models.head import Head
from training.models.network import Network, windowed
from training.prepare import Standard

N_FILTERS = 32
WIDTH = 3
DILATIONS = (1, 2, 4, 8)
"""Reach: 1 + (WIDTH - 1) * 15 = 31 steps, what a row's ring holds."""


class Convolutions(keras.layers.Layer):
    """See `training.models.network.Body`."""

    def __init__(self) -> None:
        super().__init__(name="convolutions")
        self._layers = [
            keras.layers.Conv1D(N_FILTERS, WIDTH, dilation_rate=far, padding="causal", activation="relu")
            for far in DILATIONS
        ]

    def call(self, z: tf.Tensor, there: tf.Tensor, *, last: bool) -> tf.Tensor:
        """The layer itself; what is not there stays zero, as a causal convolution has it before the first step."""
        found = z * there
        for layer in self._layers:
            found = layer(found) * there
        return found[:, -1:] if last else found


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.windowed`."""
    return windowed("cnn", Convolutions(), standard, Head(n_arms), dropout)
