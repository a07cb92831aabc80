"""What a builder of a network hands over, and the parts that builders share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from stream.core.row import N_FEATURES
from stream.scoring.session import State
from training.dataset import FAR
from training.models.prepared import Prepared
from training.prepare import Standard


class Network(NamedTuple):
    """One network in three shapes that share their weights."""

    architecture: str
    sequence: Any
    """keras.Model: x float32 [B, T, F], histories from their first step, to scores float32 [B, T, A]."""
    trained: Any
    """keras.Model: the same with dropout, to [B, T, A + len(FAR)], the answers for further horizons last."""
    served: Callable[..., Any]
    """What is exported: (x [B, F], *state) to (score [B, A], *state), one step."""
    state: State
    """Names and widths of the state, in the order in which `served` takes and gives it."""


class Cell(NamedTuple):
    """A recurrent layer and how one step of it is taken."""

    layer: Any
    """keras.layers.RNN-like: returns sequences and states."""
    state: State


def recurrent(architecture: str, cell: Cell, standard: Standard, n_arms: int, dropout: float) -> Network:
    """A cell between the prepared step and a dense head, which sees the prepared step as well.

    What the newest event says for itself (a cart, the time since the last order) then needs no way through the state,
    and the cell learns what only the past can tell.

    Args:
        architecture: its name.
        cell: the recurrent layer.
        standard: of the training steps.
        n_arms: columns of the score.
        dropout: share of the cell's inputs and of the head's that training leaves out.
    """
    prepared = Prepared(standard)
    drop_in, drop_out = keras.layers.Dropout(dropout), keras.layers.Dropout(dropout)
    join = keras.layers.Concatenate()
    head = keras.layers.Dense(n_arms, activation="sigmoid", name="head")
    far = keras.layers.Dense(len(FAR), activation="sigmoid", name="far")

    x = keras.Input((None, N_FEATURES), name="x")
    z = prepared(x)
    sequence = keras.Model(x, head(join([cell.layer(z)[0], z])), name=architecture)
    seen = drop_out(join([cell.layer(drop_in(z))[0], z]))
    trained = keras.Model(x, join([head(seen), far(seen)]), name=f"{architecture}_trained")

    def served(x: Any, *state: Any) -> tuple[Any, ...]:  # noqa: ANN401  tensors
        z = prepared(x)
        output, *after = cell.layer(z[:, None, :], initial_state=list(state))
        return head(join([output[:, 0], z])), *after

    return Network(architecture, sequence, trained, served, cell.state)
