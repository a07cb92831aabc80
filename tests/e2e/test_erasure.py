"""A user asks to be forgotten: the row and its bytes are gone, wherever they were; who comes back is new."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from stream.kafka.cluster import INPUTS
from stream.kafka.partitioner import partitions
from tests.e2e import expect
from tests.e2e.harness import Event, Read, Site, event, wait_until
from tests.e2e.logs import shop_log, trigger
from tests.e2e.test_standby import STANDBYS
from training.archive import ingest

# Its id begins like nobody else's, and is neither first nor last: tables hold it whole, not as a difference.
GONE = "dora-who-leaves-7f3a91"
USERS = [GONE, *(f"customer-{i:03}" for i in range(60)), *(f"erik-{i:03}" for i in range(60))]


def erasure(user: str, event_id: str) -> Event:
    return event("erasures", event_id=event_id, user_id=user, time_ms=time.time_ns() // 1_000_000, reason="asked")


def publish_and_wait(site: Site, events: list[Event], erasures: int) -> None:
    """Until erasures are applied too: the harness waits for the sources only."""
    site.publish([one for one in events if one.source != "erasures"])
    for one in events:
        if one.source == "erasures":
            site.put_to_partition(site.settings.topic("erasures"), one.key or b"", one.value or b"")
    site.wait_applied()

    def applied() -> bool:
        positions = [record.sources["erasures"].next_offset for record in site.applied().values()]
        return sum(positions) >= erasures

    wait_until(applied, "erasures are applied", 30)


def holds(folder: Path) -> list[str]:
    """Files of local stores that hold the id, RocksDB's own log apart: it names keys, and is rolled twice a day."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # compacted away meanwhile
            if path.is_file() and not path.name.startswith("LOG") and GONE.encode() in path.read_bytes():
                found.append(path.name)
    return found


def held(folder: Path) -> list[str]:
    """The same while a worker runs: RocksDB's journal of files may name it until the store is opened again."""
    return [name for name in holds(folder) if not name.startswith("MANIFEST")]


