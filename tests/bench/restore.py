"""An empty disk is restored from the changelog, and a disk that is there serves again: ours, Kafka Streams beside it.

Both systems get changelogs with the same keys and the same bytes: rows as a worker of ours left them.
"""

import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from stream.core.row import pack, unpack
from stream.kafka import applied as applied_record
from tests.bench import measure
from tests.bench.kafka import Kafka
from tests.bench.load import Record, clicks, publish, user_id
from tests.bench.measure import OutputError, Report
from tests.bench.program import Program, ProgramError
from tests.bench.system import KafkaStreams, Offerstream

Row = dict[str, Any]

READY_POLL_S = 0.02
_RESTORED = re.compile(
    r"^(?P<at>\S+Z) INFO \S+: partition \d+: (?P<records>\d+) changelog records restored in (?P<took_s>[\d.]+) s",
    re.MULTILINE,
)


class Restored(NamedTuple):
    """What a worker's log says of a start."""

    records: int
    wall_s: float
    """From the first partition's begin to the last one's end: they are restored side by side."""


def restored(log: str) -> Restored:
    """Read off the lines that a worker of ours writes, one for each partition.

    Raises:
        ProgramError: there is none.
    """
    lines = list(_RESTORED.finditer(log))
    if not lines:
        raise ProgramError(f"no partition was restored:\n{log[-2000:]}")
    ends_s = [datetime.fromisoformat(line["at"]).timestamp() for line in lines]
    begins_s = [end_s - float(line["took_s"]) for end_s, line in zip(ends_s, lines, strict=True)]
    return Restored(sum(int(line["records"]) for line in lines), max(ends_s) - min(begins_s))


def rows_left_by(kafka: Kafka, system: Offerstream) -> list[bytes]:
    """The packed row of every user, as it lies in a changelog now, without its fences."""
    latest: dict[bytes, bytes] = {}
    for message in kafka.read(system.changelog, dict.fromkeys(range(kafka.partitions), 0)):
        key, value = message.key(), message.value()
        if key and value and key != applied_record.KEY:
            latest[key] = value
    return without_fences(list(latest.values()))


def without_fences(packed: Sequence[bytes]) -> list[bytes]:
    """Rows that begin with the first event of their topics: offsets that were applied are those of other topics."""
    rows = unpack(packed).copy()
    rows["fence"] = 0
    return pack(rows)


def records(topic: str, rows: Sequence[bytes], users: int) -> Iterator[Record]:
    """A changelog of so many users, the given rows dealt to them in turn."""
    for n in range(users):
        yield Record(topic, user_id(n).encode(), rows[n % len(rows)])


def size_bytes(rows: Sequence[bytes], users: int) -> int:
    """Of keys and values of `records`."""
    return sum(len(record.key) + len(record.value) for record in records("", rows, users))


def wait_until_ready(program: Program, system: Offerstream | KafkaStreams, began_s: float) -> float:
    """Seconds from the start of a process until it says that it serves.

    Raises:
        ProgramError: it ended, or takes too long.
    """
    while not system.is_ready():
        program.check()
        if time.monotonic() > began_s + measure.START_TIMEOUT_S:
            raise ProgramError(f"not ready after {measure.START_TIMEOUT_S:g} s:\n{program.log_tail()}")
        time.sleep(READY_POLL_S)
    return time.monotonic() - began_s


def _restored(system: Offerstream | KafkaStreams, users: int, n_bytes: int, done: Restored, **more: object) -> Row:
    """One row of var/bench.json.

    Raises:
        OutputError: not every row was read, or one twice.
    """
    if done.records != users:
        raise OutputError(f"{system.name}: {done.records} rows restored, {users} are in the changelog")
    return {
        "system": system.name,
        "job": f"restore of {users:,} rows, empty disk",
        "guarantee": system.guarantee,
        "users": users,
        "bytes": n_bytes,
        "restore_s": round(done.wall_s, 2),
        "rows_per_s": round(users / done.wall_s),
        "mb_per_s": round(n_bytes / done.wall_s / 1e6, 1),
        **more,
    }


def _start(system: Offerstream) -> tuple[Program, Callable[[], Restored], float]:
    """A worker that keeps its name in the group over restarts; what its log says of this start; when it began."""
    skip = system.log.stat().st_size if system.log.exists() else 0
    began_s = time.monotonic()
    program = system.start(instance_id="bench")
    return program, lambda: restored(system.log.read_bytes()[skip:].decode(errors="replace")), began_s


