"""A whole log of events in columns: what the data set is made of, wherever it came from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.events import EVENT


class EventLog(NamedTuple):
    """Events in the order in which they apply, and whose they are."""

    users: list[bytes]
    """[U], each user id once."""
    row: NDArray[np.int64]
    """[N], each event's place in `users`."""
    events: Events
    """EVENT [N]."""


class Counts(NamedTuple):
    """What became of the records that were read; read = events + dead + broken + left_out."""

    events: int
    dead: int
    """Refused as a worker refuses them."""
    broken: int
    """Lines of a recorded log that cannot be read."""
    left_out: int
    """Lines that the format leaves out on purpose."""
    first_problem: str
    """The first refused record or line, in words; "" where there is none."""


def total_of(parts: Sequence[Counts]) -> Counts:
    """The counts of what was read in parts, as if it had been read part after part."""
    return Counts(
        sum(part.events for part in parts),
        sum(part.dead for part in parts),
        sum(part.broken for part in parts),
        sum(part.left_out for part in parts),
        next((part.first_problem for part in parts if part.first_problem), ""),
    )


def event_log(parts: Iterable[tuple[Sequence[bytes], Events]]) -> EventLog:
    """Join batches of (user of each event, events), in their order."""
    place: dict[bytes, int] = {}
    rows, events = [], []
    for users, batch in parts:
        rows.append(np.fromiter((place.setdefault(user, len(place)) for user in users), np.int64, len(users)))
        events.append(batch)
    if not events:
        return EventLog([], np.empty(0, np.int64), np.empty(0, EVENT))
    return EventLog(list(place), np.concatenate(rows), np.concatenate(events))
