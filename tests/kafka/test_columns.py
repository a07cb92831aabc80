"""Rows in memory in front of the store, against a plain dict: nothing is mixed up, nothing that changed is lost."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream.core import row
from stream.errors import StoreCorruptError
from stream.kafka.columns import Columns
from stream.kafka.rocksdb import RocksDB
from stream.kafka.store import Store

USERS = [f"user-{i}".encode() for i in range(14)]
CAPACITY = 6


class StoreOfBytes:
    """Stands in for RocksDB where a test makes thousands of small histories: the three calls that columns make."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.rows.get(key) for key in keys]


class Machine(RuleBasedStateMachine):
    """Batches change rows, commits begin and end in order, several batches a commit, several commits on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.store = StoreOfBytes()
        self.columns = Columns(self.store, CAPACITY)  # type: ignore[arg-type]
        self.truth: dict[bytes, int] = {}
        self.open = 0
        self.changed: dict[bytes, bytes] = {}
        self.on_their_way: list[tuple[int, dict[bytes, bytes]]] = []

    @rule(users=st.lists(st.sampled_from(USERS), min_size=1, max_size=8))
    def batch(self, users: list[bytes]) -> None:
        wanted = set(users)
        dirty = set(self.changed) | {user for _, rows in self.on_their_way for user in rows}
        try:
            slots = self.columns.slots(users)
        except BufferError:
            # Only where it is so: those who are wanted and those who must stay do not fit together.
            assert len(wanted | dirty) > CAPACITY
            assert len(self.columns) <= CAPACITY
            return
        slot_of = dict(zip(users, slots.tolist(), strict=True))
        assert [slot_of[user] for user in users] == slots.tolist()
        assert len(set(slot_of.values())) == len(slot_of)
        for user, slot in slot_of.items():
            assert self.columns.rows["seq"][slot] == self.truth.get(user, 0)
            self.truth[user] = self.truth.get(user, 0) + 1
            self.columns.rows["seq"][slot] += 1
        of_batch = np.unique(slots)
        assert set(self.columns.users(of_batch)) == wanted
        self.columns.touch(of_batch, self.open)
        self.changed |= zip(self.columns.users(of_batch), row.pack(self.columns.rows[of_batch]), strict=True)

    @precondition(lambda self: self.changed)
    @rule()
    def begin_commit(self) -> None:
        self.on_their_way.append((self.open, self.changed))
        self.open += 1
        self.changed = {}

    @precondition(lambda self: self.on_their_way)
    @rule()
    def end_commit(self) -> None:
        number, rows = self.on_their_way.pop(0)
        self.store.rows |= rows
        self.columns.stored(number)

    @rule()
    def after_all_commits_every_batch_fits(self) -> None:
        """What the partition does where a batch finds no room."""
        if self.changed:
            self.begin_commit()
        while self.on_their_way:
            self.end_commit()
        self.batch(USERS[:CAPACITY])
        assert {self.columns.rows["seq"][self.columns.slots([user])[0]] for user in USERS[:CAPACITY]} == {
            self.truth[user] for user in USERS[:CAPACITY]
        }

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.columns) <= CAPACITY


TestColumns = Machine.TestCase
TestColumns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "0", {}, RocksDB(1 << 20), 0)


def commit(columns: Columns, store: Store, slots: "np.typing.NDArray[np.int64]", number: int) -> None:
    columns.touch(slots, number)
    store.put(dict(zip(columns.users(slots), row.pack(columns.rows[slots]), strict=True)), b"applied", number)
    columns.stored(number)


def test_every_bit_comes_back_from_the_store(store: Store) -> None:
    columns = Columns(store, 4)
    rng = np.random.default_rng(1)
    slots = columns.slots(USERS[:4])
    random = rng.integers(0, 256, (4, row.ROW.itemsize), np.uint8).view(row.ROW).reshape(4)
    for position in ("step_pos", "step_count", "recent_ids_pos", "recent_products_pos"):  # within their rings
        random[position] = 3
    columns.rows[slots] = random
    commit(columns, store, slots, 1)
    columns.slots(USERS[4:8])
    assert len(columns) == 4
    back = columns.rows[columns.slots(USERS[:4])]
    assert back.tobytes() == random.tobytes()
    store.close()


def test_who_was_not_seen_for_longest_goes(store: Store) -> None:
    columns = Columns(store, 4)
    for number, user in enumerate(USERS[:4]):
        commit(columns, store, columns.slots([user]), number)
    columns.slots([USERS[0]])  # seen again
    columns.slots([USERS[4]])
    assert USERS[1] not in columns._slot_of
    assert set(columns._slot_of) == {USERS[0], *USERS[2:5]}
    store.close()


def test_a_slot_that_is_taken_over_is_empty(store: Store) -> None:
    columns = Columns(store, 1)
    slots = columns.slots([USERS[0]])
    columns.rows[slots] = np.frombuffer(b"\xff" * row.ROW.itemsize, row.ROW)
    commit(columns, store, slots, 1)
    slots = columns.slots([USERS[1]])
    assert columns.rows[slots].tobytes() == bytes(row.ROW.itemsize)
    store.close()


def test_changed_rows_are_never_evicted(store: Store) -> None:
    columns = Columns(store, 2)
    columns.touch(columns.slots(USERS[:2]), 1)
    with pytest.raises(BufferError):
        columns.slots([USERS[2]])
    assert sorted(columns._slot_of) == USERS[:2]
    columns.stored(0)
    with pytest.raises(BufferError):
        columns.slots([USERS[2]])
    columns.touch(columns.slots([USERS[0]]), 2)  # changed again while commit 1 is on its way
    columns.stored(1)
    columns.slots([USERS[2]])
    assert sorted(columns._slot_of) == [USERS[0], USERS[2]]
    store.close()


def test_a_row_that_cannot_be_read_marks_the_store(tmp_path: Path) -> None:
    cache = RocksDB(1 << 20)
    store = Store(tmp_path / "0", {}, cache, 0)
    store.put({b"good": row.pack(row.new_rows(1))[0], b"bad": row.pack(row.new_rows(1))[0][:-8]}, b"applied", 2)
    columns = Columns(store, CAPACITY)
    columns.slots([b"good"])
    with pytest.raises(StoreCorruptError, match=r"0: a packed row of \d+ bytes|0: a packed row whose"):
        columns.slots([b"bad"])
    store.close()
    with pytest.raises(StoreCorruptError, match="broken"):
        Store(tmp_path / "0", {}, cache, 0)
