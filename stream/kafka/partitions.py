"""All partitions of one worker: taken over and dropped as the group assigns them, asked by the transport."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from confluent_kafka.admin import AdminClient
from faust.types import TP

from stream.core.events import SOURCES
from stream.errors import SetupError
from stream.kafka.cluster import Cluster, log_ranges, look
from stream.kafka.partition import Partition, Shared
from stream.kafka.takeover import Range
from stream.settings import PARTITIONS_MAX_PER_WORKER, client_id

logger = logging.getLogger(__name__)


class Partitions:
    """Partitions by number. Belongs to the event loop."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._settings = settings = shared.settings
        self._open: dict[int, Partition] = {}
        self._admin = AdminClient({"bootstrap.servers": settings.bootstrap, "client.id": client_id(settings)})
        self.batch_rows = settings.batch_rows
        self.batch_bytes = settings.batch_bytes
        self.source_of: Mapping[str, str] = {settings.topic(source): source for source in SOURCES}

    def __getitem__(self, number: int) -> Partition:
        return self._open[number]

    def __len__(self) -> int:
        return len(self._open)

    def positions(self) -> dict[TP, int]:
        """Next offset to read of every source partition that is open here."""
        return {
            TP(topic, number): partition.read[source]
            for number, partition in self._open.items()
            for topic, source in self.source_of.items()
        }

    def committable(self) -> dict[TP, int]:
        """Next offset after what is stored, of every source partition that is open here."""
        return {
            TP(topic, number): partition.committed[source]
            for number, partition in self._open.items()
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
            Whether all of `wanted` is open.

        Raises:
            OfferstreamError: a partition cannot be taken over.
        """
        settings = self._settings
        if len(wanted) > PARTITIONS_MAX_PER_WORKER:
            raise SetupError(
                f"{len(wanted)} partitions for one worker, at most {PARTITIONS_MAX_PER_WORKER}: start more workers"
            )
        for number in sorted(set(self._open) - wanted):
            await self._drop(number)
        if not wanted:
            return True
        loop = asyncio.get_running_loop()
        cluster = await loop.run_in_executor(None, look, settings, self._admin)
        topics = [settings.topic(source) for source in SOURCES] + [settings.changelog]
        logs = await loop.run_in_executor(
            None, log_ranges, self._admin, [(t, p) for t in topics for p in sorted(wanted)]
        )
        for number in sorted(set(self._open)):
            if self._open[number].changelog_end != logs[settings.changelog, number][1]:
                logger.warning("partition %d: its changelog has grown meanwhile, taking it over anew", number)
                await self._drop(number)
        new = sorted(wanted - set(self._open))
        self._shared.metrics.restoring.set(len(new))
        try:
            async with asyncio.TaskGroup() as group:
                for number in new:
                    group.create_task(self._take_over_one(number, cluster, logs, still_ours))
        except* Exception as group:  # noqa: BLE001 the first one speaks for all
            raise group.exceptions[0] from None
        finally:
            self._shared.metrics.restoring.set(0)
        return wanted <= set(self._open)

    async def _take_over_one(
        self, number: int, cluster: Cluster, logs: dict[tuple[str, int], Range], still_ours: Callable[[], bool]
    ) -> None:
        if not still_ours():
            return
        partition = Partition(number, self._shared)
        await partition.take_over(
            cluster,
            {source: logs[topic, number] for topic, source in self.source_of.items()},
            logs[self._settings.changelog, number],
        )
        self._open[number] = partition
        self._shared.metrics.restoring.dec()

    async def _drop(self, number: int) -> None:
        await self._open.pop(number).drop()
        logger.info("partition %d: let go", number)

    async def drain(self) -> None:
        """Commit what is in work, within `drain_timeout_ms`; what does not manage is dropped uncommitted."""
        timeout_s = self._settings.drain_timeout_ms / 1000
        drains = {asyncio.create_task(p.drain()): number for number, p in self._open.items()}
        if not drains:
            return
        done, late = await asyncio.wait(drains, timeout=timeout_s)
        for task in late:
            task.cancel()
            logger.error("partition %d: not drained within %.0f s, abandoned", drains[task], timeout_s)
            await self._open.pop(drains[task]).drop(keep_store=False)
        for task in done:
            error = task.exception()
            if error is not None:
                self._shared.fatal(error)

    def rows_stored(self) -> int:
        """Estimate of all rows in the local stores."""
        return sum(partition.rows_stored() for partition in self._open.values())

    def rows_hot(self) -> int:
        """Rows in memory."""
        return sum(partition.rows_hot() for partition in self._open.values())

    async def close(self) -> None:
        """Let go of all."""
        for number in sorted(self._open):
            await self._drop(number)
