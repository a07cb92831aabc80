"""What a builder of a network hands over, and the parts that builders share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from stream.core.row import N_FEATURES, N_STEPS
from stream.scoring.artefact import KIND_RECURRENT, KIND_WINDOW, PURCHASE
from stream.scoring.session import State
from training.dataset import FAR
from training.models.head import Head
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
    """What is exported. Recurrent: (x [B, F], *state) to (score [B, A], *state), one step. Window: (x [B, T, F], held
    [B, 1]) to (score [B, A],), of which the last `held` steps are there."""
    state: State
    """Names and widths of the state, in the order in which `served` takes and gives it; empty: of the window kind."""
    answers: str = PURCHASE
    """What the score is, as in the metadata."""

    @property
    def kind(self) -> str:
        """As in the metadata."""
        return KIND_RECURRENT if self.state else KIND_WINDOW


class Cell(NamedTuple):
    """A recurrent layer and how one step of it is taken."""

    layer: Any
    """keras.layers.RNN-like: z [B, T, P] to outputs [B, T, U]."""
    step: Callable[..., Any]
    """(z [B, P], [state before]) to (output [B, U], [state after])."""
    state: State


def recurrent(architecture: str, cell: Cell, standard: Standard, n_arms: int, dropout: float) -> Network:
    """A cell between the prepared step and the head, which sees the prepared step as well.

    What the newest event says for itself (a cart, the time since the last order) then needs no way through the state,
    and the cell learns what only the past can tell.

    Args:
        architecture: its name.
        cell: the recurrent layer.
        standard: of the training steps.
        n_arms: columns of the score.
        dropout: share of the cell's inputs and of the head's that training leaves out.
    """
    parts = _Parts(standard, Head(n_arms), dropout)
    sequence, trained = parts.models(architecture, cell.layer)

    def served(x: Any, *state: Any) -> tuple[Any, ...]:  # noqa: ANN401  tensors
        z = parts.prepared(x)
        output, after = cell.step(z, list(state))
        return parts.head(parts.join([output, z])), *after

    return Network(architecture, sequence, trained, served, cell.state)


Body = Callable[..., Any]
"""A layer, (z [B, T, P], there [B, T, 1], last) to [B, T, D], or [B, 1, D] of the newest steps alone where `last`.

Looks back, never ahead, at N_STEPS steps at most, the newest included, and not at those whose `there` is 0.
"""


def windowed(architecture: str, body: Body, standard: Standard, head: Any, dropout: float) -> Network:  # noqa: ANN401
    """A body between the last prepared steps and the head, which sees the newest prepared step as well.

    Over a whole history the body looks back at every step as it does at the end of a window, so training costs no more
    than the history is long. That both are the same is what the parity gate finds.

    Args:
        architecture: its name.
        body: see `Body`.
        standard: of the training steps.
        head: a layer like `training.models.head.Head`, which says what is asked.
        dropout: share of the body's inputs and of the head's that training leaves out.
    """
    parts = _Parts(standard, head, dropout)
    sequence, trained = parts.models(architecture, lambda z: body(z, keras.ops.ones_like(z[..., :1]), last=False))

    def served(x: Any, held: Any) -> tuple[Any, ...]:  # noqa: ANN401  tensors
        there = tf.cast(tf.range(N_STEPS, dtype=tf.float32) >= N_STEPS - held, tf.float32)[..., None]
        z = parts.prepared(x)
        return (parts.head(parts.join([body(z, there, last=True)[:, 0], z[:, -1]])),)

    return Network(architecture, sequence, trained, served, (), head.answers)


class _Parts:
    """What every network has before and after its own layer."""

    def __init__(self, standard: Standard, head: Any, dropout: float) -> None:  # noqa: ANN401  a layer
        self.prepared = Prepared(standard)
        self.join = keras.layers.Concatenate()
        self.head = head
        self._drop_in, self._drop_out = keras.layers.Dropout(dropout), keras.layers.Dropout(dropout)
        self._far = keras.layers.Dense(len(FAR), activation="sigmoid", name="far")

    def models(self, architecture: str, layer: Callable[[Any], Any]) -> tuple[Any, Any]:
        """(sequence, trained) of `Network`."""
        x = keras.Input((None, N_FEATURES), name="x")
        z = self.prepared(x)
        sequence = keras.Model(x, self.head(self.join([layer(z), z])), name=architecture)
        seen = self._drop_out(self.join([layer(self._drop_in(z)), z]))
        trained = keras.Model(x, self.join([self.head(seen), self._far(seen)]), name=f"{architecture}_trained")
        return sequence, trained
