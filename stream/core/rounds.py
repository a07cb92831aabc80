"""Rounds: several events of one user in one batch, in order, without a loop over events.

In round r stands the r-th event of every user who has one. Users are sorted by their number of events, most first, so the users of
round r are always the first ones: a round works on a plain slice of the rows, no gathering, no copy.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Plan(NamedTuple):
    """How a batch of N events of U users is walked through."""

    rows: NDArray[np.int64]
    """[U]: the caller's row numbers, in the order in which the rows must be laid out."""
    order: NDArray[np.int64]
    """[N]: the events, round after round; within a round in the order of `rows`."""
    row_of: NDArray[np.int64]
    """[N]: for each event as it came, its place in `rows`."""
    starts: list[int]
    """[R + 1]: where each round begins in `order`."""

    def __iter__(self) -> Iterator[tuple[slice, int]]:  # type: ignore[override]
        """(the round's place in `order`, its number of rows), round after round."""
        for start, end in zip(self.starts, self.starts[1:], strict=False):
            yield slice(start, end), end - start


def plan(row: NDArray[np.int64]) -> Plan:
    """Plan the rounds of a batch.

    Args:
        row: [N], the row of each event, events in the order in which they apply to their row.
    """
    rows, place, n_events = np.unique(row, return_inverse=True, return_counts=True)
    most_first = np.argsort(-n_events, kind="stable")
    rank = np.empty(len(rows), np.int64)
    rank[most_first] = np.arange(len(rows))
    row_of = rank[place]
    n_events = n_events[most_first]

    by_row = np.argsort(row_of, kind="stable")
    first = np.repeat(np.cumsum(n_events) - n_events, n_events)
    turn = np.arange(len(row)) - first  # 0 for a row's first event, 1 for its second, ...
    order = by_row[np.argsort(turn, kind="stable")]  # stable: within a round in the order of rows
    starts = [0, *np.cumsum(np.bincount(turn)).tolist()] if len(row) else [0]
    return Plan(rows[most_first], order, row_of, starts)


def turn_of(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each event the number of events of the same row before it, [N]: where a batch must be cut to bound a user's share."""
    by_row = np.argsort(row, kind="stable")
    sorted_row = row[by_row]
    begins = np.flatnonzero(np.r_[True, sorted_row[1:] != sorted_row[:-1]]) if len(row) else np.empty(0, np.int64)
    first = np.repeat(begins, np.diff(np.r_[begins, len(row)]))
    turn = np.empty(len(row), np.int64)
    turn[by_row] = np.arange(len(row)) - first
    return turn
