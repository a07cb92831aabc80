"""A plain recurrent network of 50 units (Elman, "Finding structure in time", Cognitive Science 14, 1990)."""

import keras

from training.models.network import Cell, Network, recurrent
from training.prepare import Standard

N_UNITS = 50


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.recurrent`."""
    layer = keras.layers.SimpleRNN(N_UNITS, return_sequences=True, name="rnn")
    # Its cell, called once: a sequence of one would be exported as a loop, which ONNX's checker refuses.
    return recurrent("rnn", Cell(layer, layer.cell, (("h", N_UNITS),)), standard, n_arms, dropout)
