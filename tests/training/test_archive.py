import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stream.campaigns.logs import read_file
from stream.kafka.partitioner import partitions
from training import files
from training.archive import ARCHIVED, MANIFEST, ingest, read_manifest, read_records
from training.cli import cli
from training.erasures import ERASURES
from training.errors import TrainingError
from training.sources import read_archive, read_topics

NOW_S = int(time.time()) - 3 * 86_400
N_PARTITIONS = 2


def silent(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def shop(broker: str, topic_prefix: str) -> Iterator[tuple[str, str]]:
    """(bootstrap, prefix) with every topic that `ingest` reads, two partitions each, and events of two days."""
    admin = AdminClient({"bootstrap.servers": broker})
    made = [NewTopic(topic_prefix + topic, N_PARTITIONS, 1) for topic in (*ARCHIVED, ERASURES)]
    for future in admin.create_topics(made).values():
        future.result(30)
    produce(broker, topic_prefix, range(60))
    yield broker, topic_prefix
    for future in admin.delete_topics([topic.topic for topic in made]).values():
        future.result(30)


def produce(bootstrap: str, prefix: str, numbers: range) -> None:
    """One view each, every third an order, hours apart; one record that no worker can read."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{prefix}{numbers.start}"})
    producer.init_transactions()  # markers take offsets of their own: gaps that must not look like losses
    for n in numbers:
        user, second = f"user-{n % 7}", NOW_S + 1_800 * n
        said: dict[str, Any] = {"event_id": f"e{n}", "user_id": user, "time_ms": second * 1000, "kind": "product_view"}
        topic = "clickstream"
        if n % 3 == 0:
            topic = "orders"
            said |= {"kind": "placed", "order_id": f"o{n}", "total_minor": 100, "currency": "EUR"}
        value = b"not json" if n == 10 else json.dumps(said).encode()
        producer.begin_transaction()
        producer.produce(
            prefix + topic,
            key=user.encode(),
            value=value,
            partition=int(partitions([user.encode()], N_PARTITIONS)[0]),
            timestamp=second * 1000,
        )
        producer.commit_transaction(30)


def publish(bootstrap: str, topic: str, key: bytes | None, value: bytes, partition: int, time_ms: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, value, key, partition, timestamp=time_ms)
    assert producer.flush(30) == 0


def erase(bootstrap: str, prefix: str, user: str, time_ms: int) -> int:
    """Ask for a user to be forgotten; the partition."""
    partition = int(partitions([user.encode()], N_PARTITIONS)[0])
    said = json.dumps({"event_id": f"forget-{user}-{time_ms}", "user_id": user, "time_ms": time_ms}).encode()
    publish(bootstrap, prefix + ERASURES, user.encode(), said, partition, time_ms)
    return partition


def archived(folder: Path) -> dict[tuple[str, int, int], tuple[bytes | None, bytes | None]]:
    """Key and value by (topic, partition, offset)."""
    manifest = read_manifest(folder)
    return {
        (topic, partition, record.offset): (record.key, record.value)
        for topic in ARCHIVED
        for partition in range(N_PARTITIONS)
        for records in read_records(folder, manifest, topic, partition)
        for record in records
    }


def holding(folder: Path, user: str) -> list[Path]:
    """Files that hold the id: in what they store compressed, and in what they say about it."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            if path.suffix == ".parquet":
                columns = pq.ParquetFile(path).read().select(["key", "value"]).to_pydict()
                held += b" ".join(one or b"" for column in columns.values() for one in column)
            if user.encode() in held:
                found.append(path)
    return found


def same_log(one: Any, other: Any) -> None:
    assert one[0].users == other[0].users
    np.testing.assert_array_equal(one[0].row, other[0].row)
    np.testing.assert_array_equal(one[0].events, other[0].events)
    assert one[1][:4] == other[1][:4]


def test_an_archive_reads_as_the_broker_does(shop: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    first = ingest(*shop, folder, silent)
    assert first.records == 60
    same_log(read_archive(folder, "EUR", silent), read_topics(*shop, "EUR", silent))
    days = {path.parent.parent.name for path in folder.rglob("*.parquet")}
    assert len(days) >= 2
    assert {path.parts[-4] for path in folder.rglob("*.parquet")} == {"topic=clickstream", "topic=orders"}


def test_an_archive_is_a_log_to_simulate_campaigns_on(shop: tuple[str, str], tmp_path: Path) -> None:
    bootstrap, prefix = shop
    ingest(bootstrap, prefix, tmp_path / "archive", silent)
    log, counts = read_archive(tmp_path / "archive", "EUR", silent)
    printed = CliRunner().invoke(cli, ["archive-lines", str(tmp_path / "archive")])
    assert printed.exit_code == 0, printed.output
    (tmp_path / "records.jsonl").write_text(printed.stdout)
    read = read_file(str(tmp_path / "records.jsonl"), "records", "EUR")
    assert (len(read.log.events), read.broken + read.refused) == (counts.events, counts.dead)
    assert sorted(read.log.events["event_id"]) == sorted(log.events["event_id"])
    missing = CliRunner().invoke(cli, ["archive-lines", str(tmp_path / "nothing")])
    assert (missing.exit_code, "nothing" in missing.output) == (1, True)


def test_a_repeated_run_neither_loses_nor_doubles(shop: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    ingest(*shop, folder, silent)
    before = sorted(folder.rglob("*.parquet"))
    assert ingest(*shop, folder, silent).records == 0
    assert sorted(folder.rglob("*.parquet")) == before
    produce(*shop, range(60, 75))
    assert ingest(*shop, folder, silent).records == 15
    same_log(read_archive(folder, "EUR", silent), read_topics(*shop, "EUR", silent))


@pytest.mark.parametrize("killed_at", [1, 2, 3, 5])
def test_a_run_that_was_killed_is_taken_up(
    shop: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Killed between any two files: what is beyond the manifest is passed over, then written anew."""
    folder = tmp_path / "archive"
    monkeypatch.setattr("training.archive.RANGE_RECORDS_MAX", 5)
    written = 0
    real = files.write_whole

    def until_killed(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > killed_at:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.1.part").write_bytes(data[:100])
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr("training.archive.write_whole", until_killed)
    monkeypatch.setattr("training.files.write_whole", until_killed)
    with pytest.raises(KeyboardInterrupt):
        ingest(*shop, folder, silent)
    monkeypatch.setattr("training.archive.write_whole", real)
    monkeypatch.setattr("training.files.write_whole", real)
    if (folder / MANIFEST).exists():  # half an archive is a whole one of less
        manifest = read_manifest(folder)
        for topic in ARCHIVED:
            for partition in range(N_PARTITIONS):
                offsets = [r.offset for records in read_records(folder, manifest, topic, partition) for r in records]
                assert all(offset < manifest.end[topic][partition] for offset in offsets)
    found = ingest(*shop, folder, silent)
    assert found.leftovers > 0
    same_log(read_archive(folder, "EUR", silent), read_topics(*shop, "EUR", silent))
    assert not list(folder.rglob("*.part"))


def test_who_asks_to_be_forgotten_is_forgotten(shop: tuple[str, str], tmp_path: Path) -> None:
    """By the next run, in files that are there and in new ones; what comes later is kept."""
    bootstrap, prefix = shop
    folder, user, now_ms = tmp_path / "archive", "user-0", int(time.time() * 1000)
    unkeyed = json.dumps({"user_id": user}).encode()
    publish(bootstrap, f"{prefix}feedback", None, unkeyed, 0, now_ms - 1)
    ingest(*shop, folder, silent)
    before = archived(folder)
    assert len(holding(folder, user)) >= 3
    partition = erase(bootstrap, prefix, user, now_ms)
    publish(bootstrap, prefix + ERASURES, b"user-1", b"no erasure", partition, now_ms)
    publish(bootstrap, f"{prefix}feedback", user.encode(), b"{}", partition, now_ms - 1)
    publish(bootstrap, f"{prefix}feedback", b"user-1", b"{}", partition, now_ms - 1)
    found = ingest(*shop, folder, silent)
    assert holding(folder, user) == []
    kept = {place: said for place, said in before.items() if said[0] != user.encode() and said[1] != unkeyed}
    now = archived(folder)
    (new,) = now.keys() - kept.keys()
    assert now.pop(new) == (b"user-1", b"{}")
    assert now == kept
    assert found.erased == len(before) - len(kept) + 1
    assert read_archive(folder, "EUR", silent)[1].events == len(kept) - 1  # one of them is no JSON

    publish(bootstrap, f"{prefix}feedback", user.encode(), b"back", partition, now_ms + 1)
    assert (ingest(*shop, folder, silent).erased, ingest(*shop, folder, silent).erased) == (0, 0)
    assert (user.encode(), b"back") in archived(folder).values()


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_an_erasure_that_was_killed_is_taken_up(
    shop: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Between any two files: the archive can be read, and the next run forgets the rest."""
    folder, user = tmp_path / "archive", "user-0"
    ingest(*shop, folder, silent)
    before, held = archived(folder), len(holding(folder, user))
    assert held >= 3
    erase(*shop, user, int(time.time() * 1000))
    written = 0
    real = files.write_whole

    def until_killed(path: Path, data: bytes) -> None:
        nonlocal written
        if written == killed_at:
            raise KeyboardInterrupt
        written += 1
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("training.archive.write_whole", until_killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(*shop, folder, silent)
    assert len(holding(folder, user)) == held - killed_at
    assert archived(folder).items() <= before.items()
    ingest(*shop, folder, silent)
    assert holding(folder, user) == []
    assert archived(folder) == {place: said for place, said in before.items() if said[0] != user.encode()}


def test_erasures_that_retention_deleted_are_missed(shop: tuple[str, str], tmp_path: Path) -> None:
    bootstrap, prefix = shop
    folder = tmp_path / "archive"
    ingest(*shop, folder, silent)
    partition = erase(bootstrap, prefix, "user-0", int(time.time() * 1000))
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(prefix + ERASURES, partition, 1)]).values():
        future.result(30)
    with pytest.raises(TrainingError, match=r"erasures\[\d\]: offsets 0 to 0 were deleted before"):
        ingest(*shop, folder, silent)
    ingest(*shop, tmp_path / "another", silent)


def test_bad_files_are_named(shop: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    ingest(*shop, folder, silent)
    path = next(path for path in sorted(folder.rglob("*.parquet")) if "clickstream" in str(path))
    whole = path.read_bytes()

    def refused(text: str) -> None:
        with pytest.raises(TrainingError, match=text) as raised:
            read_archive(folder, "EUR", silent)
        assert str(folder) in str(raised.value)

    path.unlink()
    refused(r"clickstream\[\d\], offsets 0 to \d+, a file is missing")
    path.write_bytes(whole[: len(whole) // 2])
    refused(f"{path.name}: cannot be read")
    path.write_bytes(whole)
    (path.parent / "notes.txt").write_text("mine")
    refused(r"notes\.txt: no file of an archive")
    (path.parent / "notes.txt").unlink()
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["key"]), path)
    refused(r"columns \['offset', 'timestamp_ms', 'value'\]")
    path.write_bytes(whole)
    (folder / MANIFEST).write_text("{")
    refused("not the manifest of an archive")


def test_topics_made_anew_are_another_archive(shop: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    ingest(*shop, folder, silent)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["end"]["orders"][0] += 1_000
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match="another topic of that name, or records were lost"):
        ingest(*shop, folder, silent)


def test_the_command_line(shop: tuple[str, str], tmp_path: Path) -> None:
    bootstrap, prefix = shop
    args = ["ingest", "--archive", str(tmp_path / "archive"), "--bootstrap", bootstrap, "--topic-prefix", prefix]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    assert "60 records" in result.output
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(cli, ["run", "--events", str(tmp_path / "empty"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "it has no archive.json" in " ".join(result.output.split())
