"""The hot part of a partition's rows: one array of records, one slot a user, in front of the local store.

slots = columns.slots(users)        every user of a batch gets a slot; cold rows are read, old ones evicted
columns.rows[slots]                 the rows
columns.touch(slots, commit)        changed: not to be evicted before that commit is stored
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.core import row
from stream.kafka.store import Store

EVICT_SHARE = 16
"""Eviction frees at least this fraction of all slots at once, so that its search for the oldest is paid by many."""

CLEAN = -1
_NOTHING = row.new_rows(1)


class Columns:
    """Rows in memory. Belongs to the compute thread."""

    def __init__(self, store: Store, capacity: int) -> None:
        self.rows = row.new_rows(capacity)  # zeros: memory is taken as slots are used
        self._store = store
        self._slot_of: dict[bytes, int] = {}
        self._user_of: list[bytes] = [b""] * capacity
        self._used_at = np.full(capacity, -1, np.int64)  # batch that last used the slot; -1 = free
        self._changed_in = np.full(capacity, CLEAN, np.int64)  # commit that will send the slot's latest change
        self._touched: deque[tuple[int, NDArray[np.int64]]] = deque()  # (commit, slots), until the commit is stored
        self._free = list(range(capacity - 1, -1, -1))
        self._batch = 0

    def __len__(self) -> int:
        return len(self._slot_of)

    def slots(self, users: Sequence[bytes]) -> NDArray[np.int64]:
        """A slot for each user, int64 [N].

        Raises:
            BufferError: all slots hold changes that are not committed yet: commit, then try again.
            StoreCorruptError: a row in the store cannot be read; the next owner restores from the changelog.
        """
        self._batch += 1
        find = self._slot_of.get
        found = np.fromiter([find(user, -1) for user in users], np.int64, len(users))
        cold = np.flatnonzero(found < 0)
        self._used_at[found[found >= 0]] = self._batch
        if len(cold):
            new = list(dict.fromkeys([users[i] for i in cold.tolist()]))
            self._admit(new)
            slot_of = self._slot_of
            found[cold] = [slot_of[users[i]] for i in cold.tolist()]
        return found

    def _admit(self, users: list[bytes]) -> None:
        if len(users) > len(self._free):
            self._evict(len(users) - len(self._free))
        slots = self._free[-len(users) :]
        packed = self._store.get(users)
        at = np.array(slots)
        known = [p is not None for p in packed]
        if not all(known):
            self.rows[at[~np.array(known)]] = _NOTHING
        if any(known):
            try:
                unpacked = row.unpack([p for p in packed if p is not None])
            except row.RowFormatError as e:
                raise self._store.broken(str(e)) from e
            row.scatter(self.rows, at[known], unpacked)
        self._used_at[at] = self._batch
        del self._free[-len(users) :]
        for user, slot in zip(users, slots, strict=True):
            self._slot_of[user] = slot
            self._user_of[slot] = user

    def _evict(self, need: int) -> None:
        may_go = np.flatnonzero((self._changed_in == CLEAN) & (self._used_at >= 0) & (self._used_at != self._batch))
        if len(may_go) < need:
            raise BufferError(f"{need} slots needed, {len(may_go)} may be evicted of {len(self.rows)}")
        n = min(len(may_go), max(need, len(self.rows) // EVICT_SHARE))
        oldest = may_go[np.argpartition(self._used_at[may_go], n - 1)[:n]]
        self._used_at[oldest] = -1
        for slot in oldest.tolist():
            del self._slot_of[self._user_of[slot]]
            self._user_of[slot] = b""
        self._free.extend(oldest.tolist())

    def touch(self, slots: NDArray[np.int64], commit: int) -> None:
        """Note that rows changed, to be sent in commit number `commit`."""
        self._changed_in[slots] = commit
        self._touched.append((commit, slots))

    def forget(self, slots: NDArray[np.int64]) -> None:
        """Make rows those of users whom nobody knows; the slots stay theirs until the store has forgotten them too."""
        self.rows[slots] = _NOTHING

    def users(self, slots: NDArray[np.int64]) -> list[bytes]:
        """Whose slots these are, in order."""
        user_of = self._user_of
        return [user_of[slot] for slot in slots.tolist()]

    def stored(self, commit: int) -> None:
        """Everything up to this commit is in the store: slots not changed since may be evicted."""
        while self._touched and self._touched[0][0] <= commit:
            slots = self._touched.popleft()[1]
            self._changed_in[slots[self._changed_in[slots] <= commit]] = CLEAN