def clean_at_once(site: Site) -> None:
    """Have the broker compact the changelog within seconds, tombstones too: by its plan that takes days."""
    changes = {"segment.ms": "500", "max.compaction.lag.ms": "500", "delete.retention.ms": "5000"}
    changes |= {"min.cleanable.dirty.ratio": "0.001"}
    set_ = AlterConfigOpType.SET
    entries = [ConfigEntry(name, value, incremental_operation=set_) for name, value in changes.items()]
    topic = ConfigResource(ResourceType.TOPIC, site.settings.changelog, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": site.settings.bootstrap})
    for altered in admin.incremental_alter_configs([topic]).values():
        altered.result(30)


def in_changelog(site: Site) -> list[Read]:
    """The user's records there, tombstones and all; a reader sees what is on the brokers' disks."""
    return [record for record in site.read(site.settings.changelog) if record.key == GONE.encode()]


def in_archive(folder: Path) -> list[str]:
    """Files that hold the id, in what is compressed in them or beside it."""
    found = []
    for path in folder.rglob("*.parquet"):
        columns = pq.ParquetFile(path).read().select(["key", "value"]).to_pydict()
        stored = b" ".join([path.read_bytes(), *(one or b"" for column in columns.values() for one in column)])
        if GONE.encode() in stored:
            found.append(path.name)
    return found


def test_nothing_is_left_anywhere(site: Site, tmp_path: Path) -> None:
    """In the stores of owner and standby, in the changelog when the brokers have compacted it, in the archive."""
    clean_at_once(site)
    now_ms = time.time_ns() // 1_000_000
    log = shop_log(Random(6), 1_500, USERS, now_ms - 60_000, "everywhere", duplicates=0)
    settings = {"store_pending_bytes": 0, "store_flush_interval_ms": 1_000}
    bootstrap, prefix, archive = site.settings.bootstrap, site.settings.topic_prefix, tmp_path / "archive"
    folders = [tmp_path / "a", tmp_path / "b"]
    partition = int(partitions([GONE.encode()], site.settings.partitions)[0])
    others = [one for one in USERS if partitions([one.encode()], site.settings.partitions)[0] == partition][1:]
    numbers = itertools.count()

    def shop_goes_on() -> None:
        """Segments are rolled, tables flushed and files cleaned as records come."""
        n = next(numbers)
        site.publish([trigger(others[n % len(others)], f"on-{n}", time.time_ns() // 1_000_000)])
        time.sleep(0.3)

    def goes_on_until(condition: Callable[[], bool], what: str) -> None:
        def so() -> bool:
            shop_goes_on()
            return condition()

        wait_until(so, what, 90)

    with site.worker(data_dir=folders[0], **settings) as first, site.worker(data_dir=folders[1], **settings) as second:
        wait_until(lambda: first.metric(STANDBYS) == second.metric(STANDBYS) == 1, "a standby each", 30)
        site.publish(log)
        site.wait_applied([first, second])
        ingest(bootstrap, prefix, archive, lambda _done, _total: None)
        goes_on_until(lambda: all(held(folder) for folder in folders), "both stores have the row in a file")
        assert in_archive(archive)
        assert any(record.value for record in in_changelog(site))

        publish_and_wait(site, [erasure(GONE, "e1")], 1)
        goes_on_until(lambda: not any(held(folder) for folder in folders), "the stores have forgotten")
        goes_on_until(lambda: not in_changelog(site), "the changelog is compacted, the tombstone gone with it")
        assert ingest(bootstrap, prefix, archive, lambda _done, _total: None).erased > 0
        assert in_archive(archive) == []
        assert site.applied()[partition].sources["erasures"].next_offset == 1
    for folder in folders:
        assert held(folder) == []


def test_a_user_is_forgotten(site: Site) -> None:
    now_ms = time.time_ns() // 1_000_000
    log = shop_log(Random(5), 3_000, USERS, now_ms - 60_000, "erasure", duplicates=0)
    settings = {"store_pending_bytes": 0, "store_flush_interval_ms": 1_000}
    with site.worker(**settings):
        publish_and_wait(site, log, 0)
    stores = site.settings.data_dir
    assert any(name.endswith(".sst") for name in holds(stores)), "the test can find what is there"
    before = site.packed_rows()
    assert GONE.encode() in before
    others = {user: row for user, row in before.items() if user != GONE.encode()}
    with site.worker(**settings):
        publish_and_wait(site, [erasure(GONE, "e1"), erasure("nobody-we-know", "e2")], 2)
        wait_until(lambda: not held(stores), "its bytes are gone", 10)
        assert site.packed_rows() == others

    # It is gone for the next owner, with this disk and without, and whoever comes back begins anew.
    with site.worker(**settings) as worker:
        worker.wait_serving()
        publish_and_wait(site, [trigger(GONE, "back", now_ms + 1)], 2)
        row = site.rows()[GONE.encode()]
        assert (int(row["seq"]), int(row["kind_total"].sum()), int(row["first_ms"])) == (1, 1, now_ms + 1)
        assert {user: row for user, row in site.packed_rows().items() if user != GONE.encode()} == others
        publish_and_wait(site, [erasure(GONE, "e3")], 3)
        assert GONE.encode() not in site.packed_rows()
    with site.worker(**settings) as worker:
        worker.wait_serving()
    assert holds(stores) == []
    assert set(site.applied()[0].sources) == set(INPUTS)
    kept = [sent for sent in site.sent if sent[0].key != GONE.encode()]
    rows = {user: row for user, row in site.rows().items() if user != GONE.encode()}
    assert rows.keys() == {event.key for event, _ in kept}


def test_a_bad_erasure_is_a_dead_letter(site: Site) -> None:
    with site.worker():
        publish_and_wait(site, [trigger("u", "e", time.time_ns() // 1_000_000)], 0)
        site.put_to_partition(site.settings.topic("erasures"), b"u", b'{"user_id": "u"}')
        site.put_to_partition(site.settings.topic("erasures"), b"u", json.dumps({"user_id": "x"}).encode())
        wait_until(lambda: len(site.out("dead-letters")) == 2, "dead letters", 30)
    assert {r.headers["reason"] for r in site.out("dead-letters")} == {b"field_missing"}
    assert b"u" in site.packed_rows()
    expect.check_all(site, [])
