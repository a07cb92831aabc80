"""LSTM(50) and a dense head (Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997)."""

import keras
import tensorflow as tf

from stream.core.row import N_FEATURES
from training.models.prepared import Prepared
from training.models.recurrent import Recurrent
from training.prepare import Standard

N_UNITS = 50


def build(standard: Standard, n_arms: int, dropout: float) -> Recurrent:
    """The network for whole sequences and for one step, sharing their weights.

    Args:
        standard: of the training steps.
        n_arms: columns of the score.
        dropout: share of inputs and outputs of the LSTM that training leaves out.
    """
    prepared = Prepared(standard)
    lstm = keras.layers.LSTM(N_UNITS, return_sequences=True, return_state=True, name="lstm")
    drop = keras.layers.Dropout(dropout, name="dropout")
    head = keras.layers.Dense(n_arms, activation="sigmoid", name="head")

    x = keras.Input((None, N_FEATURES), name="x")
    output, _, _ = lstm(drop(prepared(x)))
    sequence = keras.Model(x, head(drop(output)), name="lstm")

    def step(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        _, h_out, c_out = lstm(prepared(x)[:, None, :], initial_state=[h, c])
        return head(h_out), h_out, c_out

    return Recurrent("lstm", sequence, step, (("h", N_UNITS), ("c", N_UNITS)))
