"""Recorded logs as columns, by the way a worker takes: read as replay does, encoded, decoded."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import apply_order
from stream.core.events import SOURCES
from stream.core.row import gather
from stream.kafka.decode import decode
from stream.shop.fields import Event
from stream.shop.formats import FORMATS
from stream.shop.lines import LineSource


@dataclass(slots=True)
class _Record:
    topic: str
    key: bytes
    value: bytes
    offset: int
    timestamp: int


def recorded(path: Path, format_: str) -> tuple[NDArray[np.void], NDArray[np.int64], int]:
    """(events as EVENT [N] in order of application, each event's row [N], number of users)."""
    read, currency = FORMATS[format_][0], "USD"
    encode = msgspec.json.Encoder().encode
    records: dict[str, list[_Record]] = {source: [] for source in SOURCES}
    with LineSource(str(path)) as lines:
        for item in read(lines, currency):
            if isinstance(item, Event):
                value = item.value
                of_source = records[item.source]
                of_source.append(
                    _Record(item.source, value.user_id.encode(), encode(value), len(of_source), value.time_ms)
                )
    users: list[bytes] = []
    parts = []
    for source, of_source in records.items():
        decoded = decode(source, of_source, 0, 1, currency, source)
        assert not decoded.dead
        users += decoded.users
        parts.append(decoded.events)
    events = np.concatenate(parts)
    order = apply_order(events)
    names, row = np.unique(np.array(users), return_inverse=True)
    return gather(events, order), row[order], len(names)
