"""Sweeps: who fell silent, found by going through the rows of a partition on a timer.

A sweep is an input like a batch, in turns of `SWEEP_ROWS`: each is computed between two batches, its outputs go out in
the partition's next commit, and how far it got is in the applied record of that commit. So after a crash or a rebalance
it goes on behind the last turn that was committed, and the turn that was not is as if it had never begun.

It goes through the local store, which has every row, and takes into memory only those of users who fell due. Its clock
is the latest event time seen, or the wall clock less the lag that events are allowed, whichever is later. While the
partition is further behind than that, nobody can know who is silent, and no sweep goes on.
"""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream.core.absorb import Events
from stream.core.budget import Wallet, name_open_offers
from stream.core.campaign import CampaignSet, Silence
from stream.core.row import RowFormatError, Rows, gather, last_ms_of, pack, scatter
from stream.core.silence import as_triggers, draws_of, due_ms, unanswered
from stream.kafka.applied import SweepState
from stream.kafka.columns import Columns
from stream.kafka.commit import Unsent
from stream.kafka.control import InForce
from stream.kafka.emit import Emitter, OutcomeT
from stream.kafka.store import Store
from stream.kafka.transport import EventBatch
from stream.metrics import Metrics
from stream.settings import Settings

SWEEP_ROWS = 2_000
"""Most rows of a turn: some 2 ms."""

SWEEP_LOOK_S = 1.0
"""How often it is looked whether a sweep is due, or goes on."""

SWEEP_PAUSE_S = 0.02
"""Between two turns: so a sweep takes at most a tenth of the compute thread."""

_QUIET_S = 5.0
"""A partition that got no batch for so long since it was taken over has nothing to catch up with."""


class _Answer(Protocol):
    """`stream.topology.answer_silence`."""

    def __call__(
        self,
        silences: Events,
        rows: Rows,
        campaigns: CampaignSet,
        now_ms: int,
        draws: NDArray[np.float64],
        wallet: Wallet,
    ) -> OutcomeT: ...


@dataclass(frozen=True)
class Swept:
    """What a turn works on: the parts of its partition."""

    number: int
    store: Store
    columns: Columns
    wallet: Wallet
    emitter: Emitter


