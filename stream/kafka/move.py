"""A move: the state of an app to another one with its own topics and partition count. Nothing is lost, nothing doubled.

The old topics and rows stay as they are, but for the applied records, which are closed: that is the one moment from
which on the new app has the rows. Each step can be done again, so a move that was killed is called again.

1. Nobody works: no worker is in either group.
2. Open the producer with the move's transactional id: it fences another run, and what that one left open is ended.
3. The new app's topics, and in each of its changelog's partitions an applied record that says that it is being filled:
   a worker that is started too early refuses. Then fence the new partitions: a worker that took one over before
   that record was there can write nothing more.
4. Fence the old partitions, only then ask where their changelogs end: nothing is left open behind that.
5. Rows: the latest of each user to the partition of the key, the offsets in its fence forgotten, as they are those of
   other topics. Done again, they overwrite themselves.
6. Models and campaigns in force.
7. Close the old partitions, each with its own transactional id, if nobody has written to its changelog since 4. A
   worker that takes one over at the same time fences us or is fenced by us.
8. The new applied records, in one transaction. The budgets' purses are spread over them.
9. Events that no worker applied: to the new topics, in transactions that take the old applied record's positions along,
   so each goes over once, however often this is called. Producers may publish to the new topics at any time, and to
   the old ones until they have all changed: call it again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from stream.core.events import SOURCES
from stream.core.row import ROW_FORMAT, RowFormatError, pack, unpack
from stream.core.shares import count_held, respread
from stream.errors import PartitionError, SetupError
from stream.kafka import applied as applied_record
from stream.kafka.admin import check_topics, create_topics
from stream.kafka.applied import Applied, SourcePosition, SweepState
from stream.kafka.cluster import (
    CONTROL,
    INPUTS,
    admin_client,
    group_members,
    log_ranges,
    look,
    wrong_topics,
)
from stream.kafka.partitioner import partitions
from stream.kafka.producer import TransactionalProducer
from stream.kafka.producer import transactional_id as partition_id
from stream.kafka.spread import SpreadProducer
from stream.kafka.takeover import where_to_go_on
from stream.kafka.topics import Record, Topics, publish_control, read_control
from stream.metrics import Metrics
from stream.settings import PARTITIONS_MAX_PER_WORKER, Settings

SAY_EVERY_S = 2.0
_TAIL = 64
"""Offsets at a changelog's end among which its applied record is looked for first: it is the last of a commit."""

Say = Callable[[str], None]


class Moved(NamedTuple):
    """What was done, or, in a dry run, would be."""

    rows: int
    """0 where they had been moved before."""
    events: int
    """That no worker had applied."""


def transactional_id(to: Settings) -> str:
    """One for all runs that fill an app: the later fences the earlier."""
    return f"{to.app_id}-repartition"


def move(old: Settings, to: Settings, say: Say, *, dry_run: bool = False) -> Moved:
    """Move the state of the app `old` to the app `to`; see the module's text.

    Args:
        old: app, topics and partition count as they are.
        to: as they are to be; differs in app id, topic prefix and partition count alone.
        say: told of progress, a line at a time.
        dry_run: look, and write nothing.

    Raises:
        SetupError: something is not as it has to be; the message says what to do.
        PartitionError: a partition cannot be moved as it is.
        DeliveryError: a record was not taken; call it again.
    """
    with Topics(old.bootstrap) as topics:
        return _Move(old, to, topics, say).run(dry_run=dry_run)


