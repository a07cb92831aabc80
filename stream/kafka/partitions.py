"""All partitions of one worker: taken over and dropped as the group assigns them, asked by the transport."""

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from faust.types import TP

from stream.errors import (
    BrokerSilentError,
    FencedError,
    HangingError,
    LateCommitError,
    PartitionError,
    SetupError,
    TransactionError,
)
from stream.kafka.cluster import INPUTS, Cluster, log_ranges, look
from stream.kafka.control import InForce
from stream.kafka.intake import passed_over
from stream.kafka.partition import Partition
from stream.kafka.shared import Shared
from stream.kafka.standby import Standbys
from stream.kafka.sweep import SWEEP_PAUSE_S
from stream.kafka.transport import EventBatch
from stream.settings import PARTITIONS_MAX_PER_WORKER, client_id

logger = logging.getLogger(__name__)

FAILURES_PER_MINUTE_MAX = 10
"""Transactions of one partition that may fail in a minute: with more, something is wrong that does not pass.

An outage fails one of each partition, and costs no process however many there are.
"""

_PAUSE_S = 1.0
"""Between two attempts at brokers that do not answer."""


T = TypeVar("T")


class Flow(NamedTuple):
    """How the events of one partition are held back and let go on while it is taken over anew."""

    hold: Callable[[int], None]
    go_on: Callable[[int], Awaitable[None]]
    """Seeks to where the rows stand, then lets them flow."""


