"""Rounds: several events of one user in one batch, in order, without a loop over events.

In round r stands the r-th event of every user who has one. Users are sorted by their number of events, most first, so
the users of round r are always the first ones: a round works on a plain slice of the rows, no gathering, no copy.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


class Runs(NamedTuple):
    """A batch of N events of U users, one user's events side by side."""

    order: Places
    """[N]: the events, row by row; within a row as they came."""
    begins: Places
    """[U]: where each row's run begins in `order`."""
    n_events: Places
    """[U]: how long each run is."""

    def turns(self) -> Places:
        """For each place of `order` the number of events of the same row before it, [N]."""
        return np.arange(len(self.order)) - np.repeat(self.begins, self.n_events)


def runs(row: Places) -> Runs:
    """Put the events of each row side by side.

    Args:
        row: [N], the row of each event, 0 or more.
    """
    n = len(row)
    # Row and place in one number: sorting plain numbers is several times faster than a stable argsort.
    keys = row * n + np.arange(n)
    keys.sort()
    rows, order = np.divmod(keys, n)
    first = np.ones(n, bool)
    first[1:] = rows[1:] != rows[:-1]
    begins = np.flatnonzero(first)
    n_events = np.empty_like(begins)  # np.diff(append=) takes longer than all of the above for a few events
    np.subtract(begins[1:], begins[:-1], out=n_events[:-1])
    n_events[-1:] = n - begins[-1:]
    return Runs(order, begins, n_events)


class Plan(NamedTuple):
    """How a batch of N events of U users is walked through."""

    rows: Places
    """[U]: the caller's row numbers, in the order in which the rows must be laid out."""
    order: Places
    """[N]: the events, round after round; within a round in the order of `rows`."""
    starts: list[int]
    """[R + 1]: where each round begins in `order`."""

    def rounds(self) -> Iterator[tuple[slice, int]]:
        """(the round's place in `order`, its number of rows), round after round."""
        for start, end in zip(self.starts, self.starts[1:], strict=False):
            yield slice(start, end), end - start


def plan(row: Places) -> Plan:
    """Plan the rounds of a batch.

    Args:
        row: [N], the row of each event, events in the order in which they apply to their row.
    """
    run = runs(row)
    most_first = np.argsort(-run.n_events, kind="stable")
    rank = np.empty_like(most_first)
    rank[most_first] = np.arange(len(rank))
    turn = run.turns()
    by_turn = np.argsort(turn * len(rank) + np.repeat(rank, run.n_events))  # no two are equal
    starts = [0, *np.cumsum(np.bincount(turn)).tolist()]
    return Plan(row[run.order[run.begins]][most_first], run.order[by_turn], starts)


def by_steps(key: Places, step: NDArray[np.bool_]) -> tuple[Places, Places]:
    """Number what occurs in `key`, those with the most steps first: laid out like this, rows need not move for `plan`.

    Args:
        key: [N], what the rows of a batch's events are known by.
        step: [N], which events go through rounds.

    Returns:
        (key of each row [U], row of each event [N]).
    """
    found, row = np.unique(key, return_inverse=True)
    most_first = np.argsort(-np.bincount(row[step], minlength=len(found)), kind="stable")
    rank = np.empty_like(most_first)
    rank[most_first] = np.arange(len(rank))
    return found[most_first], rank[row]


def turn_of(row: Places) -> Places:
    """For each event the number of events of the same row before it, [N]: tells where to cut a batch."""
    run = runs(row)
    turn = np.empty_like(run.order)
    turn[run.order] = run.turns()
    return turn


def pieces(row: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Cut a batch where a row would have more than `most` events in a piece; slices of [N], in order."""
    start = 0
    while start < len(row):
        over = np.flatnonzero(turn_of(row[start:]) >= most)
        end = start + int(over[0]) if len(over) else len(row)
        yield slice(start, end)
        start = end
