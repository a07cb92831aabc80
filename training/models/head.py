"""The last layer of every network: a score for every arm, never lower for a deeper one; or a depth."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stream.scoring.artefact import DEPTH, PURCHASE

GAIN_BEGIN_MIN = 0.1
"""Least gain of an arm, in logits, that training begins with; below it there is little to learn by."""


class Head(keras.layers.Layer):
    """P(purchase | arm): float32 [..., D] to [..., A].

    Arms are in order of depth, "none" first. The logit of each is that of the one before plus something that is never
    negative: a deeper discount never makes a purchase less likely, whatever was learnt (cumulative link, as in ordinal
    regression: McCullagh, JRSS B 42, 1980). That something is the squareplus (x + sqrt(x^2 + 4)) / 2 (Barron,
    arXiv:2112.11687, 2021), close to a softplus; the runtime's softplus gives other bits to the last rows of a batch.
    With one arm this is a dense layer with a sigmoid.
    """

    answers: ClassVar[str] = PURCHASE

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

    def begin_at(self, rates: Sequence[float]) -> None:
        """Let it say this of each arm where it sees nothing; one that did less than the one before begins close to it.

        So training, which may see few decisions, need not begin by finding the means.
        """
        logits = np.log(np.array(rates) / (1 - np.array(rates)))
        self._first.bias.assign(logits[:1])
        if self._more is not None:
            gains = np.maximum(np.diff(np.maximum.accumulate(logits)), GAIN_BEGIN_MIN)
            self._more.bias.assign(gains - 1 / gains)  # what the squareplus makes these gains of

    def begin_with(self, weights: NDArray[np.float64], bias: float) -> None:
        """Let the answer for "none" begin as this linear one, weights [D]."""
        self._first.set_weights([weights[:, None], np.array([bias])])

    def rescale(self, slope: float, shift: float) -> None:
        """Every logit times `slope` plus `shift`; the slope is above 0, so arms keep their order."""
        kernel, bias = self._first.get_weights()
        self._first.set_weights([kernel * slope, bias * slope + shift])
        if self._more is not None:
            self._slope.assign(self._slope * slope)


class Depth(keras.layers.Layer):
    """The depth at which a user buys: linear, cut to [0, 1] where it is served; float32 [..., D] to [..., 1]."""

    answers: ClassVar[str] = DEPTH

    def __init__(self) -> None:
        super().__init__(name="head")
        self._dense = keras.layers.Dense(1, kernel_initializer="zeros")

    def call(self, seen: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The layer itself."""
        depth = self._dense(seen)
        return depth if training else tf.clip_by_value(depth, 0.0, 1.0)

    def begin_at(self, rates: Sequence[float]) -> None:
        """Let it say this one where it sees nothing."""
        self._dense.bias.assign(rates)
