"""The last layer of every network: a score for every arm, never lower for a deeper one."""

from typing import Any

import keras
import tensorflow as tf


class Head(keras.layers.Layer):
    """P(purchase | arm): float32 [..., D] to [..., A].

    Arms are in order of depth, "none" first. The logit of each is that of the one before plus something that is never
    negative: a deeper discount never makes a purchase less likely, whatever was learnt (cumulative link, as in ordinal
    regression: McCullagh, JRSS B 42, 1980). That something is the squareplus (x + sqrt(x^2 + 4)) / 2 (Barron,
    arXiv:2112.11687, 2021), close to a softplus; the runtime's softplus gives other bits to the last rows of a batch.
    With one arm this is a dense layer with a sigmoid.
    """

    def __init__(self, n_arms: int) -> None:
        super().__init__(name="head")
        self._first = keras.layers.Dense(1)
        self._more = keras.layers.Dense(n_arms - 1) if n_arms > 1 else None

    def build(self, shape: Any) -> None:  # noqa: ANN401  keras passes its own shapes
        """Make the weights."""
        self._first.build(shape)
        if self._more is not None:
            self._more.build(shape)
            self._slope = self.add_weight(shape=(), initializer="ones", trainable=False, name="slope")
        self.built = True

    def call(self, seen: tf.Tensor) -> tf.Tensor:
        """The layer itself."""
        logit = self._first(seen)
        scores = [tf.sigmoid(logit)]
        if self._more is not None:
            x = self._more(seen)
            for gain in tf.split(self._slope * (x + tf.sqrt(x * x + 4.0)) / 2.0, self._more.units, axis=-1):
                logit += gain
                # The sigmoids of some machines are not monotone in their last bit.
                scores.append(tf.maximum(scores[-1], tf.sigmoid(logit)))
        return tf.concat(scores, axis=-1)

    def begin_at(self, odds: float) -> None:
        """Let it say these log odds of a purchase without an offer where it sees nothing."""
        self._first.bias.assign([odds])

    def rescale(self, slope: float, shift: float) -> None:
        """Every logit times `slope` plus `shift`; the slope is above 0, so arms keep their order."""
        kernel, bias = self._first.get_weights()
        self._first.set_weights([kernel * slope, bias * slope + shift])
        if self._more is not None:
            self._slope.assign(self._slope * slope)
