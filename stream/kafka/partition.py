"""One partition: its rows, store, producer and offsets. What is applied, sent and stored is decided here.

    take_over    fence, restore, check, position          in the partition's own thread
    apply        decode, process, emit                    on the compute thread
    sweep        find who fell silent, answer, emit       on the compute thread
    commit       send, store, release                     in the partition's own thread, then the compute thread
    drop         let go

A transaction that fails makes the partition a failed one: it applies and commits nothing more, and somebody
(`stream.kafka.partitions`) takes it over anew, which throws away what was computed since the last commit.

Changes of state happen on the worker's one compute thread, so none of it is locked. Sending blocks, so each partition
has a thread of its own for it. docs/protocol.md tells what this takes for granted of Kafka and Faust, and what confirms
it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray

from stream.core.absorb import is_step
from stream.core.budget import Wallet, name_open_offers
from stream.core.events import SOURCES
from stream.core.rounds import by_steps, pieces
from stream.core.row import ROW_FORMAT, gather, pack, scatter
from stream.errors import DeliveryError, LateCommitError, TransactionError
from stream.kafka import applied as applied_record
from stream.kafka.applied import Applied, SourcePosition, SweepState
from stream.kafka.cluster import INPUTS, Cluster
from stream.kafka.columns import Columns
from stream.kafka.commit import SENDERS, Sent, Unsent
from stream.kafka.control import InForce
from stream.kafka.emit import Emitter, Outputs
from stream.kafka.hanging import settle_what_hangs
from stream.kafka.identities import join
from stream.kafka.intake import Taken, draws_of, take, what_applies
from stream.kafka.shared import Shared
from stream.kafka.sweep import Sweep, Swept
from stream.kafka.takeover import logs_of, open_store, where_to_go_on
from stream.kafka.transport import EventBatch
from stream.metrics import Stopwatch, Tally

logger = logging.getLogger(__name__)


class Partition:
    """See the module's text. Made closed; `take_over` opens it."""

    def __init__(
        self, number: int, shared: Shared, life: int, on_failed: Callable[["Partition", TransactionError], None]
    ) -> None:
        """Nothing happens yet.

        Args:
            number: of the partition.
            shared: see `Shared`.
            life: which of the worker's take-overs this is: a batch that was fetched in another one is not applied.
            on_failed: called once when a transaction failed.
        """
        self.number = number
        self.life = life
        self.failed = False
        """A transaction failed, or it was let go of: nothing is applied or committed any more."""
        self._on_failed = on_failed
        self.read: dict[str, int] = {}
        """Next offset to read, by source: what is applied to the rows in memory."""
        self.committed: dict[str, int] = {}
        """Next offset after what is stored, by source."""
        self._shared = shared
        self._settings = shared.settings
        self._metrics = shared.metrics
        self._thread = ThreadPoolExecutor(1, f"partition-{number}")
        self._commit_lock = asyncio.Lock()
        self._commit_due = asyncio.Event()
        self._commit_began_s = 0.0
        self._commit_task: asyncio.Task[None] | None = None
        self._apply_lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    # --- taking over

    async def take_over(self, cluster: Cluster, admin: AdminClient, still_ours: Callable[[], bool]) -> bool:
        """Become this partition's owner; afterwards `read` says where to read on.

        1. Fence whoever owned it before: from here on only we can write to its changelog. What they left open is
           aborted or committed now.
        2. Ask where the logs end, only now: the changelog's end counts all that the one before us committed.
        3. The local store, if it can be trusted, and the changelog's tail into it, up to that end.
        4. Settle what hangs: brokers acknowledged a transaction's end and wrote none.
        5. The applied record against the source topics.
        6. Columns, empty: rows are read as users come.

        Args:
            cluster: topics as they are.
            admin: asks for the logs.
            still_ours: False when the group has moved on: then it is given up.

        Returns:
            Whether it is ours.

        Raises:
            PartitionError: see its kinds. After a HangingError it has to be taken over again.
            BrokerSilentError: the leader of a log does not answer.
        """
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._thread, self._take_over, cluster, admin, still_ours):
            return False
        self._commit_task = loop.create_task(self._commit_when_due(), name=f"commit-{self.number}")
        return True

    def _take_over(self, cluster: Cluster, admin: AdminClient, still_ours: Callable[[], bool]) -> bool:
        settings, shared = self._settings, self._shared
        self._topic_ids = {name: cluster.topic_ids[settings.topic(name)] for name in INPUTS}
        # 1.
        self._sender = SENDERS[settings.guarantee](settings, self.number, self._metrics, shared.outside)
        if not self._sender.initialise(still_ours) or not still_ours():
            self._sender.close()
            return False
        # 2.
        logs = logs_of(settings, self.number, admin)
        log = logs[settings.changelog]
        # 3.
        self._store, applied = open_store(shared, self.number, cluster, log)
        self.changelog_end = log[1]
        # 4.
        settle_what_hangs(shared, self.number, admin, logs, self._sender, self._store, applied)
        # 5.
        position = where_to_go_on(applied, settings, self.number, self._topic_ids, logs, self._metrics)
        self._sequence, self.read, self.committed = position.sequence, position.read, dict(position.read)
        # 6.
        self._columns = Columns(self._store, settings.hot_rows)
        self._emitter = Emitter(settings, self.number, self._topic_ids)
        self._open = Unsent(Outputs(), Tally(self._metrics), number=0)
        self.wallet = Wallet() if applied is None else Wallet.from_state(applied.budgets)
        parts = Swept(self.number, self._store, self._columns, self.wallet, self._emitter)
        state = SweepState() if applied is None else applied.sweep
        self._sweep = Sweep(state, parts, settings, self._metrics, shared.answer)
        return True

    # --- applying

    async def apply(self, batch: EventBatch, in_force: InForce) -> None:
        """Apply one batch to the rows; its outputs are sent by the next commit.

        Nothing happens to a batch that was fetched before this take-over, or that comes after a failed transaction: its
        records are read again.
        """
        if batch.life == self.life:
            await self._in_turn(self._apply, batch, in_force, at_once=not batch.more_waits)

    async def sweep(self, in_force: InForce) -> bool:
        """Do a turn of the sweep that is under way or due, between two batches; whether there is more of it to do."""
        now_ms, begins = time.time_ns() // 1_000_000, not self._sweep.state.tick_ms
        if self.failed or not self._sweep.waits(now_ms):
            return False
        turn = lambda: self._sweep.turn(self._open, self._sequence, in_force, now_ms)  # noqa: E731 the state of then
        await self._in_turn(turn, at_once=True, stored=begins)
        return self._sweep.state.tick_ms > 0 and not self.failed

    async def _in_turn(self, function: Callable[..., bool], *args: object, at_once: bool, stored: bool = False) -> None:
        """Compute, when there is room, and what was computed is `stored`; if something comes of it, have it sent."""
        compute = partial(asyncio.get_running_loop().run_in_executor, self._shared.compute, function, *args)
        try:
            async with self._apply_lock:
                while self._open.outputs.n_bytes > 2 * self._settings.commit_bytes and not self.failed:
                    await self.commit()
                if self.failed or (stored and not await self.commit()):
                    return
                try:
                    found = await compute()
                except BufferError:  # every slot in memory holds uncommitted changes
                    if not await self.commit():
                        return
                    found = await compute()
                if found:
                    self._ask_for_commit(at_once=at_once)
        except Exception as e:  # noqa: BLE001 Faust would ack the batch and go on
            self._shared.fatal(e)

    def _apply(self, batch: EventBatch, in_force: InForce) -> bool:
        lap = Stopwatch()
        metrics, tally = self._metrics, self._open.tally
        taken = take(batch, self.read, self.number, self._settings)
        lap("decode")
        # May raise BufferError: nothing has changed until here.
        slots = self._columns.slots([*taken.users, *taken.joins.keys, *taken.erased.keys])
        for source, decoded in taken.decoded.items():
            tally.add(metrics.event[source, "dead"], len(decoded.dead))
            tally.add(metrics.unknown_fields.labels(source), decoded.unknown_fields)
            self._open.outputs.add_dead(self._emitter.dead_letters(decoded.dead, tally))
        latest_ms = self._absorb(taken, slots[: len(taken.users)], in_force, lap) if taken.users else 0
        self._join_and_erase(taken, slots[len(taken.users) :])
        lap.report(metrics)
        metrics.batch_rows.observe(batch.n_records)
        self.read = taken.next_offset
        self._open.in_force = in_force
        self._sweep.note(batch, latest_ms)
        return True

    def _join_and_erase(self, taken: Taken, slots: NDArray[np.int64]) -> None:
        """Merge and forget users: after the events of the batch, since topics have no order among each other."""
        outputs, tally, columns = self._open.outputs, self._open.tally, self._columns
        outputs.add_dead(self._emitter.dead_letters([*taken.joins.dead, *taken.erased.dead], tally))
        join(taken.joins, columns, slots, self._settings.partitions, outputs, tally)
        tally.add(tally.metrics.erasures, len(taken.erased.keys))
        columns.forget(slots[len(taken.joins.keys) :])
        columns.touch(slots, self._open.number)
        outputs.add_erasures(taken.erased.keys)

    def _absorb(self, taken: Taken, slots: NDArray[np.int64], in_force: InForce, lap: Callable[[str], None]) -> int:
        """The batch against the rows; the latest event time in it.

        Its rows are taken out of the table once and go back once: at a million users each touch of a row is a cache
        miss. They are packed for the changelog while they are at hand.
        """
        columns, open_ = self._columns, self._open
        users, events, published_ms = taken.users, taken.events, taken.published_ms
        of_batch, row = by_steps(slots, is_step(events))
        rows = gather(columns.rows, of_batch)
        order = what_applies(events, row, rows, published_ms, open_.tally)
        draw = draws_of(events, self.number, self._emitter.topic_hashes)
        lap("absorb")
        now_ms = time.time_ns() // 1_000_000
        wallet = self.wallet
        if in_force.campaigns.budgeted:
            wallet.follow(in_force.campaigns, self.number, self._settings.partitions, now_ms)
        for piece in pieces(row[order], self._settings.user_events_max):
            at = order[piece]
            applied = gather(events, at)
            outcome = self._shared.process(
                applied, row[at], rows, in_force, now_ms, draw[at], self._settings.offer_max_age_ms, lap, wallet
            )
            emitted = self._emitter.emit(
                applied, [users[i] for i in at.tolist()], outcome, in_force, now_ms, self._sequence, open_.tally
            )
            self._sequence += int(np.count_nonzero(is_step(applied)))
            open_.outputs.add(emitted)
            if len(emitted.offered):
                open_.published_ms.append(published_ms[at[emitted.offered]])
                if in_force.campaigns.budgeted:
                    offers = outcome.decisions[emitted.offered]
                    name_open_offers(rows, row[at[emitted.offered]], offers, in_force.campaigns, emitted.offer_ids)
            lap("emit")
        for source in np.unique(events["source"]).tolist():
            # A row that is ahead of the applied record stays ahead: the batches replayed up to it may be other ones.
            fence = rows["fence"][:, source]
            np.maximum(fence, taken.next_offset[SOURCES[source]], out=fence)
        scatter(columns.rows, of_batch, rows)
        columns.touch(of_batch, open_.number)
        lap("absorb")
        open_.outputs.add_rows(columns.users(of_batch), pack(rows))
        lap("emit")
        return int(events["time_ms"][order[-1]]) if len(order) else 0

    # --- committing

    def _ask_for_commit(self, *, at_once: bool) -> None:
        """Commit now when nothing waits, or much is due; else when the interval since the last commit has passed."""
        if at_once or self._open.outputs.n_bytes > self._settings.commit_bytes:
            self._commit_due.set()
        elif self._timer is None and not self._commit_due.is_set():
            wait_s = self._settings.commit_interval_ms / 1000 - (time.monotonic() - self._commit_began_s)
            self._timer = asyncio.get_running_loop().call_later(max(wait_s, 0), self._commit_due.set)

    async def _commit_when_due(self) -> None:
        try:
            while True:
                await self._commit_due.wait()
                await self.commit()
        except Exception as e:  # noqa: BLE001 whatever it is, the process must not go on with it
            self._shared.fatal(e)

    async def commit(self) -> bool:
        """Send and store what was computed since the last commit.

        1. Snapshot: rows are bytes already. A later batch may change the columns while these are on their way.
        2. Send, see `stream.kafka.commit`. If that is a transaction and fails, nothing more happens here.
        3. Store: RocksDB takes the bytes that were sent, never the columns, with the changelog's offset. Nothing is
           stored before it is acknowledged, or a restart would take rows for applied that the changelog does not know.
        4. Release: source offsets may be committed, slots may be evicted.
        5. If a copy of the commit may still be under way, nothing may be sent that it could commit: the partition is
           taken over anew, which makes the copy void.

        Returns:
            Whether the partition is sound.
        """
        computed = partial(asyncio.get_running_loop().run_in_executor, self._shared.compute)
        async with self._commit_lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._commit_due.clear()
            self._commit_began_s = time.monotonic()
            # 1.
            sent = None if self.failed else await computed(self._snapshot)
            if sent is None:
                return not self.failed
            # 2.
            offset = await self._sent(sent)
            if offset is None:
                return False
            # 3.
            await computed(self._keep, sent, offset)
            # 4.
            self.committed = sent.positions
            # 5.
            if self._sender.may_commit_again and not self.failed:
                self.fail(LateCommitError(f"partition {self.number}: its commit may come a second time"))
            return not self.failed

    def _snapshot(self) -> Sent | None:
        open_, in_force = self._open, self._open.in_force
        if in_force is None:
            return None
        self._open = Unsent(Outputs(), Tally(self._metrics), number=open_.number + 1)
        applied = Applied(
            row_format=ROW_FORMAT,
            partitions=self._settings.partitions,
            sequence=self._sequence,
            sources={s: SourcePosition(self._topic_ids[s], self.read[s]) for s in INPUTS},
            model=in_force.scorer.hex,
            campaigns={campaign.id: campaign.version for campaign in in_force.campaigns.campaigns},
            budgets=self.wallet.state(),
            sweep=self._sweep.state,
        )
        if rows := open_.outputs.rows:
            self._metrics.row_bytes.set(sum(map(len, filter(None, rows.values()))) / len(rows))
        return open_.sent(applied_record.encode(applied), dict(self.read))

    async def _sent(self, sent: Sent) -> int | None:
        """What `_send` returns; None where it failed, or the partition was let go of meanwhile."""
        try:
            if self._is_over():
                return None
            offset = await asyncio.get_running_loop().run_in_executor(self._thread, self._send, sent)
        except DeliveryError as e:
            if not self._is_over():
                if not isinstance(e, TransactionError):
                    raise
                self.fail(e)
            return None
        return None if self._is_over() else offset

    def fail(self, error: TransactionError) -> None:
        """Apply and commit nothing more; it is taken over anew, if it is still ours."""
        self.failed = True
        self._on_failed(self, error)

    def _is_over(self) -> bool:
        return self.failed

    def _send(self, sent: Sent) -> int:
        with self._metrics.stage["commit"].time():
            return self._sender.send(sent)

    def _keep(self, sent: Sent, offset: int) -> None:
        """Store a commit whose applied record has this offset in the changelog."""
        store, changelog_end = self._store, offset + self._sender.APPLIED_TO_END
        with self._metrics.stage["store"].time():
            store.put(sent.outputs.rows, sent.applied, changelog_end, offset)
            self._columns.stored(sent.number)
            self.changelog_end = changelog_end
            if store.must_forget or store.flushed_s_ago * 1000 > self._settings.store_flush_interval_ms:
                store.flush()
        sent.tally.settle()

    # --- letting go

    async def drain(self) -> None:
        """Wait for the batch in work and commit it."""
        async with self._apply_lock:
            await self.commit()

    def rows_stored(self) -> int:
        """Estimate of the rows in the local store."""
        return self._store.rows_estimated()

    def rows_hot(self) -> int:
        """Rows in memory."""
        return len(self._columns)

    async def drop(self, *, keep_store: bool = True) -> None:
        """Let go of everything; what is not committed is forgotten, the next owner reads it again."""
        self.failed = True  # a batch may be in work, or a commit of its own: neither goes on
        if self._commit_task is not None:
            self._commit_task.cancel()
            await asyncio.gather(self._commit_task, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._sender.close()  # from here: an abandoned send may hold the partition's own thread
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._shared.compute, self._store.close if keep_store else self._store.abandon)
        self._thread.shutdown(wait=False)
