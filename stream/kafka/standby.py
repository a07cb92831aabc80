"""Standbys: partitions that other workers own, followed here, so that taking one over reads only its changelog's tail.

A standby is a store that is kept at the end of the changelog. Taking it over closes it and goes the way of every
take-over: fence, ask where the changelog ends, open the store, read the rest. All standbys of a worker share one reader
and one thread. None is worth a process: one that cannot be kept is given up, and costs a restore when its turn comes.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.errors import BrokerSilentError, LostCommitError, PartitionError
from stream.kafka.cluster import Cluster, log_ranges, look
from stream.kafka.outside import Outside
from stream.kafka.restore import confirm, reader, take_in
from stream.kafka.store import Store, open_or_set_aside
from stream.kafka.takeover import STORE_AGE_MAX_S, identity_of, path_of
from stream.metrics import Metrics
from stream.settings import Settings

logger = logging.getLogger(__name__)

_BULK = 10_000
_WAIT_S = 0.1
"""How long a read waits for records: a standby that is wanted here waits so long at most."""


class Standbys:
    """By number of partition. Belongs to the event loop; its stores belong to its thread."""

    def __init__(
        self,
        settings: Settings,
        admin: AdminClient,
        outside: Outside,
        metrics: Metrics,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._admin = admin
        self._outside = outside
        self._metrics = metrics
        self._fatal = fatal
        self._stores: dict[int, Store] = {}
        self._consumer: Consumer | None = None
        self._thread = ThreadPoolExecutor(1, "standby")
        self._following: asyncio.Task[None] | None = None

    def numbers(self) -> set[int]:
        """Of the partitions that are followed."""
        return set(self._stores)

    async def follow(self, wanted: set[int]) -> None:
        """Follow `wanted` and nothing else. When it returns, the stores of all others are closed."""
        if wanted == self.numbers():
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._change, wanted)
        self._metrics.standbys.set(len(self._stores))
        if self._stores and (self._following is None or self._following.done()):
            self._following = loop.create_task(self._follow(), name="standbys")

    async def close(self) -> None:
        """Follow nothing more."""
        await self.follow(set())
        if self._following is not None:
            await self._following
        self._thread.shutdown(wait=False)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._stores:
                await loop.run_in_executor(self._thread, self._read)
        except Exception as e:  # noqa: BLE001 what is expected is caught below
            self._fatal(e)

    # --- in the thread

    def _change(self, wanted: set[int]) -> None:
        for number in sorted(self.numbers() - wanted):
            self._let_go(number)
        new = sorted(wanted - self.numbers())
        if new:
            changelog = self._settings.changelog
            try:
                cluster = look(self._settings, self._admin)
                logs = log_ranges(self._admin, [(changelog, number) for number in new])
            except BrokerSilentError as e:
                logger.warning("no standby for partitions %s: %s", new, e)
            else:
                for number in new:
                    self._begin(number, cluster, logs[changelog, number])
        if self._consumer is None and self._stores:
            self._consumer = reader(self._settings, "standby", self._outside.consumer, enable_partition_eof=False)
        if self._consumer is not None:
            self._consumer.assign(
                [
                    TopicPartition(self._settings.changelog, number, store.changelog_offset)
                    for number, store in self._stores.items()
                ]
            )
        if self._consumer is not None and not self._stores:
            self._consumer.close()
            self._consumer = None

    def _begin(self, number: int, cluster: Cluster, log: tuple[int, int]) -> None:
        settings = self._settings
        try:
            store = open_or_set_aside(
                path_of(settings, number),
                identity_of(settings, cluster),
                self._outside.databases,
                settings.store_pending_bytes,
                STORE_AGE_MAX_S,
                lock_timeout_s=0,  # whoever has it open is a worker on the same disk: it needs no standby there
            )
        except PartitionError as e:
            logger.warning("no standby for partition %d: %s", number, e)
            return
        try:
            confirm(store, settings, number, log, self._outside.consumer)
        except (LostCommitError, BrokerSilentError) as e:  # if it is bad, a take-over sets it aside
            store.abandon()
            logger.warning("no standby for partition %d: %s", number, e)
            return
        store.changelog_offset = max(store.changelog_offset, log[0])
        self._stores[number] = store
        logger.info("standby for partition %d: from offset %d of %d on", number, store.changelog_offset, log[1])

    def _read(self) -> None:
        if self._consumer is None:
            return
        for number in [number for number, store in self._stores.items() if store.wanted]:
            logger.info("standby for partition %d: another worker on this disk takes it over", number)
            self._let_go(number)
        found: dict[int, list[Message]] = defaultdict(list)
        try:
            messages = self._consumer.consume(_BULK, timeout=_WAIT_S)
        except KafkaException as e:
            logger.warning("standbys: %s", e)
            return
        for message in messages:
            number, error = int(message.partition() or 0), message.error()
            if error is not None:
                logger.warning("standbys: %s", error.str())
            elif number in self._stores:
                found[number].append(message)
        for number, records in found.items():
            store = self._stores[number]
            try:
                take_in(store, records, int(records[-1].offset() or 0) + 1)
                if store.flushed_s_ago * 1000 > self._settings.store_flush_interval_ms:
                    store.flush()
            except PartitionError as e:
                logger.error("standby for partition %d given up: %s", number, e)  # noqa: TRY400 expected
                self._let_go(number, keep=False)

    def _let_go(self, number: int, *, keep: bool = True) -> None:
        store = self._stores.pop(number)
        try:
            if keep:
                store.close()
            else:
                store.abandon()
        except PartitionError as e:
            logger.warning("standby for partition %d: %s", number, e)
            store.abandon()