class _Move:
    """One run."""

    def __init__(self, old: Settings, to: Settings, topics: Topics, say: Say) -> None:
        self._old, self._to, self._topics = old, to, topics
        self._say = say
        self._said_s = time.monotonic()
        self._admin = admin_client(old.bootstrap)

    def run(self, *, dry_run: bool) -> Moved:
        old, to = self._old, self._to
        # 1.
        self._topic_ids = look(old, self._admin).topic_ids
        moved_to = [record.moved_to if record else "" for record in self._latest_applied(old)]
        if others := set(moved_to) - {"", to.app_id}:
            raise SetupError(f"the app {old.app_id} was moved to {others.pop()} before")
        if not all(moved_to):
            self._check_idle(old)
        if dry_run:
            return self._estimate()
        # 2.
        with SpreadProducer(to, transactional_id(to)) as producer:
            # 3.
            filling = self._prepare(producer)
            n_rows = self._move_rows(producer) if filling else 0
        # 9.
        return Moved(n_rows, self._forward())

    def _move_rows(self, producer: SpreadProducer) -> int:
        old, to = self._old, self._to
        # 4.
        _fence(old)
        places = [(old.changelog, p) for p in range(old.partitions)]
        ends = {place: end for place, (_, end) in log_ranges(self._admin, places).items()}
        applied = self._where_it_stands(range(old.partitions))
        # 5.
        held: dict[str, NDArray[np.int64]] = {}
        n_rows = 0
        for p, record in enumerate(applied):
            for users, packed, at in self._rows(p, ends[old.changelog, p], record, held):
                with producer.transaction():
                    for q in np.unique(at).tolist():
                        mine = np.flatnonzero(at == q).tolist()
                        producer.send(to.changelog, q, [users[i] for i in mine], [packed[i] for i in mine])
                n_rows += len(users)
                self._progress(f"partition {p + 1} of {old.partitions}: {n_rows:,} rows copied")
        # 6.
        for name in CONTROL:
            in_force = read_control(old.bootstrap, old.topic(name))
            publish_control(to.bootstrap, to.topic(name), {key: r.value for key, r in in_force.items()})
        # 7.
        self._check_idle(old)
        for p, record in enumerate(applied):
            if not record.moved_to:
                self._close(p, msgspec.structs.replace(record, moved_to=to.app_id), ends[old.changelog, p])
        # 8.
        self._open(producer, applied, {key: sums.tolist() for key, sums in held.items()})
        self._say(f"{n_rows:,} rows moved: workers of {to.app_id} can be started, those of {old.app_id} no more")
        return n_rows

    # --- 1. to 4.

    def _check_idle(self, settings: Settings) -> None:
        """No worker is in the app's group."""
        members = group_members(self._admin, settings.app_id)
        if members:
            raise SetupError(
                f"workers of the app {settings.app_id} are running: {', '.join(members)}. Stop all of them first. (One "
                "with OFFERSTREAM_INSTANCE_ID counts until its session ends, OFFERSTREAM_SESSION_TIMEOUT_MS after it.)"
            )

    def _prepare(self, producer: SpreadProducer) -> bool:
        """Make the new app ready to be filled; False: it was filled before."""
        to, name = self._to, self._old.app_id
        made = create_topics(to)
        if made:
            self._say(f"{len(made)} topics made: {', '.join(made)}")
        if problems := check_topics(to):
            raise wrong_topics(problems)
        found = self._latest_applied(to)
        if all(record and not record.filled_from for record in found):
            if all(record and record.moved_to == to.app_id for record in self._latest_applied(self._old)):
                return False
            raise SetupError(f"the app {to.app_id} has rows of its own: choose another --to-app-id")
        self._check_idle(to)
        if not all(record and record.filled_from == name for record in found):
            ranges = log_ranges(self._admin, [(to.changelog, q) for q in range(to.partitions)])
            if any(first < end for first, end in ranges.values()):
                raise SetupError(f"{to.changelog} holds something else: choose another --to-app-id")
            mark = applied_record.encode(Applied(ROW_FORMAT, to.partitions, 0, {}, filled_from=name))
            with producer.transaction():
                for q in range(to.partitions):
                    producer.send(to.changelog, q, [applied_record.KEY], [mark])
        _fence(to)
        if not all(record and record.filled_from == name for record in self._latest_applied(to)):
            raise SetupError(f"a worker of the app {to.app_id} was started meanwhile: choose another --to-app-id")
        return True

    def _latest_applied(self, settings: Settings, numbers: Sequence[int] | None = None) -> list[Applied | None]:
        """The applied record of each partition, or those of `numbers`, read from their changelogs' ends backwards."""
        places = [(settings.changelog, p) for p in (range(settings.partitions) if numbers is None else numbers)]
        ranges = log_ranges(self._admin, places)
        found: dict[tuple[str, int], Applied] = {}
        tail = _TAIL
        left = {place for place in places if ranges[place][0] < ranges[place][1]}
        while left:
            since = {place: max(ranges[place][0], ranges[place][1] - tail) for place in left}
            for place, records in self._topics.read(left, {place: ranges[place][1] for place in left}, since):
                for record in records:
                    if record.key == applied_record.KEY:
                        found[place] = applied_record.decode(record.value or b"")
            left = {place for place in left - found.keys() if since[place] > ranges[place][0]}
            tail *= 32
        return [found.get(place) for place in places]

    def _where_it_stands(self, numbers: Sequence[int]) -> list[Applied]:
        """Old applied records, held against the sources as a worker would.

        Raises:
            SourceLostError: see `where_to_go_on`.
        """
        old = self._old
        logs = log_ranges(self._admin, [(old.topic(name), p) for name in INPUTS for p in numbers])
        ids = {name: self._topic_ids[old.topic(name)] for name in INPUTS}
        stands = []
        for p, found in zip(numbers, self._latest_applied(old, numbers), strict=True):
            record = found or Applied(ROW_FORMAT, old.partitions, 0, {})
            unmoved = msgspec.structs.replace(record, moved_to="")
            of_sources = {old.topic(name): logs[old.topic(name), p] for name in INPUTS}
            position = where_to_go_on(unmoved, old, p, ids, of_sources, Metrics(CollectorRegistry()))
            sources = {name: SourcePosition(ids[name], position.read[name]) for name in INPUTS}
            stands.append(msgspec.structs.replace(record, sources=sources))
        return stands

    # --- 5.

    def _rows(
        self, p: int, end: int, applied: Applied, held: dict[str, NDArray[np.int64]]
    ) -> Iterator[tuple[list[bytes], list[bytes], NDArray[np.int64]]]:
        """The latest row of each user of a partition, fit for another: users, packed rows and where they go, in chunks.

        The changelog is read twice: first which record of each user is the last, then those.
        """
        n = self._to.partitions
        last = self._last(p, end)
        limit = np.array([applied.sources[source].next_offset for source in SOURCES])
        for records in self._changelog(p, end):
            latest = [r for r in records if last.get(r.key or b"") == r.offset]
            if not latest:
                continue
            users = [r.key or b"" for r in latest]
            try:
                rows = unpack([r.value or b"" for r in latest]).copy()
            except RowFormatError as error:
                raise PartitionError(f"{self._old.changelog}[{p}] offset {latest[0].offset}: {error}") from error
            if (rows["fence"][:, : len(SOURCES)] > limit).any():
                raise PartitionError(
                    f"{self._old.changelog}[{p}]: a worker was killed in the middle of a commit. Start one with "
                    "the old settings once more, stop it in order, and call this again"
                )
            rows["fence"] = 0
            at = partitions(users, n)
            count_held(held, rows, at, n)
            yield users, pack(rows), at

    def _last(self, p: int, end: int) -> dict[bytes, int]:
        """Offset of each user's latest row."""
        last: dict[bytes, int] = {}
        for records in self._changelog(p, end):
            for record in records:
                if record.value is None:
                    last.pop(record.key or b"", None)
                else:
                    last[record.key or b""] = record.offset
        last.pop(applied_record.KEY, None)
        return last

    def _changelog(self, p: int, end: int) -> Iterator[list[Record]]:
        place = self._old.changelog, p
        for _, records in self._topics.read([place], {place: end}):
            yield [record for record in records if record.offset < end]

    # --- 7. and 8.

    def _close(self, p: int, record: Applied, end: int) -> None:
        """The old partition's last word, if nobody has written since."""
        old = self._old
        producer = TransactionalProducer(old, p)
        try:
            producer.initialise(lambda: True)
            if log_ranges(self._admin, [(old.changelog, p)])[old.changelog, p][1] != end:
                raise SetupError(f"a worker of {old.app_id} wrote to partition {p} meanwhile: stop it, call this again")
            producer.begin()
            producer.commit(old.changelog, applied_record.KEY, applied_record.encode(record))
        finally:
            producer.close()

    def _open(self, producer: SpreadProducer, applied: list[Applied], held: dict[str, list[int]]) -> None:
        """The new partitions' first word."""
        to = self._to
        ids = look(to, self._admin).topic_ids
        firsts = log_ranges(self._admin, [(to.topic(name), q) for name in INPUTS for q in range(to.partitions)])
        # The earliest: what fell due since is looked at again, and who was offered something since is left out then.
        sweep = SweepState(swept_ms=min(record.sweep.swept_ms for record in applied))
        budgets = respread([record.budgets for record in applied], held, to.partitions)
        with producer.transaction():
            for q in range(to.partitions):
                topics = {name: to.topic(name) for name in INPUTS}
                sources = {name: SourcePosition(ids[topic], firsts[topic, q][0]) for name, topic in topics.items()}
                record = Applied(ROW_FORMAT, to.partitions, 0, sources, budgets=budgets[q], sweep=sweep)
                producer.send(to.changelog, q, [applied_record.KEY], [applied_record.encode(record)])

    # --- 9.

    def _forward(self) -> int:
        """Send over what no worker has applied, partition by partition; how many events there were."""
        n = 0
        for p, record in enumerate(self._where_it_stands(range(self._old.partitions))):
            if next(self._waiting(p, record), None) is not None:
                n += self._forward_partition(p, n)
        return n

    def _forward_partition(self, p: int, n_before: int) -> int:
        """As the partition's owner: what an earlier run left open has ended then, and only then is looked."""
        old, to = self._old, self._to
        n = 0
        with SpreadProducer(old, partition_id(old, p)) as producer:
            (record,) = self._where_it_stands([p])
            for source, events in self._waiting(p, record):
                to_partition = partitions([event.key or b"" for event in events], to.partitions).tolist()
                position = SourcePosition(record.sources[source].topic_id, events[-1].offset + 1)
                record = msgspec.structs.replace(record, sources=record.sources | {source: position})
                with producer.transaction():
                    for event, q in zip(events, to_partition, strict=True):
                        producer.send_as_it_is(to.topic(source), q, event)
                    producer.send(old.changelog, p, [applied_record.KEY], [applied_record.encode(record)])
                n += len(events)
                self._progress(f"partition {p + 1} of {old.partitions}: {n_before + n:,} events sent over")
        return n

    def _waiting(self, p: int, record: Applied) -> Iterator[tuple[str, list[Record]]]:
        """Events of a partition behind the applied record: chunks of one source each."""
        names = {self._old.topic(name): name for name in INPUTS}
        since = {(topic, p): record.sources[name].next_offset for topic, name in names.items()}
        for (topic, _), records in self._topics.read(since, since=since):
            yield names[topic], records

    def _estimate(self) -> Moved:
        ranges = log_ranges(self._admin, [(self._old.changelog, p) for p in range(self._old.partitions)])
        n_rows = n_events = 0
        for p, record in enumerate(self._where_it_stands(range(self._old.partitions))):
            if not record.moved_to:
                n_rows += len(self._last(p, ranges[self._old.changelog, p][1]))
            n_events += sum(len(records) for _, records in self._waiting(p, record))
        return Moved(n_rows, n_events)

    def _progress(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s > SAY_EVERY_S:
            self._said_s = now_s
            self._say(text)


def _fence(settings: Settings) -> None:
    """Whoever owned a partition of the app can write nothing more; what they left open has ended."""

    def fence(number: int) -> None:
        producer = TransactionalProducer(settings, number)
        try:
            producer.initialise(lambda: True)
        finally:
            producer.close()

    with ThreadPoolExecutor(PARTITIONS_MAX_PER_WORKER) as threads:
        list(threads.map(fence, range(settings.partitions)))
