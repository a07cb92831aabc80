"""A worker as a process of its own on a real broker, and everything that a test asks of its topics.

`Site` is what a shop has: topics, a changelog, a data folder. `Worker` is one process on it. What is read back is read
with plain Kafka clients from the topics themselves, never from the worker's memory.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream.core.events import SOURCES
from stream.core.row import unpack
from stream.kafka import applied
from stream.kafka.admin import create_topics
from stream.kafka.cluster import log_ranges, look
from stream.scoring.control import CHAMPION_KEY, file_key, pointer_json
from stream.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
APPLY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
MARKERS_MAX = 4  # of transactions, at the end of a log: a test makes no more

Place = tuple[str, int, int]
"""Where a record lies: source, partition, offset."""


class Event(NamedTuple):
    """What a test publishes."""

    source: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    """0: the producer's clock."""
    partition: int = -1
    """-1: by murmur2 of the key, as it should be."""


def event(source: str, **fields: Any) -> Event:
    """A source event as a well-behaved producer writes it."""
    value = {name: field for name, field in fields.items() if field is not None}
    return Event(source, fields["user_id"].encode(), json.dumps(value, ensure_ascii=False).encode())


class Read(NamedTuple):
    """A record that was read back."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp_ms: int

    @property
    def json(self) -> Any:
        """The value."""
        return json.loads(self.value or b"null")


class LateError(AssertionError):
    """Something that must happen did not."""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float, poll_s: float = 0.05) -> Any:
    """Return the first true answer.

    Raises:
        LateError: there was none in time.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end_s:
            raise LateError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(poll_s)


