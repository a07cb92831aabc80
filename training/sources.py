"""Where events are read from: recorded logs, and the topics of a broker. Both go through the decoder that workers use.

What a worker would refuse is refused here too and counted, so a model never learns from an event that no row has seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events
from stream.core.events import EVENT, SOURCES
from stream.errors import SettingsError
from stream.kafka.decode import Decoded, decode
from stream.kafka.topics import CHUNK, Record, Topics
from stream.shop.fields import Broken, LeftOut, Reader
from stream.shop.fields import Event as Published
from stream.shop.formats import FORMATS
from stream.shop.lines import LineSource
from stream.shop.mapping import load_mapping
from training.archive import Manifest, read_manifest, read_records
from training.errors import TrainingError
from training.log import Counts, EventLog, event_log

Times = NDArray[np.int64]
"""[N], milliseconds."""

Progress = Callable[[int, int], None]
"""(done, total), in bytes of a file or in records of a broker; total 0 = unknown."""

CURRENCY = "EUR"
"""Of amounts where neither the caller nor the format says."""


@dataclass
class _Tally:
    """What became of the records so far."""

    events: int = 0
    dead: int = 0
    broken: int = 0
    left_out: int = 0
    first_problem: str = ""

    def take(self, batch: Decoded) -> Decoded:
        self.events += len(batch.events)
        self.dead += len(batch.dead)
        if batch.dead and not self.first_problem:
            dead = batch.dead[0]
            where = f"{dead.topic}, partition {dead.partition}, offset {dead.offset}"
            self.first_problem = f"{where}: {dead.reason} {dead.field} {dead.detail}".rstrip()
        return batch

    def counts(self) -> Counts:
        return Counts(self.events, self.dead, self.broken, self.left_out, self.first_problem)


# --- recorded logs


def read_file(path: str, format_: str, currency: str, progress: Progress) -> tuple[EventLog, Counts]:
    """A recorded log, in the order of its lines.

    Args:
        path: plain or .gz; `-` is standard input.
        format_: a name in `FORMATS`, or the path of a mapping file (.yaml).
        currency: of the amounts; "" takes the format's own, or CURRENCY where it states none.
        progress: told bytes.

    Raises:
        TrainingError: the file is not there or cannot be unpacked.
        SettingsError: unknown format, or a header that is not that format's.
    """
    reader, own_currency = _reader(format_)
    tally = _Tally()
    try:
        with LineSource(path) as lines:
            log = event_log(_decoded_lines(reader, lines, currency or own_currency or CURRENCY, tally, progress))
            if lines.cut:
                raise TrainingError(lines.cut)
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from error
    return log, tally.counts()


def _reader(format_: str) -> tuple[Reader, str]:
    if format_ in FORMATS:
        return FORMATS[format_]
    if format_.endswith((".yaml", ".yml")):
        mapping = load_mapping(Path(format_))
        return mapping.read, mapping.currency
    raise SettingsError(f"--format {format_}: known are {', '.join(FORMATS)}, or the path of a mapping file (.yaml)")


def _decoded_lines(
    reader: Reader, lines: LineSource, currency: str, tally: _Tally, progress: Progress
) -> Iterator[tuple[list[bytes], Events]]:
    waiting: list[Record] = []
    for number, item in enumerate(reader(lines, currency)):
        if isinstance(item, Published):
            value = item.value
            encoded = msgspec.json.encode(value)
            waiting.append(Record(item.source, 0, value.user_id.encode(), encoded, number, value.time_ms, []))
        elif isinstance(item, Broken):
            tally.broken += 1
            tally.first_problem = tally.first_problem or f"{lines.name}, line {item.line}: {item.reason}: {item.detail}"
        elif isinstance(item, LeftOut):
            tally.left_out += 1
        if len(waiting) >= CHUNK:
            yield _decode_mixed(waiting, currency, tally)
            waiting.clear()
            progress(lines.bytes_read, lines.bytes_total)
    yield _decode_mixed(waiting, currency, tally)
    progress(lines.bytes_read, lines.bytes_total)


def _decode_mixed(records: list[Record], currency: str, tally: _Tally) -> tuple[list[bytes], Events]:
    """Records of several sources, whose `offset` is their order, as one batch in that order."""
    users: list[bytes] = []
    events = [np.empty(0, EVENT)]
    for source in SOURCES:
        batch = tally.take(
            decode(source, [record for record in records if record.topic == source], 0, 1, currency, source)
        )
        users += batch.users
        events.append(batch.events)
    joined = np.concatenate(events)
    order = np.argsort(joined["offset"], kind="stable")
    return [users[at] for at in order.tolist()], joined[order]


# --- a broker


def read_topics(bootstrap: str, topic_prefix: str, currency: str, progress: Progress) -> tuple[EventLog, Counts]:
    """The source topics of a broker, from their beginning to where they end now, committed records only.

    Workers apply each source in the order of its offsets; between sources the order is not kept anywhere, so records go
    by their timestamps, which is when they were published. Partitions follow one another: no user is in two.

    Args:
        bootstrap: host:port, comma-separated.
        topic_prefix: before the names of the topics.
        currency: as the workers' setting; amounts in others are refused. "" is CURRENCY.
        progress: told records.

    Raises:
        SetupError: no broker answers, topics are missing, or records stop coming.
        TrainingError: the topics have different partition counts.
    """
    names = {source: topic_prefix + source for source in SOURCES}
    tally = _Tally()
    with Topics(bootstrap) as topics:
        counts = topics.partitions(list(names.values()))
        if len(set(counts.values())) != 1:
            raise TrainingError(f"the source topics have different partition counts: {counts}")
        (n_partitions,) = set(counts.values())
        total = sum(topics.offsets_held(name, p) for name in names.values() for p in range(n_partitions))
        done = 0
        batches: list[list[tuple[Decoded, Times]]] = [[] for _ in range(n_partitions)]
        sources = {name: source for source, name in names.items()}
        for (name, partition), records in topics.read([(name, p) for name in sources for p in range(n_partitions)]):
            batch = tally.take(decode(sources[name], records, partition, n_partitions, currency or CURRENCY, name))
            batches[partition].append((batch, _published_ms(batch, records)))
            done += len(records)
            progress(done, total)
    return event_log(_merge(of_partition) for of_partition in batches), tally.counts()


def read_archive(
    path: Path, currency: str, progress: Progress, manifest: Manifest | None = None
) -> tuple[EventLog, Counts]:
    """The source topics of an archive, as `read_topics` reads those of a broker.

    Args:
        path: the archive's folder.
        currency: as for `read_topics`.
        progress: told offsets.
        manifest: how far to read, of an earlier time; None: as far as the archive goes.

    Raises:
        TrainingError: the manifest or a file is missing, cut short, or not of an archive.
    """
    manifest = manifest or read_manifest(path)
    total = records_of(manifest)
    tally = _Tally()

    def partitions() -> Iterator[tuple[list[bytes], Events]]:
        done = 0
        for partition in range(manifest.partitions):
            yield _archived_partition(path, currency, manifest, partition, tally)
            done += records_of(manifest, partition)
            progress(done, total)

    return event_log(partitions()), tally.counts()


def read_archived_partition(path: Path, currency: str, manifest: Manifest, partition: int) -> tuple[EventLog, Counts]:
    """One partition of what `read_archive` reads; no user is in two.

    Raises:
        TrainingError: as `read_archive`.
    """
    tally = _Tally()
    return event_log([_archived_partition(path, currency, manifest, partition, tally)]), tally.counts()


def records_of(manifest: Manifest, partition: int | None = None) -> int:
    """Offsets that the source topics of an archive hold, in one partition or all: no fewer than there are records."""
    partitions = range(manifest.partitions) if partition is None else [partition]
    return sum(manifest.end[source][i] for source in SOURCES for i in partitions)


def _archived_partition(
    path: Path, currency: str, manifest: Manifest, partition: int, tally: _Tally
) -> tuple[list[bytes], Events]:
    batches = []
    for source in SOURCES:
        for records in read_records(path, manifest, source, partition):
            batch = tally.take(decode(source, records, partition, manifest.partitions, currency or CURRENCY, source))
            batches.append((batch, _published_ms(batch, records)))
    return _merge(batches)


def _published_ms(batch: Decoded, records: list[Record]) -> Times:
    """The record timestamps of a batch's events."""
    offsets = np.array([record.offset for record in records], np.int64)
    times_ms = np.array([record.timestamp for record in records], np.int64)
    return times_ms[np.searchsorted(offsets, batch.events["offset"])]


