"""One block of causal self-attention over the last steps (Vaswani et al., "Attention is all you need", NeurIPS 2017).

How long ago a step was, counted in steps, is a learnt bias of each head (Raffel et al., JMLR 21, 2020). One block: a
second one would look back twice as far as a row's ring holds.
"""

import keras
import numpy as np
import tensorflow as tf

from stream.core.row import N_STEPS
from training.models.head import Head
from training.models.network import Network, windowed
from training.prepare import Standard

N_HEADS = 4
N_WIDTH = 48
_NEVER = -1e9


class Attention(keras.layers.Layer):
    """See `training.models.network.Body`."""

    def __init__(self) -> None:
        super().__init__(name="attention")
        dense, norm = keras.layers.Dense, keras.layers.LayerNormalization
        self._enter = dense(N_WIDTH)
        self._norm, self._norm_after = norm(), norm()
        self._query, self._key, self._value, self._out = (dense(N_WIDTH, use_bias=False) for _ in range(4))
        self._wide, self._narrow = dense(2 * N_WIDTH, activation="relu"), dense(N_WIDTH)

    def build(self, _: tuple[int | None, ...]) -> None:
        """Make the one weight that is no sub-layer's."""
        self._age = self.add_weight(shape=(N_STEPS, N_HEADS), initializer="zeros", name="age")

    def call(self, z: tf.Tensor, there: tf.Tensor, *, last: bool) -> tf.Tensor:
        """The layer itself."""
        entered = self._enter(z)
        normed = self._norm(entered)
        asking = normed[:, -1:] if last else normed
        at = tf.range(tf.shape(z)[1])
        age = (at[-1:] if last else at)[:, None] - at  # [Q, K]
        seen = tf.cast((age >= 0) & (age < N_STEPS), tf.float32) * there[:, None, :, 0]  # [B, Q, K]
        hidden = _NEVER * (1 - seen)
        heads = []
        # One head after the other: tf2onnx loses a dimension of what is reshaped to all heads at once.
        parts = (
            tf.split(layer, N_HEADS, axis=-1) for layer in (self._query(asking), self._key(normed), self._value(normed))
        )
        for number, (query, key, value) in enumerate(zip(*parts, strict=True)):
            bias = tf.gather(self._age[:, number], tf.clip_by_value(age, 0, N_STEPS - 1))
            fits = tf.matmul(query, key, transpose_b=True) / np.float32(np.sqrt(N_WIDTH / N_HEADS)) + bias + hidden
            heads.append(tf.matmul(tf.nn.softmax(fits), value))
        mixed = tf.concat(heads, axis=-1)
        found = (entered[:, -1:] if last else entered) + self._out(mixed)
        return found + self._narrow(self._wide(self._norm_after(found)))


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.windowed`."""
    return windowed("transformer", Attention(), standard, Head(n_arms), dropout)