class Sweep:
    """The sweeps of one partition, one after another. Belongs to the compute thread, but for `waits`."""

    def __init__(self, state: SweepState, parts: Swept, settings: Settings, metrics: Metrics, answer: _Answer) -> None:
        """Go on where the applied record says."""
        self.state = state
        """As of the turns that were computed; goes out with their outputs."""
        self._parts = parts
        self._settings = settings
        self._metrics = metrics
        self._answer = answer
        self._latest_ms = 0
        self._more_waits: bool | None = None
        self._opened_s = time.monotonic()
        self._sees_all = False
        """What the store kept back when this sweep began, or was taken over, is written: a scan sees it."""

    def note(self, batch: EventBatch, latest_ms: int) -> None:
        """A batch was applied; `latest_ms` is its latest event time."""
        self._more_waits = batch.more_waits
        self._latest_ms = max(self._latest_ms, latest_ms)

    def waits(self, now_ms: int) -> bool:
        """Whether there is a turn to do now."""
        clock_ms = self._clock_ms(now_ms)
        if clock_ms is None:
            return False
        return self.state.tick_ms > 0 or clock_ms >= self.state.swept_ms + self._settings.sweep_interval_ms

    def _clock_ms(self, now_ms: int) -> int | None:
        """None where events are too far behind."""
        behind = self._more_waits
        if behind is None:
            behind = time.monotonic() - self._opened_s < _QUIET_S
        latest_ms, lagged_ms = min(self._latest_ms, now_ms), now_ms - self._settings.sweep_lag_ms
        return None if behind and latest_ms < lagged_ms else max(latest_ms, lagged_ms)

    def turn(self, open_: Unsent, sequence: int, in_force: InForce, until_ms: int) -> bool:
        """Go through the next rows and answer the silences that fell due.

        1. A sweep begins: its time is fixed, whichever worker brings it to its end.
        2. The next rows, as the store has them. What it does not have was applied after `until_ms`: an event that came
           so late that its silence is over already.
        3. Those that may be due are taken into memory, where their latest changes are.
        4. Those that are due are answered, rule by rule.
        5. The cursor moves; behind the last row the sweep is at its end.

        Args:
            open_: what the next commit sends.
            sequence: of the partition.
            in_force: campaigns and the scorer.
            until_ms: where a sweep begins: all that was applied until then is in the store.

        Returns:
            Whether there is something to commit.

        Raises:
            BufferError: as `Columns.slots`; nothing has happened then.
        """
        now_ms, campaigns, parts = time.time_ns() // 1_000_000, in_force.campaigns, self._parts
        # 1.
        if not (self.state.tick_ms or self._begin(min(now_ms, until_ms), campaigns)):
            return False
        if not self._sees_all:
            parts.store.write()
            self._sees_all = True
        # 2.
        state = self.state
        n = min(SWEEP_ROWS, self._settings.batch_rows)  # so many users find room in memory
        found = parts.store.scan(state.cursor, n)
        users = [user for user, _ in found]
        try:
            last_ms = last_ms_of([row for _, row in found])
        except RowFormatError as e:
            raise parts.store.broken(str(e)) from e
        due = np.zeros(len(found), bool)
        for rule, _ in campaigns.silences:
            due |= due_ms(rule, last_ms, state.swept_ms, state.tick_ms) != 0
        # 3.
        users_due = [users[i] for i in np.flatnonzero(due).tolist()]
        slots = parts.columns.slots(users_due)
        self._metrics.swept_rows.inc(len(found))
        # 4.
        now_ms = max(now_ms, state.tick_ms)
        if users_due:
            open_.in_force = in_force
            if campaigns.budgeted:
                parts.wallet.follow(campaigns, parts.number, self._settings.partitions, now_ms)
            for rule, asked in campaigns.silences:
                self._answer_rule(rule, asked, users_due, slots, open_, now_ms, sequence)
        # 5.
        if len(found) == n:
            self.state = replace(state, cursor=users[-1])
            return bool(users_due)
        self.state = SweepState(swept_ms=state.tick_ms)
        open_.in_force = in_force
        return True

    def _begin(self, now_ms: int, campaigns: CampaignSet) -> bool:
        """Whether there is something to look for."""
        clock_ms = self._clock_ms(now_ms)
        if clock_ms is None:
            return False
        if not (campaigns.silences and self.state.swept_ms):  # what fell due before the first sweep is long past
            self.state = SweepState(swept_ms=clock_ms)
            return False
        self.state = replace(self.state, tick_ms=clock_ms)
        self._sees_all = False
        return True

    def _answer_rule(
        self, rule: Silence, campaigns: CampaignSet, users: list[bytes], slots: NDArray[np.int64], open_: Unsent,
        now_ms: int, sequence: int,
    ) -> None:  # fmt: skip
        """Answer those who are due by one rule."""
        columns, wallet, tally = self._parts.columns, self._parts.wallet, open_.tally
        rows = gather(columns.rows, slots)
        at, moments = unanswered(rule, rows, self.state.swept_ms, self.state.tick_ms)
        if not len(at):
            return
        tally.add(tally.metrics.silences, len(at))
        users = [users[i] for i in at.tolist()]
        rows, slots = gather(rows, at), slots[at]
        silences = as_triggers(rule, [xxh3_64_intdigest(user) for user in users], moments)
        made = self._answer(silences, rows, campaigns, now_ms, draws_of(rule, silences), wallet)
        emitted = self._parts.emitter.emit_silences(rule, silences, users, made, campaigns, now_ms, sequence, tally)
        open_.outputs.add(emitted)
        offered = emitted.offered
        if len(offered):
            if campaigns.budgeted:
                name_open_offers(rows, offered, made.decisions[offered], campaigns, emitted.offer_ids)
            changed = gather(rows, offered)
            scatter(columns.rows, slots[offered], changed)
            columns.touch(slots[offered], open_.number)
            open_.outputs.add_rows(emitted.offer_users, pack(changed))