def _merge(batches: list[tuple[Decoded, Times]]) -> tuple[list[bytes], Events]:
    """Batches of one partition, each of one source in the order of its offsets: merged by the time of publication."""
    users = [user for batch, _ in batches for user in batch.users]
    events = [np.empty(0, EVENT), *(batch.events for batch, _ in batches)]
    times_ms = [np.empty(0, np.int64), *(times_ms for _, times_ms in batches)]
    joined = np.concatenate(events)
    if not len(joined):
        return users, joined
    order = merged_order(joined["user"], joined["source"], joined["offset"], np.concatenate(times_ms))
    return [users[at] for at in order.tolist()], joined[order]


def merged_order(
    user: NDArray[np.uint64], source: NDArray[np.uint8], offset: NDArray[np.int64], published_ms: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The order of time of publication in which each user's events of one source keep the order of their offsets.

    Producers' clocks may go back; a source's offsets are what a worker goes by. So of a user's events in one source,
    each counts as published no earlier than those before it.
    """
    by_source = np.lexsort((offset, source, user))
    user, source, times_ms = user[by_source], source[by_source], published_ms[by_source] - published_ms.min()
    group = np.cumsum(np.r_[False, (user[1:] != user[:-1]) | (source[1:] != source[:-1])])
    stride_ms = int(times_ms.max()) + 1  # groups one above the other, so that one running maximum serves all
    no_earlier_ms = np.maximum.accumulate(group * stride_ms + times_ms) - group * stride_ms
    order: NDArray[np.int64] = by_source[np.lexsort((offset[by_source], source, no_earlier_ms))]
    return order
