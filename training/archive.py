"""The archive: records of topics as Parquet files, so that training outlives the topics' retention.

    topic=clickstream/day=2026-11-22/partition=00003/00000000000000000000-00000000000000050000.parquet

A file holds the records of one day (UTC, by record timestamp) out of one range of offsets, [first, end). `archive.json`
says, for each partition, up to where the archive goes; it is replaced only when all files of a range are in place, so
what lies beyond it is a run's that was killed: readers pass over it, and the next run deletes it before it goes on. A
repeated run neither loses nor doubles a record. Every file carries the number of records of its whole range, so a file
that is missing or was cut short is found.

Users who ask to be forgotten (topic `erasures`) are forgotten here by the next run: what they had published is taken
out of the files that are there, each written anew, whole, with the number of records that it lost; and is not written
to new ones. How far `erasures` was followed stands in the manifest, and moves on when all files are done.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.core.events import SOURCES
from stream.kafka.topics import Record, Topics
from training.erasures import ERASURES, Erasures, gone, read_erasures
from training.errors import TrainingError
from training.files import write_json, write_whole

ARCHIVED = (*SOURCES, "decisions")
"""Topics of an archive: what rows are made of, and what was decided."""

RANGE_RECORDS_MAX = 50_000
"""Records held in memory of one partition before they are written."""

FORMAT = 1
MANIFEST = "archive.json"

_SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
_RANGE_RECORDS = b"offerstream.range_records"
_ERASED = b"offerstream.erased"
"""In a file's metadata: how many of its records were taken out; left out where none was."""
_NAME = re.compile(r"(\d{20})-(\d{20})\.parquet")


class Manifest(NamedTuple):
    """How far an archive goes."""

    partitions: int
    """Of every topic."""
    end: dict[str, list[int]]
    """Topic to the offset after the last archived one, by partition."""
    erased: Sequence[int] = ()
    """How far the topic `erasures` was followed, by partition; () where never."""


class Ingested(NamedTuple):
    """What one run added."""

    records: int
    files: int
    leftovers: int
    """Files of a run that was killed, deleted."""
    erased: int
    """Records of users who asked to be forgotten, taken out or not taken in."""


def is_archive(path: Path) -> bool:
    """Whether a folder is an archive."""
    return (path / MANIFEST).is_file()


def read_manifest(archive: Path) -> Manifest:
    """How far the archive goes.

    Raises:
        TrainingError: it is missing, or not of this format.
    """
    path = archive / MANIFEST
    try:
        said = json.loads(path.read_text())
        if said["format"] != FORMAT:
            raise TrainingError(f"{path}: format {said['format']!r}; this version reads format {FORMAT}")
        end = {str(topic): [int(offset) for offset in offsets] for topic, offsets in said["end"].items()}
        return Manifest(int(said["partitions"]), end, [int(offset) for offset in said.get("erased", ())])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: not the manifest of an archive: {type(error).__name__}: {error}") from error


def ingest(bootstrap: str, topic_prefix: str, archive: Path, progress: Callable[[int, int], None]) -> Ingested:
    """Bring an archive up to where the topics end now, committed records only.

    1. Where the archive ends, by partition; files beyond it are deleted.
    2. Users who asked to be forgotten since the last run are taken out of its files. Before 3., so that who asks
       meanwhile is found by the next run.
    3. Records from there on, less those of such users, each range written as files, then the manifest moved on.

    Args:
        bootstrap: host:port, comma-separated.
        topic_prefix: before the names of the topics.
        archive: its folder; made when it is not there.
        progress: told records done and all.

    Raises:
        SetupError: no broker answers, or topics are missing.
        TrainingError: the archive is of other topics, or retention deleted records before they were archived.
    """
    names = {topic_prefix + topic: topic for topic in ARCHIVED}
    erasures_topic = topic_prefix + ERASURES
    with Topics(bootstrap) as topics:
        counts = topics.partitions([*names, erasures_topic])
        if len(set(counts.values())) != 1:
            raise TrainingError(f"the topics have different partition counts: {counts}")
        (n_partitions,) = set(counts.values())
        # 1.
        fresh = Manifest(n_partitions, {topic: [0] * n_partitions for topic in ARCHIVED})
        manifest = read_manifest(archive) if is_archive(archive) else fresh
        if manifest.partitions != n_partitions or manifest.end.keys() != fresh.end.keys():
            raise TrainingError(
                f"{archive} holds {manifest.partitions} partitions of {', '.join(manifest.end)}; the topics have "
                f"{n_partitions}: another archive is needed"
            )
        leftovers = _delete_leftovers(archive, manifest)
        places = {(name, p): manifest.end[topic][p] for name, topic in names.items() for p in range(n_partitions)}
        total = sum(_ahead(topics, name, p, end) for (name, p), end in places.items())
        # 2.
        erasures = read_erasures(topics, erasures_topic, n_partitions)
        manifest, erased = _forget(archive, manifest, erasures, erasures_topic)
        # 3.
        done = files = 0
        waiting: dict[tuple[str, int], list[Record]] = {}

        def write(place: tuple[str, int]) -> None:
            nonlocal files, erased
            made, left_out = _write_range(archive, manifest, names[place[0]], place[1], waiting[place], erasures)
            files, erased = files + made, erased + left_out

        for place, records in topics.read(places, since=places):
            held = waiting.setdefault(place, [])
            held += records
            done += len(records)
            if len(held) >= RANGE_RECORDS_MAX:
                write(place)
                held.clear()
            progress(done, total)
        for place, held in waiting.items():
            if held:
                write(place)
        _write_manifest(archive, manifest)
    return Ingested(done, files, leftovers, erased)