class Partitions:
    """Partitions by number. Belongs to the event loop."""

    def __init__(self, shared: Shared, flow: Flow) -> None:
        self._shared = shared
        self._flow = flow
        self._lock = asyncio.Lock()
        """Held while partitions are taken over or dropped."""
        self._lives = 0
        self._drained = False
        """Between a drain and what follows nothing is swept: partitions may be somebody else's already."""
        self._still_ours: Callable[[], bool] = lambda: False
        self._committed: dict[tuple[int, int], int] = {}
        """By number and life: where the changelog's end was known to be at the last look."""
        self._failures: dict[int, deque[float]] = defaultdict(deque)
        """By number: when its transactions failed."""
        self._renewals: set[asyncio.Task[None]] = set()
        self._settings = settings = shared.settings
        self._open: dict[int, Partition] = {}
        self._admin = shared.outside.admin(settings.bootstrap, client_id(settings))
        self._standbys = Standbys(settings, self._admin, shared.outside, shared.metrics, shared.fatal)
        self.batch_rows = settings.batch_rows
        self.batch_bytes = settings.batch_bytes
        self.source_of: Mapping[str, str] = {settings.topic(name): name for name in INPUTS}

    def __getitem__(self, number: int) -> Partition:
        return self._open[number]

    async def apply(self, batch: EventBatch, in_force: InForce) -> None:
        """Apply a batch, if its partition is still here: it may have waited while the partition was let go of.

        One that does not continue where the rows stand is not applied: those before it were lost on their way here, so
        the partition's events are read again.
        """
        partition = self._open.get(batch.partition)
        if partition is None or partition.failed or batch.life != partition.life:
            return
        if gaps := passed_over(batch, partition.read):
            logger.warning("partition %d: offsets %s were passed over, reading them again", batch.partition, gaps)
            self._shared.metrics.passed_over.inc()
            await self._flow.go_on(batch.partition)
            return
        await partition.apply(batch, in_force)

    def __len__(self) -> int:
        return len(self._open)

    def _sound(self) -> dict[int, Partition]:
        return {number: partition for number, partition in self._open.items() if not partition.failed}

    def lives(self) -> dict[int, int]:
        """By number of every partition that is open here: which take-over of it this is."""
        return {number: partition.life for number, partition in self._sound().items()}

    def positions(self) -> dict[TP, int]:
        """Next offset to read of every source partition that is open here."""
        return {
            TP(topic, number): partition.read[source]
            for number, partition in self._sound().items()
            for topic, source in self.source_of.items()
        }

    def committable(self) -> dict[TP, int]:
        """Next offset after what is stored, of every source partition that is open here."""
        return {
            TP(topic, number): partition.committed[source]
            for number, partition in self._sound().items()
            for topic, source in self.source_of.items()
        }

    async def take_over(self, wanted: set[int], still_ours: Callable[[], bool]) -> bool:
        """Own exactly `wanted`.

        A partition that stays keeps its rows in memory if nobody else wrote to its changelog meanwhile: its end is that
        of our last commit. Everything else starts over.

        Args:
            wanted: partition numbers.
            still_ours: False when the group has moved on: then nothing more is taken over.

        Returns:
            Whether all of `wanted` is open: False only when the group has moved on.

        Raises:
            OfferstreamError: a partition cannot be taken over.
        """
        if len(wanted) > PARTITIONS_MAX_PER_WORKER:
            raise SetupError(
                f"{len(wanted)} partitions for one worker, at most {PARTITIONS_MAX_PER_WORKER}: start more workers"
            )
        self._still_ours = still_ours
        async with self._lock:
            await self._take_over(wanted, still_ours)
            # One that stays may have failed meanwhile, with its last commit: nobody else would let events flow again.
            while not wanted <= set(self._sound()) and still_ours():
                await self._take_over(wanted, still_ours)
            self._drained = False
            return wanted <= set(self._sound())

    async def sweep(self, in_force: Callable[[], InForce]) -> None:
        """Bring the sweeps that are under way or due to their end, one partition after the other, with pauses."""
        for number in sorted(self._open):
            more = True
            while more:
                more = await self._sweep_turn(number, in_force())
                await asyncio.sleep(SWEEP_PAUSE_S if more else 0)

    async def _sweep_turn(self, number: int, in_force: InForce) -> bool:
        partition = None if self._drained else self._sound().get(number)
        return partition is not None and await partition.sweep(in_force)

    async def stand_by(self, wanted: set[int]) -> None:
        """Follow the changelogs of exactly `wanted`, which other workers own."""
        async with self._lock:
            await self._standbys.follow(wanted - set(self._open))

    async def _take_over(self, wanted: set[int], still_ours: Callable[[], bool]) -> None:
        await self._standbys.follow(self._standbys.numbers() - wanted)
        for number, partition in sorted(self._open.items()):
            if number not in wanted or partition.failed:
                await self._drop(partition)
        if not wanted:
            return
        cluster = await self._ask(look, self._settings, self._admin)
        changelog = self._settings.changelog
        staying = sorted(self._open.items())
        logs = await self._ask(log_ranges, self._admin, [(changelog, number) for number, _ in staying])
        for number, partition in staying:
            if partition.changelog_end != logs[changelog, number][1]:
                logger.warning(
                    "partition %d: its changelog does not end with our last commit, taking it over anew", number
                )
                await self._drop(partition)
        try:
            async with asyncio.TaskGroup() as group:
                for number in sorted(wanted - set(self._open)):
                    group.create_task(self._insist(number, cluster, still_ours))
        except* Exception as group:  # noqa: BLE001 the first one speaks for all
            raise group.exceptions[0] from None

    async def _ask(self, question: Callable[..., T], *args: object) -> T:
        """Put a question to the brokers until they answer, for as long as an outage may last."""
        loop = asyncio.get_running_loop()
        give_up_s = time.monotonic() + self._settings.delivery_timeout_ms / 1000
        while True:
            try:
                return await loop.run_in_executor(None, question, *args)
            except BrokerSilentError as e:
                if time.monotonic() > give_up_s:
                    raise
                logger.warning("%s; asking again", e)
            await asyncio.sleep(_PAUSE_S)

    async def _insist(self, number: int, cluster: Cluster, still_ours: Callable[[], bool]) -> None:
        """Take one over, again where a transaction fails or a leader is silent, for as long as an outage may last."""
        give_up_s = time.monotonic() + self._settings.delivery_timeout_ms / 1000
        while still_ours():
            try:
                await self._take_over_one(number, cluster, still_ours)
            except (TransactionError, BrokerSilentError) as e:
                if time.monotonic() > give_up_s:
                    raise
                if isinstance(e, TransactionError) and not self._count_failure(number, e):
                    return
                logger.warning("partition %d: %s; taking it over again", number, e)
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _take_over_one(self, number: int, cluster: Cluster, still_ours: Callable[[], bool]) -> None:
        self._lives += 1
        partition = Partition(number, self._shared, self._lives, self._on_failed)
        with self._shared.metrics.restoring.track_inprogress():
            if still_ours() and await partition.take_over(cluster, self._admin, still_ours):
                self._open[number] = partition

    async def _drop(self, partition: Partition, *, keep_store: bool = True) -> None:
        """Unless it is gone: a drain gives up partitions while others are handed round."""
        if self._open.get(partition.number) is partition:
            del self._open[partition.number]
            await partition.drop(keep_store=keep_store)
            logger.info("partition %d: let go", partition.number)

    # --- transactions that failed

    async def look(self) -> None:
        """Take anew each partition in whose changelog no reader sees what was committed before the last look.

        A marker is written within moments of its commit's acknowledgement, if at all; see `Partition.take_over`.
        """
        committed = self._committed
        self._committed = {(number, p.life): p.changelog_end for number, p in self._sound().items()}
        changelog = self._settings.changelog
        asked = [(changelog, number) for number, _ in self._committed]
        try:
            logs = await asyncio.get_running_loop().run_in_executor(None, log_ranges, self._admin, asked)
        except BrokerSilentError as e:
            logger.warning("%s; whether commits are seen is not known", e)
            self._committed = {}  # an answer after an outage may come before markers do
            return
        for number, partition in self._sound().items():
            end = committed.get((number, partition.life), 0)
            if (changelog, number) in logs and logs[changelog, number][1] < end:
                partition.fail(HangingError(f"{changelog}[{number}]: committed up to offset {end}, not seen yet"))

    def _on_failed(self, partition: Partition, error: TransactionError) -> None:
        """A zombie, a broker outage and a long stop look the same from here.

        So everything that was not committed is thrown away, and if the partition is still ours it is taken over again:
        a zombie writes nothing, and an outage costs no process.
        """
        logger.error("%s: a transaction failed; taking partition %d over anew", error, partition.number)
        self._flow.hold(partition.number)
        if self._count_failure(partition.number, error):
            renewal = asyncio.get_running_loop().create_task(self._renew(partition, error))
            self._renewals.add(renewal)
            renewal.add_done_callback(self._renewals.discard)

    def _count_failure(self, number: int, error: TransactionError) -> bool:
        """Whether it makes sense to go on. What needs a new epoch alone is no failure, however often it happens."""
        if isinstance(error, LateCommitError | HangingError):
            return True
        self._shared.metrics.transactions_failed.inc()
        now_s = time.monotonic()
        failures = self._failures[number]
        failures.append(now_s)
        while failures[0] < now_s - 60:
            failures.popleft()
        if len(failures) <= FAILURES_PER_MINUTE_MAX:
            return True
        why = f"partition {number}: {len(failures)} transactions failed within a minute, lately: {error}"
        self._shared.fatal(PartitionError(why))
        return False

    async def _renew(self, failed: Partition, error: TransactionError) -> None:
        """Take a partition over again.

        1. Who was fenced asks the group first: if it has moved on, the next heartbeat tells.
        2. Drop it, under the lock: a rebalance may have done that.
        3. Take it over, while it is ours.
        4. Seek and let events flow. What was fetched before carries the old life and is not applied.
        """
        number = failed.number
        try:
            # 1.
            if isinstance(error, FencedError):
                await asyncio.sleep(self._settings.heartbeat_interval_s + _PAUSE_S)
            async with self._lock:
                # 2.
                if self._open.get(number) is not failed:
                    return
                await self._drop(failed)
                # 3.
                await self._insist(number, await self._ask(look, self._settings, self._admin), self._still_ours)
            # 4.
            if number in self._open:
                await self._flow.go_on(number)
        except Exception as e:  # noqa: BLE001 whatever it is, the process must not go on with it
            self._shared.fatal(e)

    async def drain(self) -> None:
        """Commit what is in work, within `drain_timeout_ms`; what does not manage is dropped uncommitted.

        Unless a take-over came to its end before the time was up: what is open is its own from then on, and nobody else
        would take over again what is dropped here.
        """
        self._drained = True
        timeout_s = self._settings.drain_timeout_ms / 1000
        drains = {asyncio.create_task(partition.drain()): partition for partition in self._sound().values()}
        if not drains:
            return
        for task in drains:
            task.add_done_callback(self._on_drained)
        _, late = await asyncio.wait(drains, timeout=timeout_s)
        for task in late:
            if not self._drained:
                return
            task.cancel()
            logger.error("partition %d: not drained within %.0f s, abandoned", drains[task].number, timeout_s)
            await self._drop(drains[task], keep_store=False)

    def _on_drained(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._shared.fatal(error)

    def rows_stored(self) -> int:
        """Estimate of all rows in the local stores."""
        return sum(partition.rows_stored() for partition in self._open.values())

    def rows_hot(self) -> int:
        """Rows in memory."""
        return sum(partition.rows_hot() for partition in self._open.values())

    def odd(self) -> dict[str, int]:
        """What was told of offers under a budget and did not fit; see `stream.core.budget.Wallet.odd`."""
        return dict(sum((Counter(partition.wallet.odd()) for partition in self._open.values()), Counter[str]()))

    async def close(self) -> None:
        """Let go of all."""
        self._still_ours = lambda: False
        for renewal in self._renewals:
            renewal.cancel()
        async with self._lock:
            await self._standbys.close()
            for _, partition in sorted(self._open.items()):
                await self._drop(partition)
