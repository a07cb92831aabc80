"""A login's three steps between two partitions, and an erasure that comes in between any two of them."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from stream.core.merge import YOUNG_EVENTS
from stream.core.row import N_RECENT_IDS, Rows
from stream.kafka.codec import Identity
from stream.kafka.columns import Columns
from stream.kafka.emit import Outputs
from stream.kafka.identities import Joins, decode_identities, decode_merges, join
from stream.kafka.rocksdb import RocksDB
from stream.kafka.store import Store
from stream.kafka.topics import Record
from stream.metrics import Metrics, Tally
from stream.settings import Settings

USER, GUEST, OTHER = b"member", b"guest", b"member-of-the-member"
NOW_MS = time.time_ns() // 1_000_000


class Partition:
    """The rows of one partition, which has all users."""

    def __init__(self, folder: Path, guarantee: str = "exactly_once") -> None:
        self.settings = Settings(partitions=1, guarantee=guarantee)
        self.store = Store(folder, {}, RocksDB(1 << 20), 0)
        self.columns = Columns(self.store, 8)
        self.tally = Tally(Metrics(CollectorRegistry()))

    def row(self, user: bytes) -> Rows:
        slot = int(self.columns.slots([user])[0])
        return self.columns.rows[slot : slot + 1]

    def happens(self, user: bytes, n: int) -> None:
        """Events of which only the number matters here."""
        row = self.row(user)
        row["kind_total"][0, 0] += n
        row["fence"][0, 0] += n

    def login(self, anonymous: bytes, user: bytes, event_id: str) -> list[bytes]:
        """The claims that it sends."""
        said = Identity(event_id=event_id, user_id=user.decode(), time_ms=NOW_MS, anonymous_id=anonymous.decode())
        record = Record("identities", 0, user, msgspec.json.encode(said), 0, NOW_MS, [])
        return self._join(decode_identities([record], 0, self.settings))

    def merges(self, key: bytes, value: bytes) -> list[bytes]:
        """What a claim or a row sends on."""
        return self._join(decode_merges([Record("merges", 0, key, value, 0, NOW_MS, [])], 0, self.settings))

    def _join(self, joins: Joins) -> list[bytes]:
        assert joins.dead == []
        outputs = Outputs()
        join(joins, self.columns, self.columns.slots(joins.keys), 1, outputs, self.tally)
        return [value for _, _, value in outputs.merges]

    def erase(self, user: bytes) -> None:
        self.columns.forget(self.columns.slots([user]))

    def events_of(self, user: bytes) -> int:
        return int(self.row(user)["kind_total"].sum())


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Partition]:
    made = Partition(tmp_path / "0")
    yield made
    made.store.close()


def on_its_way(partition: Partition, user_events: int, guest_events: int = 5) -> bytes:
    """The guest's row, claimed for the user and sent."""
    partition.happens(USER, user_events)
    partition.happens(GUEST, guest_events)
    (claim,) = partition.login(GUEST, USER, "login")
    (row,) = partition.merges(GUEST, claim)
    assert partition.events_of(GUEST) == 0
    return row


@pytest.mark.parametrize("user_events", [0, 1, YOUNG_EVENTS - 1, YOUNG_EVENTS, 100])
@pytest.mark.parametrize("back", [0, 1, YOUNG_EVENTS - 1])
def test_an_erasure_on_the_way_drops_what_was_claimed(partition: Partition, user_events: int, back: int) -> None:
    row = on_its_way(partition, user_events)
    partition.erase(USER)
    partition.happens(USER, back)
    assert partition.merges(USER, row) == []
    assert partition.events_of(USER) == back


@pytest.mark.parametrize("user_events", [0, 1, YOUNG_EVENTS - 1, YOUNG_EVENTS, 100])
def test_without_one_the_row_is_merged_whatever_happens_meanwhile(partition: Partition, user_events: int) -> None:
    row = on_its_way(partition, user_events)
    partition.happens(USER, 3)
    for n in range(YOUNG_EVENTS - 1):  # further logins
        (claim,) = partition.login(b"nobody", USER, f"login-{n}")
        assert partition.merges(b"nobody", claim) == []
    partition.merges(USER, row)
    partition.merges(USER, row)  # sent twice
    assert partition.events_of(USER) == user_events + 3 + 5


def test_a_row_for_a_user_who_was_claimed_meanwhile_waits_for_the_next_login(partition: Partition) -> None:
    """A row that begins anew since it was sent on was not erased."""
    row = on_its_way(partition, 4)
    (claim,) = partition.login(USER, OTHER, "another")
    (users,) = partition.merges(USER, claim)
    partition.merges(USER, row)
    assert partition.events_of(USER) == 5
    partition.merges(OTHER, users)
    assert partition.events_of(OTHER) == 4


def test_an_erasure_before_the_login_concerns_what_was_before(partition: Partition) -> None:
    partition.happens(USER, 3)
    partition.erase(USER)
    partition.merges(USER, on_its_way(partition, 0))
    assert partition.events_of(USER) == 5


def test_reminders_leave_a_row_its_memory_of_events(partition: Partition) -> None:
    """Some identity services tell a login with every page: that must not push event ids out."""
    partition.happens(USER, YOUNG_EVENTS)
    row = partition.row(USER)
    row["recent_ids"] = range(10, 10 + N_RECENT_IDS)
    for n in range(30):
        partition.login(GUEST, USER, f"login-{n}")
    assert row["recent_ids"][0].tolist() == [*range(10, 10 + N_RECENT_IDS)]


def test_at_least_once_no_row_is_dropped(tmp_path: Path) -> None:
    """There the claim may be out and the reminder not: the row counts for more."""
    partition = Partition(tmp_path / "0", "at_least_once")
    row = on_its_way(partition, 2)
    partition.erase(USER)
    partition.merges(USER, row)
    assert partition.events_of(USER) == 5
    partition.store.close()
