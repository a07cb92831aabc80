"""Fold: a batch of events over an array of rows. The worker and the trainer both walk a batch through here.

for turn in turns(...):              one round: each row at most once
    steps = absorb(turn.events, turn.rows)
    ...                              the worker scores and decides here; the trainer keeps the steps
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events, absorb, is_duplicate, is_step, note, remember
from stream.core.rounds import plan
from stream.core.row import N_FEATURES, Rows, gather, scatter


class Turn(NamedTuple):
    """One round of a batch."""

    at: NDArray[np.int64]
    """[n]: where these events stand in the batch."""
    events: Events
    """EVENT [n]."""
    rows: Rows
    """ROW [n], a view: what is written here is written to the block."""


def turns(events: Events, row: NDArray[np.int64], table: Rows) -> Iterator[Turn]:
    """Walk a batch through rounds; the rows are changed when the last one is done.

    Bookkeeping events are noted first, then the steps go round by round, to be absorbed by the caller.

    Args:
        events: EVENT [N], duplicates dropped, in the order in which they apply.
        row: [N], each event's row in `table`.
        table: ROW [any], changed in place. Where it stands in the order of the rounds (`by_steps`), no row moves.
    """
    remember(events, row, table)
    step = is_step(events)
    if not step.all():
        at = np.flatnonzero(~step)
        planned = plan(row[at])
        block = gather(table, planned.rows)
        for round_, n in planned.rounds():
            note(gather(events, at[planned.order[round_]]), block[:n])
        scatter(table, planned.rows, block)
    at = np.flatnonzero(step)
    planned = plan(row[at])
    order = at[planned.order]
    events = gather(events, order)
    in_place = np.array_equal(planned.rows, np.arange(len(planned.rows)))
    block = table if in_place else gather(table, planned.rows)
    for round_, n in planned.rounds():
        yield Turn(order[round_], events[round_], block[:n])
    if not in_place:
        scatter(table, planned.rows, block)


def fold(
    events: Events, row: NDArray[np.int64], table: Rows, chunk: int = 2_000
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Apply a whole log to rows, in the order given, and keep what a model would have seen.

    Args:
        events: EVENT [N], in the order in which they apply.
        row: [N], each event's row in `table`.
        table: ROW [U], changed in place.
        chunk: events taken at once; it changes the speed, never the result.

    Returns:
        (steps uint8 [N, F], zero where there is none; applied bool [N], False for duplicates).
    """
    steps = np.zeros((len(events), N_FEATURES), np.uint8)
    applied = np.zeros(len(events), bool)
    for start in range(0, len(events), chunk):
        part = slice(start, start + chunk)
        new = ~is_duplicate(events[part], row[part], table)
        applied[part] = new
        at = start + np.flatnonzero(new)
        for turn in turns(gather(events, at), row[at], table):
            steps[at[turn.at]] = absorb(turn.events, turn.rows)
    return steps, applied
