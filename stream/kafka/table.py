"""Faust's table manager, replaced: a rebalance restores in bulk, partition by partition, with readers of our own.

Faust still believes in a table with a changelog topic: that is how its assignor puts the changelog's partitions beside
their source partitions. The record-by-record recovery through the app's one consumer is gone; the contract towards the
app is kept.
"""

import asyncio
import logging
from typing import Any

from faust.tables.manager import TableManager
from faust.types import TP
from mode import Service

logger = logging.getLogger(__name__)


class TakeOver(Service):
    """What Faust calls recovery: from an assignment to partitions that are open and a flow that is on.

    A rebalance that comes during a take-over cancels it by its generation.
    """

    def __init__(self, app: Any, tables: "PartitionManager", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.app = app
        self.tables = tables
        self.completed = asyncio.Event()
        self.in_recovery = False
        self._assigned = asyncio.Event()
        self._generation = 0

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Partitions are revoked. They are dropped, or kept, when the next assignment is known."""

    def hold(self, partition: int) -> None:
        """Let no events of a partition come."""
        self.app.consumer.pause_partitions(self._sources(partition))

    async def go_on(self, partition: int) -> None:
        """Let them come again, from where its rows stand. In a rebalance that is for `_resume` to do."""
        consumer = self.app.consumer
        if consumer.flow_active:
            await consumer.perform_seek_of(partition)
            consumer.resume_partitions(self._sources(partition))

    def _sources(self, partition: int) -> set[TP]:
        return {
            tp
            for tp in self.app.consumer.assignment()
            if tp.partition == partition and tp.topic not in self.tables.changelog_topics
        }

    def flush_buffers(self) -> None:
        """Nothing is buffered."""

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """A new assignment."""
        del assigned, revoked, newly_assigned  # all tables have one changelog: the assignor knows it
        self._generation = generation_id
        self.completed.clear()
        self._assigned.set()

    @Service.task
    async def _take_over(self) -> None:
        while not self.should_stop:
            if await self.wait_for_stopped(self._assigned):
                return
            self._assigned.clear()
            generation = self._generation
            self.in_recovery = self.app.in_recovery = True
            wanted, standbys = (
                {tp.partition for tp in tps if tp.topic in self.tables.changelog_topics}
                for tps in (self.app.assignor.assigned_actives(), self.app.assignor.assigned_standbys())
            )
            try:
                complete = await self.app.partitions.take_over(
                    wanted, lambda g=generation: g == self.app.consumer_generation_id
                )
            except Exception as e:  # noqa: BLE001 a partition that cannot be taken over ends the process, loudly
                self.app.fatal(e)
                return
            self.in_recovery = self.app.in_recovery = False
            if complete and generation == self.app.consumer_generation_id:
                await self._resume(generation)
                await self.app.partitions.stand_by(standbys)

    async def _resume(self, generation: int) -> None:
        """Let events flow, in the order in which Faust's own recovery does it.

        1. Signal.
        2. Source partitions may be fetched; changelogs never, our own reader has read them.
        3. Seek to the applied offsets, before anything is fetched.
        4. Flow on, fetcher on.
        5. Tell the app.
        """
        app, consumer = self.app, self.app.consumer
        # 1.
        await app.on_rebalance_complete.send()
        if app.consumer_generation_id != generation:
            return
        # 2.
        sources = {tp for tp in consumer.assignment() if tp.topic not in self.tables.changelog_topics}
        consumer.resume_partitions(sources)
        # 3.
        await consumer.perform_seek()
        # 4.
        self.completed.set()
        app.flow_control.resume()
        consumer.resume_flow()
        await app._fetcher.maybe_start()  # noqa: SLF001 as Faust's own recovery does
        # 5.
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()
        logger.info("serving partitions %s", sorted({tp.partition for tp in sources}))


class PartitionManager(TableManager):
    """The table manager with our take-over in the place of its recovery."""

    _take_over: TakeOver | None = None

    @property
    def recovery(self) -> TakeOver:
        """The service that Faust calls recovery."""
        if self._take_over is None:
            self._take_over = TakeOver(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._take_over

    async def on_start(self) -> None:
        """Start without the base class's second of sleep: tables are declared before the app starts."""
        await self._update_channels()
        await self.recovery.start()

    async def on_stop(self) -> None:
        """Stop fetching, then let go of the partitions."""
        await self.app._fetcher.stop()  # noqa: SLF001 as the base class does
        if self._take_over is not None:
            await self._take_over.stop()
        await self.app.partitions.close()
