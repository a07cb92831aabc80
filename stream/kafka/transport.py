"""Faust's transport, replaced: an agent gets one batch of one partition instead of one event.

Registered as a Faust transport (entry point `faust.transports`, URL scheme `offerstream://`), built on Faust's aiokafka
driver. Three things differ from it:

- `getmany` bundles what one poll brought into batches, one partition each, over all source topics, bounded in rows and
  bytes.
- Where to read on, and what may be committed, the partitions say (`PartitionsT`). Faust's own acks decide nothing: it
  acks what it skips.
- Sources are read read_committed, and no offset is ever reset silently: a position outside the log is an error.

Between two batches no record may be lost. One that was taken from the fetcher and not handed on is read again, because
every resumption seeks to the partitions' own positions first. Faust may also drop a batch in the midst of others: it
gives one up that waits while the flow stops, and goes on with the next if the flow is back by then. So a batch says
where it begins, and a partition applies only what continues where its rows stand.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple, Protocol

import aiokafka
from aiokafka.consumer import fetcher
from aiokafka.errors import NoOffsetForPartitionError
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from stream.kafka.decode import Record

FETCH_WAIT_MS = 20
"""How long a broker may hold a fetch that finds nothing."""
GATHER_FROM = 8
"""Records of a poll from which on the brokers gather records for the next fetch.

aiokafka asks for no more of a partition before a poll took what it has. Answered at once, a fetch brings the few that
came since the one before, old when they are polled; and a batch costs milliseconds however few they are.
"""
GATHER_BYTES = 64 << 10
GATHER_MS = 40
"""How long a broker may hold a fetch that finds less."""


class Fetched(NamedTuple):
    """What one poll brought of one topic's partition."""

    begin: int
    """Where the fetcher stood before. The first record may lie behind it: markers of transactions have offsets too."""
    end: int
    """Where it stood afterwards."""
    records: Sequence[Record]
    """In offset order, at least one."""


class EventBatch(NamedTuple):
    """What one poll brought of one partition."""

    partition: int
    records: dict[str, Sequence[Record]]
    """By source (`SOURCES`), in offset order."""
    more_waits: bool
    """Whether the broker holds further records for this partition: then commits may wait for company."""
    spans: Mapping[str, tuple[int, int]]
    """By source: (begin, end). Between these offsets there is nothing but `records`."""
    life: int = 0
    """Which take-over of the partition it was fetched for."""

    @property
    def n_records(self) -> int:
        """Records of all sources."""
        return sum(map(len, self.records.values()))


class PartitionsT(Protocol):
    """What the transport asks the partitions (implemented by `stream.kafka.partitions.Partitions`)."""

    batch_rows: int
    batch_bytes: int
    source_of: Mapping[str, str]
    """Full topic name to source."""

    def positions(self) -> Mapping[TP, int]:
        """Next offset to read of every source partition that is open here."""

    def lives(self) -> Mapping[int, int]:
        """By number of each partition that is open here: which take-over of it this is."""

    def committable(self) -> Mapping[TP, int]:
        """Next offset to process after what is safely stored, of every source partition that is open here."""

    async def drain(self) -> None:
        """Finish what is in work, within bounds."""


def bundle(
    polled: Mapping[TP, Fetched],
    source_of: Mapping[str, str],
    rows_max: int,
    bytes_max: int,
    more_waits: Iterable[int] = (),
) -> Iterator[EventBatch]:
    """Make batches of one poll: each of one partition, all its topics together, in offset order, within bounds.

    Partitions take turns, so that a long one does not hold the others up. A record larger than `bytes_max` makes a
    batch of its own.
    """
    waiting = set(more_waits)
    by_partition: dict[int, dict[str, Fetched]] = defaultdict(dict)
    for tp in sorted(polled):
        by_partition[tp.partition][source_of[tp.topic]] = polled[tp]
    pieces = {
        p: _cut({source: fetched.records for source, fetched in found.items()}, rows_max, bytes_max)
        for p, found in by_partition.items()
    }
    handed_on: dict[tuple[int, str], int] = defaultdict(int)
    while pieces:
        for partition in list(pieces):
            piece = pieces[partition].pop(0)
            last = not pieces[partition]
            if last:
                del pieces[partition]
            spans = {}
            for source, found in piece.items():
                n = handed_on[partition, source]
                spans[source] = _span(by_partition[partition][source], n, n + len(found))
                handed_on[partition, source] += len(found)
            yield EventBatch(partition, piece, not last or partition in waiting, spans)