def ours(kafka: Kafka, system: Offerstream, rows: Sequence[bytes], users: int, tail: int, report: Report) -> list[Row]:
    """An empty disk, then a restart in order, then one after kill -9 behind so many events.

    Args:
        kafka: where.
        system: new: its changelog is empty, it never ran.
        rows: to be restored.
        users: how many rows, see `records`.
        tail: events that it takes in before it is killed.
        report: for a progress bar, told of those.
    """
    publish(kafka.bootstrap, records(system.changelog, rows, users))
    program, done, began_s = _start(system)
    with program:
        ready_s = wait_until_ready(program, system, began_s)
        cpu_s = program.cpu_s()
    found = [
        _restored(
            system,
            users,
            size_bytes(rows, users),
            done(),
            ready_s=round(ready_s, 2),
            processor_s=round(cpu_s, 2),
            rss_mb=program.rss_max_bytes >> 20,
        )
    ]
    program, done, began_s = _start(system)
    with program:
        ready_s = wait_until_ready(program, system, began_s)
        found.append(_restart(system, users, "SIGTERM", done(), ready_s))
        rng = np.random.default_rng(users)
        drawn = rng.integers(0, users, tail)
        publish(kafka.bootstrap, clicks(rng, drawn, time.time_ns() // 1_000_000, "tail"), system.prefix)
        measure.whole_backlog(kafka, system, program, tail, report)
        program.stop(signal.SIGKILL)
    program, done, began_s = _start(system)
    with program:
        ready_s = wait_until_ready(program, system, began_s)
        found.append(_restart(system, users, f"kill -9 behind {tail:,} events", done(), ready_s))
    return found


def _restart(system: Offerstream | KafkaStreams, users: int, after: str, tail: Restored, ready_s: float) -> Row:
    return {
        "system": system.name,
        "job": f"restart with its disk, after {after}",
        "guarantee": system.guarantee,
        "users": users,
        "tail_rows": tail.records,
        "tail_s": round(tail.wall_s, 2),
        "ready_s": round(ready_s, 2),
    }


def kafka_streams(kafka: Kafka, peer: KafkaStreams, rows: Sequence[bytes], users: int, tail: int) -> list[Row]:
    """The same for Kafka Streams with its default fetches, behind the same events; rows of ours are new users to it.

    Args:
        kafka: where.
        peer: new: its changelog is empty, it never ran. Its source holds the tail.
        rows: to be restored.
        users: how many rows, see `records`.
        tail: events that it takes in before it is killed.

    Raises:
        OutputError: its source holds something else.
    """
    publish(kafka.bootstrap, records(peer.changelog, rows, users))
    peer.skip_to_end()
    began_s = time.monotonic()
    with peer.start(instance_id="bench") as program:
        ready_s = wait_until_ready(program, peer, began_s)
        found = [
            _restored(
                peer,
                users,
                size_bytes(rows, users),
                _said(peer),
                ready_s=round(ready_s, 2),
                processor_s=round(program.cpu_s(), 2),
                rss_mb=program.rss_max_bytes >> 20,
            )
        ]
    if kafka.end(peer.source) != tail:
        raise OutputError(f"{peer.source} holds {kafka.end(peer.source)} events, not the {tail} of the tail")
    kafka.commit(peer.group, peer.source, dict.fromkeys(range(kafka.partitions), 0))
    began_s = time.monotonic()
    with peer.start(instance_id="bench") as program:
        ready_s = wait_until_ready(program, peer, began_s)
        found.append(_restart(peer, users, "SIGTERM", _said(peer), ready_s))
        deadline_s = time.monotonic() + measure.START_TIMEOUT_S
        while kafka.committed(peer.group, peer.source) != tail:
            program.check()
            if time.monotonic() > deadline_s:
                raise ProgramError(f"the tail took more than {measure.START_TIMEOUT_S:g} s:\n{program.log_tail()}")
            time.sleep(measure.POLL_S)
        program.stop(signal.SIGKILL)
    began_s = time.monotonic()
    with peer.start(instance_id="bench") as program:
        ready_s = wait_until_ready(program, peer, began_s)
        found.append(_restart(peer, users, f"kill -9 behind {tail:,} events", _said(peer), ready_s))
    return found


def _said(peer: KafkaStreams) -> Restored:
    """What its restore listener says of this start."""
    said = peer.said() or {}
    return Restored(said["restored"], said["restore_s"])
