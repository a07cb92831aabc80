"""What `campaigns simulate` reads: a recorded log, or the source topics as far as a broker still has them.

Both go through the decoder that workers use, so what a worker would refuse is refused here and counted.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.campaigns.simulate import Log
from stream.core.absorb import Events, apply_order
from stream.core.events import EVENT, SOURCES
from stream.core.row import gather
from stream.errors import SettingsError
from stream.kafka.codec import SOURCE_VALUES
from stream.kafka.decode import decode
from stream.kafka.topics import Record, Topics
from stream.shop.fields import Broken, Event, Reader, SourceValue
from stream.shop.formats import FORMATS
from stream.shop.lines import Line, LineSource
from stream.shop.mapping import load_mapping

CHUNK = 20_000
RECORDS = "records"
"""The format of record lines."""

TOPICS = "topics"
"""Instead of a file: the broker's source topics."""


class Read(NamedTuple):
    """A log, and how much of the input is not in it."""

    log: Log
    broken: int
    """Lines that could not be read."""
    refused: int
    """Records that a worker would put into dead-letters."""
    cut: str
    """Why the input ended too early; "" = it did not."""


def read_file(path: str, format_: str, currency: str) -> Read:
    """A recorded log.

    Args:
        path: plain or .gz; `-` is standard input.
        format_: a name in `FORMATS`, RECORDS, or the path of a mapping file (.yaml).
        currency: of the amounts.

    Raises:
        SettingsError: unknown format, or a header that is not that format's.
        OSError: the file cannot be read.
    """
    reader = _reader(format_)
    n_broken = 0
    with LineSource(path) as lines:

        def values() -> Iterator[tuple[str, SourceValue]]:
            nonlocal n_broken
            for item in reader(lines, currency):
                n_broken += isinstance(item, Broken)
                if isinstance(item, Event):
                    yield item.source, item.value

        log, refused = log_of(values(), currency)
        return Read(log, n_broken, refused, lines.cut)


def read_record_lines(lines: Iterable[Line], currency: str) -> Iterator[Event | Broken]:
    """Records as lines of JSON, `{"topic": "orders", "value": {...}}`: what `training archive-lines` prints."""
    del currency  # values say their own
    for number, line in lines:
        try:
            record = _LINE.decode(line)
            yield Event(number, record.topic, msgspec.convert(record.value, SOURCE_VALUES[record.topic]))
        except msgspec.MsgspecError as error:
            yield Broken(number, "unreadable", str(error))


class _RecordLine(msgspec.Struct):
    topic: Literal["clickstream", "orders", "feedback", "redemptions", "customers"]
    value: dict[str, Any]


_LINE = msgspec.json.Decoder(_RecordLine)


def _reader(format_: str) -> Reader:
    if format_ == RECORDS:
        return read_record_lines
    if format_ in FORMATS:
        return FORMATS[format_][0]
    if format_.endswith((".yaml", ".yml")):
        return load_mapping(Path(format_)).read
    raise SettingsError(f"--format {format_}: known are {', '.join(FORMATS)}, {RECORDS}, and mapping files (*.yaml)")


def log_of(values: Iterable[tuple[str, SourceValue]], currency: str) -> tuple[Log, int]:
    """(the log of published values, each with its source; how many of them a worker would refuse)."""
    gathered = _Gathered()
    waiting: dict[str, list[Record]] = {source: [] for source in SOURCES}

    def decode_waiting() -> None:
        for source, records in waiting.items():
            gathered.take(source, records, 0, 1, currency)
            records.clear()

    for n, (source, value) in enumerate(values):
        encoded = msgspec.json.encode(value)
        waiting[source].append(Record(source, 0, value.user_id.encode(), encoded, n, value.time_ms, []))
        if n % CHUNK == CHUNK - 1:
            decode_waiting()
    decode_waiting()
    return gathered.log(), gathered.refused


def read_topics(bootstrap: str, topic_prefix: str, currency: str) -> Read:
    """The source topics of a broker, committed records only.

    Raises:
        SetupError: no broker answers, topics are missing, or records stop coming.
    """
    gathered = _Gathered()
    sources = {topic_prefix + source: source for source in SOURCES}
    with Topics(bootstrap) as topics:
        counts = topics.partitions(list(sources))
        places = [(name, partition) for name, count in counts.items() for partition in range(count)]
        for (name, partition), records in topics.read(places):
            gathered.take(sources[name], records, partition, counts[name], currency)
    return Read(gathered.log(), 0, gathered.refused, "")


class _Gathered:
    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._events: list[Events] = [np.empty(0, EVENT)]
        self._user: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self.refused = 0

    def take(self, source: str, records: list[Record], partition: int, n_partitions: int, currency: str) -> None:
        batch = decode(source, records, partition, n_partitions, currency, source)
        self.refused += len(batch.dead)
        self._events.append(batch.events)
        numbers = self._numbers
        self._user.append(np.array([numbers.setdefault(user, len(numbers)) for user in batch.users], np.int64))

    def log(self) -> Log:
        events, user = np.concatenate(self._events), np.concatenate(self._user)
        order = apply_order(events)
        return Log(gather(events, order), user[order], list(self._numbers))