def _span(fetched: Fetched, i: int, j: int) -> tuple[int, int]:
    """Of the records i to j: spans of all pieces lie end to end, whatever offsets there are between records."""
    begin, end, records = fetched
    return records[i].offset if i else begin, records[j].offset if j < len(records) else end


def _cut(found: Mapping[str, Sequence[Record]], rows_max: int, bytes_max: int) -> list[dict[str, Sequence[Record]]]:
    pieces: list[dict[str, Sequence[Record]]] = [{}]
    rows_left, bytes_left = rows_max, bytes_max
    for source, records in found.items():
        bytes_to = [0, *accumulate([len(r.value or b"") for r in records])]  # of the records before each
        start = 0
        while start < len(records):
            fit = bisect_right(bytes_to, bytes_to[start] + bytes_left, start + 1) - 1
            end = min(fit, start + rows_left)
            if end == start:
                if pieces[-1]:
                    pieces.append({})
                    rows_left, bytes_left = rows_max, bytes_max
                    continue
                end = start + 1
            pieces[-1][source] = records[start:end]
            rows_left -= end - start
            bytes_left -= bytes_to[end] - bytes_to[start]
            start = end
    return pieces


_handed_out: dict[TopicPartition, "_Records"] = {}
"""Whose records a poll brought: written and read in one turn of the consumer's loop."""


class _Records(fetcher.PartitionRecords):
    """Hands out records as they were parsed: wrapping each in a `ConsumerRecord` costs more than parsing it."""

    began: int
    """Where it stood when it handed out what it handed out last."""

    def __iter__(self) -> Iterator[Record]:
        self.began = self.next_fetch_offset
        _handed_out[self._tp] = self
        found: Iterator[Record] = self._records_iterator
        return found

    def _consumer_record(self, tp: TopicPartition, record: Record) -> Record:
        del tp
        return record


def _pace(of: fetcher.Fetcher, n_polled: int) -> None:
    """Have the next fetch gather, if polls bring more than a few."""
    gathers = n_polled >= GATHER_FROM
    of._fetch_min_bytes = GATHER_BYTES if gathers else 1  # noqa: SLF001
    of._fetch_max_wait_ms = GATHER_MS if gathers else FETCH_WAIT_MS  # noqa: SLF001


fetcher.PartitionRecords = _Records  # the fetcher has no other place to say so


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread with a stricter consumer."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # The driver takes neither as a setting. Both are read when the consumer starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        consumer._auto_offset_reset = "none"  # noqa: SLF001
        # One request a broker is under way at a time. While one waits for news of partitions that have none, those that
        # have been drained meanwhile are not asked for.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 Faust's own
        max_records: int | None = None,
    ) -> dict[TP, Fetched]:
        """As the driver does; then those who were served go to the back, so that no partition waits for a long one.

        The set that comes in is alive: a rebalance empties it while the poll waits, and an empty one means all of them
        to aiokafka, those included that have no position before we seek.
        """
        wanted = frozenset(active_partitions)
        if not wanted:
            return {}
        try:
            found = await super()._fetch_records(consumer, wanted, timeout, max_records)
        except NoOffsetForPartitionError:  # assigned anew, not sought yet: what resumes the flow seeks
            return {}
        _pace(consumer._fetcher, sum(map(len, found.values())))  # noqa: SLF001
        prefetched = consumer._fetcher._records  # noqa: SLF001
        for tp in found:
            if tp in prefetched:
                prefetched.move_to_end(tp)
        of = {tp: _handed_out.pop(tp) for tp in found}  # else it keeps their buffers
        return {tp: Fetched(of[tp].began, of[tp].next_fetch_offset, records) for tp, records in found.items()}

    def waits(self, tp: TP) -> bool:
        """Whether the log of `tp` goes on behind what was read, as far as the last fetch knew."""
        subscription = self._ensure_consumer()._subscription.subscription  # noqa: SLF001
        state = subscription.assignment.state_value(TopicPartition(*tp))
        known = state is not None and state.has_valid_position and state.lso is not None
        return known and state.position < state.lso


