"""A worker of a simulated group: the product's partitions, and around them what Faust and our transport do for them."""

import asyncio
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stream.errors import PartitionError
from stream.kafka.cluster import INPUTS
from stream.kafka.decode import Record
from stream.kafka.outside import Outside
from stream.kafka.partitions import Flow, Partitions
from stream.kafka.shared import Shared
from stream.kafka.transport import EventBatch
from stream.topology import answer_silence, process
from tests.simulation.loop import OWNER
from tests.simulation.shop import IN_FORCE, METRICS

if TYPE_CHECKING:
    from tests.simulation.world import World

LOST_SHARE = 0.05
"""Of the batches, those that are lost between poll and partition."""
AGAIN_SHARE = 0.1
"""Of the polls of one log, those that go back and bring what was brought before."""
WHOLE_SHARE = 0.6
"""Of the pieces, those that hold as much of a log as they may."""
QUEUE_LENGTH = 2
"""Batches that wait for the agent while another poll is made."""


@dataclass(frozen=True)
class Plan:
    """What the group tells a member."""

    generation: int
    wanted: frozenset[int]
    standbys: frozenset[int]


class Worker:
    """A process: the product's partitions, and around them what Faust and our transport do for them."""

    def __init__(self, world: "World", seat: int) -> None:
        self.world = world
        self.seat = seat
        self.dead = False
        self.asleep = False
        self._draw = world.draw
        self._plan = Plan(0, frozenset(), frozenset())
        self._told = asyncio.Event()
        self._flowing = False
        self._held: set[int] = set()
        self._at: dict[tuple[int, str], int] = {}
        self._idle = True
        """Nothing more to read where `_at` stands."""
        self._queue: deque[EventBatch] = deque()
        self._queued = asyncio.Event()
        settings = world.settings(seat)
        token = OWNER.set(self)
        try:
            network: Any = world.network
            databases: Any = world.disks[seat]
            self.partitions = Partitions(
                Shared(
                    settings,
                    METRICS,
                    ThreadPoolExecutor(1),
                    process,
                    answer_silence,
                    self._fatal,
                    Outside(databases, network.producer, network.consumer, network.admin),
                ),
                Flow(self._held.add, self._go_on),
            )
            for run in (self._take_over(), self._agent()):
                world.loop.create_task(run)
        finally:
            OWNER.reset(token)

    def __repr__(self) -> str:
        return f"worker {self.seat}"

    def _fatal(self, error: BaseException) -> None:
        self.world.note(f"{self} ends: {error!r}")
        if not isinstance(error, PartitionError):
            self.world.bugs.append(f"{self}: " + "".join(traceback.format_exception(error))[-1500:])
        self.dead = True
        self.world.loop.call_soon(self.world.bury, self)

    # --- the group

    def hear(self, plan: Plan) -> None:
        """Be told of a new generation; what is in work is finished first, if there is time."""
        self._plan = plan
        self._flowing = False
        self._queue = deque(batch for batch in self._queue if self._draw.random() < 0.5)  # the others are given up
        token = OWNER.set(self)
        try:
            self.world.loop.create_task(self._drain(plan))
        finally:
            OWNER.reset(token)

    async def _drain(self, plan: Plan) -> None:
        try:
            if self._draw.random() < 0.7:
                await self.partitions.drain()
        except Exception as e:  # noqa: BLE001 Faust would end
            self._fatal(e)
        if plan is self._plan:
            self._told.set()

    async def _take_over(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            plan = self._plan
            try:
                complete = await self.partitions.take_over(set(plan.wanted), lambda p=plan: p is self._plan)  # type: ignore[misc]
            except Exception as e:  # noqa: BLE001 as `stream.kafka.table`: it ends the process
                self._fatal(e)
                return
            if complete and plan is self._plan:
                self._held.clear()
                self._seek(plan.wanted)
                self._flowing = True
                self.world.note(f"{self} serves {sorted(plan.wanted)} of generation {plan.generation}")
                await self.partitions.stand_by(set(plan.standbys))

    def look(self) -> None:
        """Whether its commits are seen: once in a while."""
        token = OWNER.set(self)
        try:
            self.world.loop.create_task(self.partitions.look())
        finally:
            OWNER.reset(token)

    # --- the flow of events

    def _seek(self, numbers: frozenset[int]) -> None:
        source_of = self.partitions.source_of
        for tp, offset in self.partitions.positions().items():
            if tp.partition in numbers:
                self._at[tp.partition, source_of[tp.topic]] = offset
        self._idle = False

    async def _go_on(self, number: int) -> None:
        if self._flowing:
            self._seek(frozenset({number}))
            self._held.discard(number)

    async def _agent(self) -> None:
        while True:
            while self._queue:
                await self.partitions.apply(self._queue.popleft(), IN_FORCE)
            self._queued.clear()
            await self._queued.wait()

    def may_poll(self) -> bool:
        """Whether there may be something to read, and room for it."""
        return self._flowing and not self._idle and not self.asleep and len(self._queue) < QUEUE_LENGTH

    def stands_still(self) -> bool:
        """Whether the last batch there is was lost on its way here: the watchdog's case."""
        if not (self._flowing and self._idle) or self._queue or self.asleep:
            return False
        shop, source_of = self.world.shop, self.partitions.source_of
        positions = self.partitions.positions()
        return any(offset < len(shop.records(source_of[tp.topic], tp.partition)) for tp, offset in positions.items())

    def poll(self) -> None:
        """What one poll brings, in pieces of one partition each."""
        lives = self.partitions.lives()
        flowing = [p for p in sorted(lives) if p not in self._held and (p, INPUTS[0]) in self._at]
        self._draw.shuffle(flowing)
        for number in flowing:
            for piece in self._pieces(number):
                if self._draw.random() >= LOST_SHARE:
                    self._queue.append(piece._replace(life=lives[number]))
        self._queued.set()
        shop = self.world.shop
        self._idle = all(
            self._at[number, s] >= len(shop.records(s, number)) for number in flowing for s in shop.sources
        )

    def _pieces(self, number: int) -> Iterator[EventBatch]:
        draw, shop, rows_max = self._draw, self.world.shop, self.world.batch_rows
        while True:
            left = rows_max
            found: dict[str, Sequence[Record]] = {}
            for source in shop.sources:
                at = self._at[number, source]
                if draw.random() < AGAIN_SHARE:
                    at = max(0, at - draw.randint(1, rows_max))
                n = left if draw.random() < WHOLE_SHARE else draw.randint(0, left)
                records = shop.records(source, number)[at : at + n]
                if records:
                    found[source] = records
                    left -= len(records)
                    self._at[number, source] = at + len(records)
            if found:
                spans = {source: (some[0].offset, some[-1].offset + 1) for source, some in found.items()}
                yield EventBatch(number, found, draw.random() < 0.5, spans)
            if draw.random() < 0.5:
                return
