"""What a builder of a recurrent network hands over."""

from collections.abc import Callable
from typing import Any, NamedTuple

from stream.scoring.session import State


class Recurrent(NamedTuple):
    """One network in two shapes that share their weights."""

    architecture: str
    sequence: Any
    """keras.Model: x float32 [B, T, F] to scores float32 [B, T, A], state zero before the first step."""
    step: Callable[..., Any]
    """(x [B, F], *state) to (score [B, A], *state), one step: what is exported."""
    state: State
    """Names and widths of the state, in the order in which `step` takes and gives it."""