class Consumer(driver.Consumer):
    """Hands on batches; asks the partitions where to read and what to commit."""

    _thread: ConsumerThread

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def partitions(self) -> PartitionsT:
        """Set on the app by the composition root."""
        found: PartitionsT = self.app.partitions
        return found

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 Faust's own
        """Batches of the next poll, with the offset of their last record.

        A poll that ends while the flow is stopped, or in another generation, is dropped whole: what resumes the flow
        seeks. What was fetched before a partition was taken over anew is dropped too, and read again from where its
        rows stand now.
        """
        partitions = self.partitions
        lives = dict(partitions.lives())
        records, _ = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if not records or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        wanted = {tp: found for tp, found in records.items() if tp.topic in partitions.source_of}
        # The set of active partitions may have changed during the poll: what was paused meanwhile is read again later.
        now = partitions.lives()
        anew = {p for p, life in now.items() if lives.get(p) != life}
        gone = lives.keys() - now.keys()
        taken = {tp for tp in wanted.keys() & self._active_partitions if tp.partition not in anew | gone}
        if len(taken) < len(wanted):
            stand = {tp: offset for tp, offset in partitions.positions().items() if tp.partition in anew}
            await self._seek_to({tp: stand.get(tp, f.begin) for tp, f in wanted.items() if tp not in taken})
        waiting = {tp.partition for tp in taken if self._thread.waits(tp)}
        topic_of = {partitions.source_of[tp.topic]: tp.topic for tp in taken}
        batches = bundle(
            {tp: wanted[tp] for tp in taken},
            partitions.source_of,
            partitions.batch_rows,
            partitions.batch_bytes,
            waiting,
        )
        for batch in batches:
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            source, found = next(iter(batch.records.items()))
            tp = TP(topic_of[source], batch.partition)
            last = found[-1]
            of_life = batch._replace(life=lives.get(batch.partition, 0))
            yield (
                tp,
                ConsumerMessage(
                    tp.topic,
                    tp.partition,
                    last.offset,
                    last.timestamp / 1000,
                    0,
                    [],
                    None,
                    of_life,
                    None,
                    0,
                    0,
                    tp,
                    generation_id=generation,
                ),
            )

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: handing on a batch waits until there is room, and that is bound enough.

        Faust would leave the partition out of the polls that follow; one of those then waits a second for partitions
        that have nothing, while batches of this one could be worked on.
        """

    async def perform_seek(self) -> None:
        """Seek every source partition to where its rows stand."""
        assigned = self.assignment()
        await self._seek_to({tp: offset for tp, offset in self.partitions.positions().items() if tp in assigned})

    async def perform_seek_of(self, partition: int) -> None:
        """Seek the sources of one partition to where its rows stand."""
        assigned = self.assignment()
        stand = self.partitions.positions()
        await self._seek_to({tp: at for tp, at in stand.items() if tp.partition == partition and tp in assigned})

    async def _seek_to(self, positions: Mapping[TP, int]) -> None:
        if positions:
            await self._thread.seek_wait(positions)
        for tp, offset in positions.items():
            # The offset of the last message handed on: anything from the position on is new.
            self._read_offset[tp] = offset or None

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """What the partitions say, whatever Faust believes is acked."""
        del tps
        return {tp: offset for tp, offset in self.partitions.committable().items() if self._should_commit(tp, offset)}

    async def wait_empty(self) -> None:
        """Finish what is in work, bounded, and commit: called when partitions are revoked and when the worker stops."""
        await self.partitions.drain()
        await self.commit_and_end_transactions()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: progress is watched by `stream.health`; the driver's check only logs, and looks at acks."""


class Transport(driver.Transport):
    """The driver's transport with our consumer."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    driver_version = f"offerstream on aiokafka={aiokafka.__version__}"
