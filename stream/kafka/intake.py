"""Intake: the records of a batch as events, and which of them apply to the rows, in which order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events, apply_order, is_duplicate
from stream.core.decide import draws
from stream.core.events import EVENT, SOURCES
from stream.core.row import Rows, gather
from stream.kafka.cluster import ERASURES
from stream.kafka.decode import Decoded, Others, decode, decode_others
from stream.kafka.event_time import count_event_time
from stream.kafka.identities import JOINING, NO_JOINS, Joins
from stream.kafka.transport import EventBatch
from stream.metrics import Tally
from stream.settings import Settings


class Taken(NamedTuple):
    """A batch of N readable events."""

    users: list[bytes]
    """[N]."""
    events: Events
    """EVENT [N], source after source, each in offset order."""
    published_ms: NDArray[np.int64]
    """[N]: timestamps of their records."""
    next_offset: dict[str, int]
    """By source, once this batch is applied."""
    decoded: dict[str, Decoded]
    """By source, the dead letters with it."""
    joins: Joins
    """Who turned out to be whom, after these events."""
    erased: Others
    """Who is to be forgotten, after all that."""


def passed_over(batch: EventBatch, read: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What lies between the positions `read` and a batch that begins behind them: [from, to) by source."""
    return {s: (read[s], begin) for s, (begin, _) in batch.spans.items() if begin > read[s]}


def take(batch: EventBatch, read: dict[str, int], partition: int, settings: Settings) -> Taken:
    """Read a batch; what lies before the positions `read`, by source, was applied before and is left out."""
    decoded: dict[str, Decoded] = {}
    next_offset = dict(read)
    erased, joins = Others([], [], [], [], 0), NO_JOINS
    for source, records in batch.records.items():
        at = read[source]
        fresh = records if records[0].offset >= at else [r for r in records if r.offset >= at]
        if not fresh:
            continue
        next_offset[source] = batch.spans[source][1]
        if source == ERASURES:
            erased = decode_others(source, fresh, partition, settings.partitions, settings.topic(source))
            continue
        if source in JOINING:
            joins = joins.and_those_of(JOINING[source](fresh, partition, settings))
            continue
        decoded[source] = decode(
            source, fresh, partition, settings.partitions, settings.currency, settings.topic(source)
        )
    return Taken(
        [user for found in decoded.values() for user in found.users],
        _side_by_side([np.empty(0, EVENT), *(found.events for found in decoded.values())]),
        _side_by_side([np.empty(0, np.int64), *(found.published_ms for found in decoded.values())]),
        next_offset,
        decoded,
        joins,
        erased,
    )


def _side_by_side(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Those that hold something as one; mostly that is one of them, and records are copied field by field."""
    filled = [column for column in columns if len(column)]
    return filled[0] if len(filled) == 1 else np.concatenate(columns)


def what_applies(
    events: Events, row: NDArray[np.int64], rows: Rows, published_ms: NDArray[np.int64], tally: Tally
) -> NDArray[np.int64]:
    """The events that neither their row's fence nor its memory of ids leaves out, in the order in which they apply.

    Args:
        events: EVENT [N].
        row: [N], each event's place in `rows`.
        rows: ROW [U], before the batch.
        published_ms: [N].
        tally: what becomes of each event is counted.

    Returns:
        Places in `events`, int64 [n].
    """
    # The row's own fence: without transactions a row may be ahead of the applied record.
    fenced = events["offset"] < rows["fence"][row, events["source"]]
    order = np.flatnonzero(~fenced)
    order = order[apply_order(gather(events, order))]
    # Duplicates are looked for in the order of application: what a row remembers is counted in that order.
    repeated = is_duplicate(gather(events, order), row[order], rows)
    duplicate = np.zeros(len(events), bool)
    duplicate[order[repeated]] = True
    order = order[~repeated]
    count_event_time(events, published_ms, order, tally)
    applied = ~(fenced | duplicate)
    for source in np.unique(events["source"]).tolist():
        of_source = events["source"] == source
        for outcome, which in (("fenced", fenced), ("duplicate", duplicate), ("applied", applied)):
            tally.add(tally.metrics.event[SOURCES[source], outcome], int(np.count_nonzero(which & of_source)))
    return order


def draws_of(events: Events, partition: int, topic_hashes: Sequence[int]) -> NDArray[np.float64]:
    """The random draw of each event, from its coordinates: float64 [N] in [0, 1).

    Args:
        events: EVENT [N].
        partition: theirs.
        topic_hashes: by source.
    """
    draw = np.empty(len(events))
    for source in np.unique(events["source"]).tolist():
        of_source = events["source"] == source
        draw[of_source] = draws(topic_hashes[source], partition, events["offset"][of_source])
    return draw