class Site:
    """Topics of one test, and what lies in them."""

    def __init__(
        self, bootstrap: str, prefix: str, folder: Path, partitions: int = 2, guarantee: str = "exactly_once"
    ) -> None:
        self.settings = Settings(
            guarantee=guarantee,
            bootstrap=bootstrap,
            topic_prefix=prefix,
            app_id=f"{prefix}app",
            partitions=partitions,
            data_dir=folder / "data",
        )
        self.folder = folder
        self.sent: list[tuple[Event, Place]] = []
        """Everything published to the sources, with where it lies, in the order of acknowledgement."""
        create_topics(self.settings)
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2",
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.max.bytes": 12 << 20,
                "log_level": 0,
            }
        )
        self._source_of = {self.settings.topic(source): source for source in SOURCES}
        self._changelog_end = dict.fromkeys(range(partitions), 0)
        self._applied: dict[int, applied.Applied] = {}
        self._rows: dict[bytes, bytes] = {}

    # --- writing ------------------------------------------------------------------------------------------------------

    def publish(self, events: Iterable[Event]) -> list[Place]:
        """Publish to the sources; return when everything is acknowledged: where each lies, in the order given."""
        events = list(events)
        places: list[Place | None] = [None] * len(events)
        failed: list[str] = []

        def note(i: int) -> Callable[[Any, Message], None]:
            def delivered(error: Any, message: Message) -> None:
                if error is not None:
                    failed.append(str(error))
                    return
                place = (
                    self._source_of[str(message.topic())],
                    int(message.partition() or 0),
                    int(message.offset() or 0),
                )
                places[i] = place
                self.sent.append((events[i], place))

            return delivered

        for i, e in enumerate(events):
            more = {"timestamp": e.timestamp_ms} if e.timestamp_ms else {}
            self._producer.produce(
                self.settings.topic(e.source), e.value, e.key, e.partition, on_delivery=note(i), **more
            )
            if i % 1000 == 0:
                self._producer.poll(0)
        self._producer.flush(60)
        assert not failed, failed[:3]
        assert None not in places
        return [place for place in places if place is not None]

    @contextlib.contextmanager
    def publishing(self, make: Callable[[int], Iterable[Event]], every_s: float) -> Iterator[None]:
        """Publish `make(0)`, `make(1)` and so on all the while, from a thread of its own, whose errors are raised."""
        stop = threading.Event()

        def publish() -> None:
            for turn in itertools.count():
                if stop.wait(every_s):
                    return
                self.publish(make(turn))

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(publish)
            try:
                yield
            finally:
                stop.set()
            done.result(60)

    def put_control(self, topic: str, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Write to a control topic."""
        failed: list[str] = []
        for key, value in records:
            self._producer.produce(
                self.settings.topic(topic), value, key, 0, on_delivery=lambda e, _: failed.append(str(e)) if e else None
            )
        self._producer.flush(60)
        assert not failed, failed

    def put_to_partition(self, topic: str, key: bytes, value: bytes) -> None:
        """Write one record to where its key belongs."""
        self._producer.produce(topic, value, key)
        assert self._producer.flush(60) == 0

    def publish_model(self, data: bytes, sha256_hex: str) -> None:
        """A model file and the pointer to it."""
        now_ms = time.time_ns() // 1_000_000
        self.put_control("models", [(file_key(sha256_hex), data), (CHAMPION_KEY, pointer_json(sha256_hex, now_ms))])

    def publish_campaigns(self, *documents: Mapping[str, Any]) -> None:
        """Campaign documents as the command line writes them."""
        now_ms = time.time_ns() // 1_000_000
        self.put_control(
            "campaigns", [(d["id"].encode(), json.dumps({**d, "published_ms": now_ms}).encode()) for d in documents]
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    def topic_ids(self) -> dict[str, str]:
        """Kafka's ids of sources and changelog, by full topic name."""
        return look(self.settings, self._admin).topic_ids

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition's log ends."""
        ranges = log_ranges(self._admin, [(topic, p) for p in range(self.settings.partitions)])
        return {p: end for (_, p), (_, end) in ranges.items()}

    def read(
        self, topic: str, start: Mapping[int, int] | None = None, ends: Mapping[int, int] | None = None
    ) -> list[Read]:
        """Everything in a topic (full name) from `start` to `ends`, partition by partition in offset order.

        By default from the beginning to the present end.
        """
        ends = ends or self.ends(topic)
        at = {p: (start or {}).get(p, 0) for p in ends}
        found: dict[int, list[Read]] = {p: [] for p in ends}
        behind = {p for p in ends if at[p] < ends[p]}
        if not behind:
            return []
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, p, at[p]) for p in behind])
            end_s = time.monotonic() + 60
            while behind:
                for message in consumer.consume(5000, timeout=0.05):  # it waits that long for company
                    p, offset = int(message.partition() or 0), int(message.offset() or 0)
                    if message.error() is None and offset < ends[p]:
                        found[p].append(
                            Read(
                                p,
                                offset,
                                message.key(),
                                message.value(),
                                {str(k): v for k, v in message.headers() or []},
                                int(message.timestamp()[1]),
                            )
                        )
                    # A compacted topic may have no record just before its end.
                    if message.error() is not None or offset + 1 >= ends[p]:
                        behind.discard(p)
                if time.monotonic() > end_s:
                    raise LateError(f"{topic} cannot be read to its end")
        finally:
            consumer.close()
        return [record for p in sorted(found) for record in found[p]]

    def settle(self, topic: str) -> None:
        """Return when no transaction is open in a topic: what is committed is seen a moment after the commit.

        One whose owner is dead stays open until its partition is taken over, so this waits for some seconds at most.
        """
        tps = dict.fromkeys((TopicPartition(topic, p) for p in range(self.settings.partitions)), OffsetSpec.latest())

        def ends(level: IsolationLevel) -> dict[tuple[str, int], int]:
            asked = self._admin.list_offsets(tps, isolation_level=level)
            return {(tp.topic, tp.partition): found.result().offset for tp, found in asked.items()}

        def settled() -> bool:
            try:
                return ends(IsolationLevel.READ_UNCOMMITTED) == ends(IsolationLevel.READ_COMMITTED)
            except KafkaException:  # a topic that is new has no leader yet, or has changed it
                self._admin.list_topics(timeout=5)
                return False

        with contextlib.suppress(LateError):
            wait_until(settled, "open transactions", 5)

    def out(self, name: str) -> list[Read]:
        """Everything in an output topic: offers, decisions, dead-letters."""
        self.settle(self.settings.topic(name))
        return self.read(self.settings.topic(name))

    def _follow_changelog(self) -> None:
        ends = self.ends(self.settings.changelog)
        records = self.read(self.settings.changelog, self._changelog_end, ends)
        self._changelog_end = ends
        for record in records:
            assert record.key is not None
            if record.key == applied.KEY:
                self._applied[record.partition] = applied.decode(record.value or b"")
            elif record.value is None:
                self._rows.pop(record.key, None)
            else:
                self._rows[record.key] = record.value

    def rows(self) -> dict[bytes, np.void]:
        """Every user's row as it stands in the changelog."""
        self.settle(self.settings.changelog)
        self._follow_changelog()
        return dict(zip(self._rows, unpack(list(self._rows.values())), strict=True))

    def packed_rows(self) -> dict[bytes, bytes]:
        """Every user's row in its packed form."""
        self.settle(self.settings.changelog)
        self._follow_changelog()
        return dict(self._rows)

    def applied(self) -> dict[int, applied.Applied]:
        """The applied record of each partition that has one."""
        self.settle(self.settings.changelog)
        self._follow_changelog()
        return dict(self._applied)

    def applied_by_now(self) -> dict[tuple[str, int], int]:
        """Next offset by source and partition, without waiting for what is about to be committed."""
        self._follow_changelog()
        return {(s, p): at.next_offset for p, record in self._applied.items() for s, at in record.sources.items()}

    def behind(self) -> dict[tuple[str, int], int]:
        """Records not applied, or outputs owed, by source or topic and partition: nothing, when all is done."""
        self._follow_changelog()
        topics = [(self.settings.topic(source), p) for source in SOURCES for p in range(self.settings.partitions)]
        found = {}
        for (topic, p), (_, end) in log_ranges(self._admin, topics).items():
            source, record = self._source_of[topic], self._applied.get(p)
            at = record.sources[source].next_offset if record else 0
            if at < end:
                found[source, p] = end - at
        found = {place: n for place, n in found.items() if n > MARKERS_MAX or self._has_records(*place)}
        return found | {(t, p): to - at for p, record in self._applied.items() for t, (at, to) in record.owed.items()}

    def _has_records(self, source: str, partition: int) -> bool:
        """Whether more than transaction markers lie behind what was applied."""
        at = self.ends(self.settings.topic(source))
        record = self._applied.get(partition)
        at[partition] = record.sources[source].next_offset if record else 0
        return bool(self.read(self.settings.topic(source), at))

    def wait_applied(self, workers: Sequence["Worker"] = (), timeout_s: float = APPLY_TIMEOUT_S) -> None:
        """Return when the applied records have reached the end of every source.

        Raises:
            LateError: they did not; the workers' logs are shown.
        """
        end_s = time.monotonic() + timeout_s
        while behind := self.behind():
            for worker in workers:
                assert worker.poll() is None, f"a worker ended with {worker.poll()}:\n{worker.log()}"
            if time.monotonic() > end_s:
                logs = "\n".join(worker.log() for worker in workers)
                raise LateError(f"not applied within {timeout_s:.0f} s: {behind}\n{logs}")
            time.sleep(0.05)

    def has_joined(self) -> bool:
        """Whether all logins, claims and rows on their way to users are applied."""
        records = self.applied()
        for name in ("identities", "merges"):
            start = {p: record.sources[name].next_offset for p, record in records.items()}
            if self.read(self.settings.topic(name), start):
                return False
        return True

    # --- processes ----------------------------------------------------------------------------------------------------

    def environment(self, **settings: Any) -> dict[str, str]:
        """The environment of a process on this site: settings by field name, others as they are."""
        own = {
            "app_id": self.settings.app_id,
            "bootstrap": self.settings.bootstrap,
            "topic_prefix": self.settings.topic_prefix,
            "partitions": self.settings.partitions,
            "guarantee": self.settings.guarantee,
            "data_dir": self.settings.data_dir,
            "admin_port": 0,
            "decision_sample": 1,
            "session_timeout_ms": 6000,
        }
        env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        env |= {f"{PREFIX}{k.upper()}": str(v) for k, v in (own | settings).items()}
        return env | {"PYTHONUNBUFFERED": "1"}

    @contextlib.contextmanager
    def worker(self, **settings: Any) -> Iterator["Worker"]:
        """A worker that runs while the context does; at the end it is stopped, in order if it lives."""
        with Worker(("-m", "stream", "worker"), self.environment(**settings), self.folder) as worker:
            yield worker


