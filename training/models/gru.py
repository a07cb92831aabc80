"""GRU(50) (Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014)."""

import keras

from training.models.network import Cell, Network, recurrent
from training.prepare import Standard

N_UNITS = 50


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.recurrent`."""
    layer = keras.layers.GRU(N_UNITS, return_sequences=True, name="gru")
    # Its cell, called once: a sequence of one would be exported as a loop, which ONNX's checker refuses.
    return recurrent("gru", Cell(layer, layer.cell, (("h", N_UNITS),)), standard, n_arms, dropout)