def _forget(archive: Path, manifest: Manifest, erasures: Erasures, topic: str) -> tuple[Manifest, int]:
    """(how far the archive goes then, records taken out): who asked since the last run is taken out of the files."""
    for partition, (first, followed) in enumerate(zip(erasures.first, manifest.erased, strict=False)):
        if first > followed:
            raise TrainingError(
                f"{topic}[{partition}]: offsets {followed} to {first - 1} were deleted before this archive followed "
                "them, so it may hold users who asked to be forgotten; delete it and begin another one, and archive "
                "more often than the topics' retention"
            )
    erased = 0
    if list(manifest.erased) != erasures.end and erasures.until_ms:
        for topic_, ends in manifest.end.items():
            for partition in range(len(ends)):
                for file in _files(archive, topic_, partition):
                    table = _read(file.path)
                    erased += _write_file(file.path, table, gone(table, erasures.until_ms))
    return manifest._replace(erased=erasures.end), erased


def _ahead(topics: Topics, name: str, partition: int, end: int) -> int:
    first, last = topics.watermarks(name, partition)
    if end > last:
        raise TrainingError(
            f"{name}[{partition}] ends at offset {last}, the archive at {end}: another topic of that name, or records "
            "were lost; another archive is needed"
        )
    if first > max(end, 0) and end > 0:
        raise TrainingError(
            f"{name}[{partition}]: offsets {end} to {first - 1} were deleted before they were archived; this archive "
            "stays as it is, begin another one, and archive more often than the topics' retention"
        )
    return last - max(first, end)


def _write_range(
    archive: Path, manifest: Manifest, topic: str, partition: int, records: Sequence[Record], erasures: Erasures
) -> tuple[int, int]:
    """Write one range, then move the manifest on: (files, records left out since their users asked for it)."""
    first, end = manifest.end[topic][partition], records[-1].offset + 1
    by_day: dict[str, list[Record]] = {}
    for record in records:
        day = datetime.fromtimestamp(record.timestamp / 1000, UTC).strftime("%Y-%m-%d")
        by_day.setdefault(day, []).append(record)
    schema = _SCHEMA.with_metadata({_RANGE_RECORDS: str(len(records)).encode()})
    left_out = 0
    for day, some in by_day.items():
        columns = [
            pa.array([record.offset for record in some], pa.int64()),
            pa.array([record.timestamp for record in some], pa.int64()),
            pa.array([record.key for record in some], pa.binary()),
            pa.array([record.value for record in some], pa.binary()),
        ]
        folder = archive / f"topic={topic}" / f"day={day}" / f"partition={partition:05d}"
        table = pa.Table.from_arrays(columns, schema=schema)
        path = folder / f"{first:020d}-{end:020d}.parquet"
        left_out += _write_file(path, table, gone(table, erasures.until_ms), new=True)
    manifest.end[topic][partition] = end
    _write_manifest(archive, manifest)
    return len(by_day), left_out


