"""Counting what event time has to say about a batch: events out of order, and events ahead of their publication."""

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.events import SOURCES
from stream.metrics import Tally


def count_event_time(events: Events, published_ms: NDArray[np.int64], order: NDArray[np.int64], tally: Tally) -> None:
    """Count those of a batch that event time put elsewhere than their offsets had them, and those from the future.

    Args:
        events: EVENT [N].
        published_ms: [N], their records' timestamps.
        order: [n], which of them were applied, in the order of application.
        tally: an event is `reordered` where it was applied after one of its user and source that has a higher offset;
            `ahead` where its time is after its record's timestamp (by an hour at most: more is a dead letter).
    """
    by_user = order[np.argsort(events["user"][order], kind="stable")]
    user, source, offset = (events[name][by_user] for name in ("user", "source", "offset"))
    reordered = (user[1:] == user[:-1]) & (source[1:] == source[:-1]) & (offset[1:] < offset[:-1])
    ahead = events["time_ms"][order] > published_ms[order]
    for what, sources in (("reordered", source[1:][reordered]), ("ahead", events["source"][order][ahead])):
        for i, n in enumerate(np.bincount(sources, minlength=len(SOURCES)).tolist()):
            if n:
                tally.add(tally.metrics.event_time[SOURCES[i], what], n)


def count_late(events: Events, late: NDArray[np.bool_], tally: Tally) -> None:
    """Count the steps that came after a later event of their user: marked late in the row's ring of steps."""
    for i, n in enumerate(np.bincount(events["source"][late], minlength=len(SOURCES)).tolist()):
        if n:
            tally.add(tally.metrics.event_time[SOURCES[i], "late"], n)
