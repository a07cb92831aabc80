"""The changelog's tail into the store, from a real broker: holes, tombstones, aborted transactions, time-outs."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from stream.errors import LostCommitError, PartitionError
from stream.kafka.applied import KEY
from stream.kafka.cluster import log_ranges
from stream.kafka.producer import BulkProducer
from stream.kafka.restore import confirm, restore
from stream.kafka.rocksdb import RocksDB
from stream.kafka.store import Store
from tests.e2e.harness import Site, wait_until


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "0", {}, RocksDB(1 << 20), 10_000)
    yield made
    made.close()


def write(site: Site, records: dict[bytes, bytes | None]) -> None:
    producer = BulkProducer(site.settings, 0)
    producer.send_with_headers(site.settings.changelog, [(key, value, []) for key, value in records.items()])
    producer.flush()
    producer.close()


def log(site: Site) -> tuple[int, int]:
    client = AdminClient({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    return log_ranges(client, [(site.settings.changelog, 0)])[site.settings.changelog, 0]


def transaction(site: Site, records: dict[bytes, bytes], *, commit: bool) -> None:
    producer = Producer(
        {"bootstrap.servers": site.settings.bootstrap, "transactional.id": f"{site.settings.app_id}-0", "log_level": 0}
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    for key, value in records.items():
        producer.produce(site.settings.changelog, value, key, 0)
    producer.flush()
    if commit:
        producer.commit_transaction(20)
    else:
        producer.abort_transaction(20)


def test_everything_from_the_beginning_and_the_rest_from_there(site: Site, store: Store) -> None:
    rows: dict[bytes, bytes | None] = {b"user-%d" % i: b"\x02%d" % i * 100 for i in range(12_000)}
    write(site, rows | {KEY: b"applied 1"})
    counted: list[int] = []
    assert restore(store, site.settings, 0, log(site), counted.append) == 12_001
    assert sum(counted) == 12_001
    assert (store.applied, store.changelog_offset) == (b"applied 1", 12_001)
    assert dict(store.items()) == rows
    # Nothing new, nothing read.
    assert restore(store, site.settings, 0, log(site), counted.append) == 0
    write(site, {b"user-1": None, b"user-2": b"\2new", KEY: b"applied 2"})
    assert restore(store, site.settings, 0, log(site), counted.append) == 3
    assert store.get([b"user-1", b"user-2", b"user-3"]) == [None, b"\2new", b"\x023" * 100]
    assert (store.applied, store.changelog_offset) == (b"applied 2", 12_004)


def held(site: Site, store: Store) -> None:
    confirm(store, site.settings, 0, log(site))


def test_an_empty_changelog(site: Site, store: Store) -> None:
    assert restore(store, site.settings, 0, log(site), lambda _: None) == 0
    assert store.applied is None


def test_holes_at_the_end_of_the_log(site: Site, store: Store) -> None:
    """Transaction markers have offsets that no reader sees: the last record is not the end."""
    transaction(site, {b"a": b"\2", KEY: b"applied"}, commit=True)
    transaction(site, {b"a": b"\2aborted", b"b": b"\2aborted"}, commit=False)
    wait_until(lambda: log(site)[1] > 5, "the marker of what was aborted", 10)
    first, end = log(site)
    assert (first, end) == (0, 6)
    assert restore(store, site.settings, 0, (first, end), lambda _: None) == 2
    assert (store.get([b"a", b"b"]), store.applied, store.changelog_offset) == ([b"\2", None], b"applied", 6)


def test_only_holes(site: Site, store: Store) -> None:
    transaction(site, {b"a": b"\2aborted"}, commit=False)
    assert restore(store, site.settings, 0, log(site), lambda _: None) == 0
    assert store.get([b"a"]) == [None]


def test_a_store_that_is_ahead_of_the_log(site: Site, store: Store) -> None:
    store.put({}, b"applied", 7)
    with pytest.raises(LostCommitError, match=r"stands at offset 7 of .*-rows-changelog\[0\], which ends at 0"):
        held(site, store)


def test_what_was_committed_is_found_again(site: Site, store: Store) -> None:
    held(site, store)  # an empty one
    transaction(site, {b"a": b"\2", KEY: b"applied"}, commit=True)
    wait_until(lambda: log(site)[1] == 3, "the marker", 10)
    store.put({b"a": b"\2"}, b"applied", 3, 1)
    held(site, store)
    write(site, {b"a": b"\2", KEY: b"applied by another"})
    held(site, store)
    assert restore(store, site.settings, 0, log(site), lambda _: None) == 2
    assert (store.applied, store.applied_offset) == (b"applied by another", 4)
    held(site, store)


@pytest.mark.parametrize("then", ["nothing", "more"])
def test_what_was_taken_for_committed_and_is_not(site: Site, store: Store, then: str) -> None:
    """It was aborted; or other records came to lie there."""
    transaction(site, {b"a": b"\2", KEY: b"applied"}, commit=False)
    wait_until(lambda: log(site)[1] == 3, "the marker", 10)
    if then == "more":
        write(site, {b"a": b"\2", KEY: b"applied by another"})
    store.put({b"a": b"\2"}, b"applied", 3, 1)
    message = r"what it took for committed at offset 1 of .*-rows-changelog\[0\] is not"
    with pytest.raises(LostCommitError, match=message):
        held(site, store)
    store.put({b"a": b"\2"}, b"another value", 5, 4)
    with pytest.raises(LostCommitError, match="at offset 4" if then == "more" else "stands at offset 5"):
        held(site, store)


@pytest.mark.parametrize("commit", [True, False])
def test_rows_that_are_ahead_are_of_a_commit_that_is_there(site: Site, store: Store, commit: bool) -> None:
    """The process ended while it wrote them, before it wrote where they are from."""
    transaction(site, {b"a": b"\2", KEY: b"applied"}, commit=commit)
    wait_until(lambda: log(site)[1] == 3, "the marker", 10)
    store.ahead = (1, b"applied")
    if commit:
        held(site, store)
    else:
        with pytest.raises(LostCommitError, match="at offset 1"):
            held(site, store)
    store.ahead = (3, b"applied")
    with pytest.raises(LostCommitError, match="stands at offset 4"):
        held(site, store)


def test_what_is_no_longer_there_was_compacted_away(site: Site, store: Store) -> None:
    """As where a marker lies: no reader sees anything there."""
    transaction(site, {b"a": b"\2", KEY: b"applied"}, commit=True)
    wait_until(lambda: log(site)[1] == 3, "the marker", 10)
    write(site, {KEY: b"applied by another"})
    store.put({b"a": b"\2"}, b"older", 3, 2)
    held(site, store)


def test_a_log_that_ends_too_early_is_given_up(site: Site, store: Store) -> None:
    """As where a broker that is behind answers."""
    write(site, {b"a": b"\2"})
    settings = dataclasses.replace(site.settings, restore_timeout_ms=1_000)
    with pytest.raises(PartitionError, match=r"stands at offset 1 of 5: nothing read for 1000 ms"):
        restore(store, settings, 0, (0, 5), lambda _: None)


def test_a_partition_that_is_not_there(site: Site, store: Store) -> None:
    settings = dataclasses.replace(site.settings, restore_timeout_ms=3_000)
    with pytest.raises(PartitionError, match=r"-rows-changelog\[9\]"):
        restore(store, settings, 9, (0, 5), lambda _: None)


def test_a_row_of_another_format_is_named_and_not_taken_in(site: Site, store: Store) -> None:
    write(site, {b"a": b"\1", b"gone": None, b"b": b"\3row", KEY: b"applied"})
    message = r"-rows-changelog\[0\] offset 2: a row of format 3, this version reads \[1, 2\]"
    with pytest.raises(PartitionError, match=message):
        restore(store, site.settings, 0, log(site), lambda _: None)
    assert (store.get([b"a", b"b"]), store.applied, store.changelog_offset) == ([None, None], None, 0)