def _write_file(path: Path, table: pa.Table, without: pa.Array, *, new: bool = False) -> int:
    """Write a file without some of its records, how many of which it then says; one that loses none stays as it is."""
    n = int(pc.sum(without).as_py() or 0)
    if n:
        metadata = table.schema.metadata
        lost = int(metadata.get(_ERASED, b"0")) + n
        kept = table.filter(pc.invert(without))
        table = kept.replace_schema_metadata({**metadata, _ERASED: str(lost).encode()})
    if n or new:
        stored = io.BytesIO()
        pq.write_table(table, stored, compression="zstd")
        write_whole(path, stored.getvalue())
    return n


def _write_manifest(archive: Path, manifest: Manifest) -> None:
    write_json(archive / MANIFEST, {"format": FORMAT, **manifest._asdict()})


class _File(NamedTuple):
    path: Path
    first: int
    end: int


def _files(archive: Path, topic: str, partition: int) -> list[_File]:
    found = []
    for path in archive.glob(f"topic={topic}/day=*/partition={partition:05d}/*"):
        if path.name.startswith("."):
            continue  # half-written, of a run that was killed
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise TrainingError(f"{path}: no file of an archive; take it away")
        found.append(_File(path, int(named[1]), int(named[2])))
    return sorted(found, key=lambda file: (file.first, file.end, file.path))


def _delete_leftovers(archive: Path, manifest: Manifest) -> int:
    leftovers = [*archive.glob(".*.part"), *archive.glob("topic=*/day=*/partition=*/.*.part")]
    for topic, ends in manifest.end.items():
        for partition, end in enumerate(ends):
            leftovers += [file.path for file in _files(archive, topic, partition) if file.first >= end]
    for path in leftovers:
        path.unlink()
    return len(leftovers)


def record_lines(archive: Path) -> Iterator[bytes]:
    """The source records of an archive, each a line of JSON: `{"topic": ..., "timestamp_ms": ..., "value": {...}}`.

    The value of a record that holds no JSON is null.

    Raises:
        TrainingError: as `read_manifest` and `read_records`.
    """
    manifest = read_manifest(archive)
    for topic in SOURCES:
        for partition in range(manifest.partitions):
            for records in read_records(archive, manifest, topic, partition):
                for record in records:
                    value = _one_line(record.value or b"")
                    yield b'{"topic": "%b", "timestamp_ms": %d, "value": %b}' % (
                        topic.encode(),
                        record.timestamp,
                        value,
                    )


def _one_line(value: bytes) -> bytes:
    try:
        return json.dumps(json.loads(value)).encode()
    except ValueError:
        return b"null"


def read_records(archive: Path, manifest: Manifest, topic: str, partition: int) -> Iterator[list[Record]]:
    """Records of one partition in the order of their offsets, a range at a time.

    Raises:
        TrainingError: a file is missing, cannot be read, or is not of this archive; it is named.
    """
    ranges: dict[tuple[int, int], list[Path]] = {}
    for file in _files(archive, topic, partition):
        if file.end <= manifest.end[topic][partition]:
            ranges.setdefault((file.first, file.end), []).append(file.path)
    at = 0
    for (first, end), paths in sorted(ranges.items()):
        if first != at:
            raise _missing(archive, topic, partition, at, first)
        tables = [_read(path) for path in paths]
        expected = int(tables[0].schema.metadata[_RANGE_RECORDS])
        if sum(table.num_rows + int(table.schema.metadata.get(_ERASED, b"0")) for table in tables) != expected:
            raise _missing(archive, topic, partition, first, end)
        table = pa.concat_tables(tables).sort_by("offset")
        columns = (table[name].to_pylist() for name in ("offset", "timestamp_ms", "key", "value"))
        yield [
            Record(topic, partition, key, value, offset, time_ms, [])
            for offset, time_ms, key, value in zip(*columns, strict=True)
        ]
        at = end
    if at != manifest.end[topic][partition]:
        raise _missing(archive, topic, partition, at, manifest.end[topic][partition])


def _missing(archive: Path, topic: str, partition: int, first: int, end: int) -> TrainingError:
    return TrainingError(
        f"{archive}: of {topic}[{partition}], offsets {first} to {end - 1}, a file is missing: "
        f"topic={topic}/day=*/partition={partition:05d}/{first:020d}-*.parquet"
    )


def _read(path: Path) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if not file.schema_arrow.equals(_SCHEMA) or _RANGE_RECORDS not in (file.schema_arrow.metadata or {}):
            raise TrainingError(f"{path}: columns {file.schema_arrow.names}; an archive's are {_SCHEMA.names}")
        return file.read()
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
