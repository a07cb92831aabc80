"""LSTM(50) (Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997)."""

from typing import Any

import keras

from training.models.network import Cell, Network, recurrent
from training.prepare import Standard

N_UNITS = 50


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.recurrent`."""
    layer = keras.layers.LSTM(N_UNITS, return_sequences=True, return_state=True, name="lstm")

    def step(z: Any, state: list[Any]) -> tuple[Any, list[Any]]:  # noqa: ANN401  tensors
        # The layer and not its cell: a sequence of one becomes ONNX's own LSTM, one kernel of the runtime.
        output, *after = layer(z[:, None, :], initial_state=state)
        return output[:, 0], after

    cell = Cell(lambda z: layer(z)[0], step, (("h", N_UNITS), ("c", N_UNITS)))
    return recurrent("lstm", cell, standard, n_arms, dropout)