class Worker:
    """One process, its log in a file."""

    _numbers = itertools.count(1)

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"worker-{self.next_number()}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command], env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self._process.pid

    @classmethod
    def next_number(cls) -> int:
        """For the name of a log."""
        return next(cls._numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.poll() is None:
            if kind is None:
                code = self.stop()
                assert code == 0, f"stopped with {code}:\n{self.log()}"
            else:
                self.kill()

    def log(self) -> str:
        """All it wrote so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def poll(self) -> int | None:
        """Its exit code; None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Its exit code, when it has ended."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LateError(f"the worker still runs after {timeout_s:.0f} s:\n{self.log()}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait: exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(STOP_TIMEOUT_S)

    def wait_log(self, pattern: str, timeout_s: float = START_TIMEOUT_S, times: int = 1) -> re.Match[str]:
        """Return the `times`-th place in its log that matches.

        Raises:
            LateError: there is none in time, or the worker has ended without one.
        """

        def found() -> re.Match[str] | None:
            ended = self.poll() is not None
            matches = list(re.finditer(pattern, self.log()))
            if len(matches) >= times:
                return matches[times - 1]
            assert not ended, f"ended with {self.poll()} before {pattern!r}:\n{self.log()}"
            return None

        try:
            match: re.Match[str] = wait_until(found, f"{pattern!r} in the log", timeout_s)
        except LateError as e:
            raise LateError(f"{e}:\n{self.log()}") from None
        return match

    def wait_serving(self, timeout_s: float = START_TIMEOUT_S, times: int = 1) -> set[int]:
        """Return when it serves, for the `times`-th time: its partitions."""
        match = self.wait_log(r"serving partitions \[([\d, ]*)\]", timeout_s, times)
        return {int(p) for p in match[1].split(",") if p.strip()}

    @property
    def port(self) -> int:
        """Of its metrics and probes."""
        return int(self.wait_log(r"metrics and probes at http://[^:]+:(\d+)")[1])

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of its admin server."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()

    def metrics(self) -> dict[str, float]:
        """Samples by their text, such as `offerstream_events_total{outcome="applied",source="orders"}`."""
        lines = self.get("/metrics")[1].splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        }

    def metric(self, name: str) -> float:
        """One sample, 0 while there is none."""
        return self.metrics().get(name, 0)

    def outcomes(self) -> dict[str, int]:
        """Events by outcome, over all sources."""
        total: dict[str, int] = defaultdict(int)
        for name, value in self.metrics().items():
            if match := re.fullmatch(r'offerstream_events_total\{outcome="(\w+)",source="\w+"\}', name):
                total[match[1]] += int(value)
        return dict(total)
