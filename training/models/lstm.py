"""LSTM(50) and a dense head (Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997)."""

import keras

from training.models.network import Cell, Network, recurrent
from training.prepare import Standard

N_UNITS = 50


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.recurrent`."""
    layer = keras.layers.LSTM(N_UNITS, return_sequences=True, return_state=True, name="lstm")
    return recurrent("lstm", Cell(layer, (("h", N_UNITS), ("c", N_UNITS))), standard, n_arms, dropout)
