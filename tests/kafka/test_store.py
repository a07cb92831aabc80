import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.core.row import ROW_FORMAT
from stream.errors import PartitionError, StoreCorruptError
from stream.kafka.applied import KEY
from stream.kafka.rocksdb import RocksDB
from stream.kafka.store import Store, open_or_set_aside
from tests.e2e.harness import wait_until

IDENTITY = {"cluster": "c", "changelog": "t", "partitions": 4}


def new(path: Path, pending: int = 0, identity: dict[str, Any] = IDENTITY) -> Store:
    return Store(path, identity, RocksDB(1 << 20), pending)


@pytest.mark.parametrize("pending", [0, 1 << 20])
def test_what_was_put_is_read_back(tmp_path: Path, pending: int) -> None:
    store = new(tmp_path / "0", pending)
    assert store.get([b"a", b"b"]) == [None, None]
    assert (store.applied, store.changelog_offset) == (None, 0)
    store.put({b"a": b"1", b"b": b"2"}, b"applied", 10)
    store.put({b"a": b"3"}, b"applied again", 12, 10)
    assert store.get([b"b", b"x", b"a", b"b"]) == [b"2", None, b"3", b"2"]
    store.close()
    again = new(tmp_path / "0", pending)
    assert again.get([b"a", b"b", b"x"]) == [b"3", b"2", None]
    assert (again.applied, again.changelog_offset, again.applied_offset) == (b"applied again", 12, 10)
    assert dict(again.items()) == {b"a": b"3", b"b": b"2"}
    assert again.rows_estimated() >= 2
    again.close()


@pytest.mark.parametrize("pending", [0, 1 << 20])
def test_a_tombstone_removes(tmp_path: Path, pending: int) -> None:
    store = new(tmp_path / "0", pending)
    store.replay([(b"a", b"1"), (b"b", b"2"), (KEY, b"applied"), (b"a", None)], 4)
    assert store.get([b"a", b"b"]) == [None, b"2"]
    store.close()
    again = new(tmp_path / "0", pending)
    assert again.get([b"a", b"b"]) == [None, b"2"]
    assert (again.applied, again.applied_offset) == (b"applied", None)  # where it lay was not said
    again.replay([(KEY, b"applied again")], 5, 4)
    again.replay([(b"b", b"3")], 6)
    again.close()
    again = new(tmp_path / "0", pending)
    assert (again.applied, again.changelog_offset, again.applied_offset) == (b"applied again", 6, 4)
    again.close()


def test_a_store_of_a_version_that_did_not_note_where_its_applied_record_lies(tmp_path: Path) -> None:
    store = new(tmp_path / "0")
    store.put({b"a": b"1"}, b"applied", 300)
    assert store._read(b"\xff\x01") == (300).to_bytes(8, "big")  # as that version wrote it
    store.close()
    again = new(tmp_path / "0")
    assert (again.applied, again.changelog_offset, again.applied_offset) == (b"applied", 300, None)
    again.close()


Step = tuple[str, dict[bytes, bytes | None]]
_KEYS = st.sampled_from([b"a", b"b", b"c", "ü".encode()])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "replay", "write", "flush", "close", "abandon"]),
            st.dictionaries(_KEYS, st.none() | st.binary(min_size=1, max_size=40)),
        ),
        max_size=12,
    ),
    st.sampled_from([0, 60, 1 << 20]),
)
def test_rows_applied_record_and_offset_are_always_of_one_moment(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], pending: int
) -> None:
    """Whatever happened, a store that is opened again stands at one of the moments that it went through.

    After a close it is the last one.
    """
    path = tmp_path_factory.mktemp("store") / "0"
    store = new(path, pending)
    rows: dict[bytes, bytes] = {}
    moments: list[tuple[int, bytes | None, dict[bytes, bytes]]] = [(0, None, {})]
    for step, changes in steps:
        offset = moments[-1][0] + 1
        applied = b"applied %d" % offset
        if step == "put":
            changed = {k: v for k, v in changes.items() if v is not None}
            rows |= changed
            store.put(changed, applied, offset)
        elif step == "replay":
            rows = {k: v for k, v in (rows | changes).items() if v is not None}
            store.replay([*changes.items(), (KEY, applied)], offset)
        elif step == "write":
            store.write()
        elif step == "flush":
            store.flush()
        else:
            store.close() if step == "close" else store.abandon()
            store = new(path, pending)
            found = (store.changelog_offset, store.applied, dict(store.items()))
            if step == "close":
                assert found == moments[-1]
            assert found in moments
            moments = [*moments, found]
            rows = dict(found[2])
        if step in {"put", "replay"}:
            moments.append((offset, applied, dict(rows)))
        assert dict(zip([b"a", b"b", b"c"], store.get([b"a", b"b", b"c"]), strict=True)) == {
            k: rows.get(k) for k in (b"a", b"b", b"c")
        }
    store.abandon()


def cut_off_in_the_midst_of_a_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are in RocksDB, durable; what is written behind them is not."""
    write = Store._write
    batches: list[Any] = []

    def some(self: Store, batch: Any) -> None:
        if len(batches) < 2:
            write(self, batch)
        batches.append(batch)

    monkeypatch.setattr(Store, "_write", some)
    store.write()
    monkeypatch.undo()
    assert len(batches) == 3
    store._db.flush()
    store.abandon()


def test_a_write_that_was_cut_off_says_how_far_rows_are_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new(tmp_path / "0")
    store.put({b"a": b"1"}, b"applied", 10, 8)
    assert store.ahead is None
    store._pending_bytes_max = 1 << 20
    store.put({b"a": b"2"}, b"applied again", 14, 12)
    cut_off_in_the_midst_of_a_write(store, monkeypatch)
    again = new(tmp_path / "0")
    assert again.get([b"a"]) == [b"2"]
    assert (again.applied, again.changelog_offset, again.applied_offset) == (b"applied", 10, 8)
    assert again.ahead == (12, b"applied again")
    again.replay([(b"a", b"2"), (KEY, b"applied again")], 14, 12)
    again.close()
    again = new(tmp_path / "0")
    assert (again.applied, again.changelog_offset, again.ahead) == (b"applied again", 14, None)
    again.close()


def test_nothing_goes_to_a_write_ahead_log(tmp_path: Path) -> None:
    store = new(tmp_path / "0")
    store.put({b"a": b"x" * 1000}, b"applied", 1)
    store.write()
    assert [file.stat().st_size for file in (tmp_path / "0" / "rows").glob("*.log")] == [0]
    store.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
from stream.kafka.rocksdb import RocksDB
from stream.kafka.store import Store
store = Store(Path(sys.argv[1]), {"cluster": "c", "changelog": "t", "partitions": 4}, RocksDB(1 << 20), 0)
store.put({b"a": b"flushed"}, b"1", 1)
store.flush()
store.put({b"a": b"written"}, b"2", 2)
store.write()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_it_stands_at_its_last_flush(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "0")], check=False)
    store = new(tmp_path / "0")
    assert (store.get([b"a"]), store.applied, store.changelog_offset) == ([b"flushed"], b"1", 1)
    store.close()


def _identity(path: Path, **changes: Any) -> None:
    found = json.loads((path / "identity.json").read_text())
    assert found == IDENTITY | {"row_format": ROW_FORMAT}
    (path / "identity.json").write_text(json.dumps(found | changes))


def _no_tables(path: Path) -> None:
    for file in (path / "rows").glob("*.sst"):
        file.unlink()


def _old(path: Path) -> None:
    for file in (path / "rows").iterdir():
        os.utime(file, (time.time() - 500, time.time() - 500))


def _a_file(path: Path) -> None:
    (path / "rows").rename(path / "other")
    (path / "rows").touch()


BAD: dict[str, Callable[[Path], Any]] = {
    "another cluster": lambda path: _identity(path, cluster="d"),
    "another topic": lambda path: _identity(path, changelog="u"),
    "another partition count": lambda path: _identity(path, partitions=8),
    "another row format": lambda path: _identity(path, row_format=ROW_FORMAT + 1),
    "cut identity": lambda path: (path / "identity.json").write_text("{"),
    "identity is no object": lambda path: (path / "identity.json").write_text("[]"),
    "no current": lambda path: (path / "rows" / "CURRENT").write_bytes(b"x"),
    "no table": _no_tables,
    "old": _old,
    "a file": _a_file,
}


@pytest.mark.parametrize("harm", BAD.values(), ids=BAD.keys())
def test_a_bad_store_is_set_aside_and_an_empty_one_takes_its_place(
    tmp_path: Path, harm: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "0"
    for value in (b"1", b"2"):  # the second time there is one set aside already
        store = open_or_set_aside(path, IDENTITY, RocksDB(1 << 20), 0, 100)
        assert store.get([b"a"]) == [None]
        store.put({b"a": value}, b"applied", 1)
        store.close()
        harm(path)
    store = open_or_set_aside(path, IDENTITY, RocksDB(1 << 20), 0, 100)
    assert (store.get([b"a"]), store.applied, store.changelog_offset) == ([None], None, 0)
    store.close()
    assert (tmp_path / "0.set-aside").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "0.set-aside"]
    assert str(path) in caplog.text


def test_a_good_store_stays(tmp_path: Path) -> None:
    for n in range(3):
        store = open_or_set_aside(tmp_path / "0", IDENTITY, RocksDB(1 << 20), 0, 100, lock_timeout_s=0.3)
        assert store.changelog_offset == n
        store.put({}, b"applied", n + 1)
        store.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0"]


def test_a_rotten_block_is_not_trusted_twice(tmp_path: Path) -> None:
    path = tmp_path / "0"
    store = new(path)
    store.put({b"%05d" % i: os.urandom(200) for i in range(500)}, b"applied", 1)
    store.close()
    (table,) = (path / "rows").glob("*.sst")
    content = bytearray(table.read_bytes())
    content[1000 : len(content) // 2] = bytes(len(content) // 2 - 1000)
    table.write_bytes(content)
    store = new(path)  # it opens
    with pytest.raises(StoreCorruptError, match="RocksDB"):
        store.get([b"%05d" % i for i in range(500)])
    store.abandon()
    with pytest.raises(StoreCorruptError, match="broken"):
        new(path)


def test_a_rotten_block_that_a_compaction_finds(tmp_path: Path) -> None:
    """Nobody reads those users; the store is given up all the same, closes, and is not opened again."""
    path = tmp_path / "0"
    rows = {b"user-%03d" % i: random.Random(i).randbytes(300) for i in range(200)}
    store = new(path)
    for i in range(3):
        store.put(rows, b"applied", i)
        store.flush()
    store.close()
    for table in path.rglob("*.sst"):
        content = bytearray(table.read_bytes())
        content[100] ^= 1
        table.write_bytes(content)
    store = new(path)
    with pytest.raises(StoreCorruptError, match="Corruption"):
        _write_until_compacted(store, rows)
    store.abandon()
    with pytest.raises(StoreCorruptError, match="broken"):
        new(path)


def _write_until_compacted(store: Store, rows: dict[bytes, bytes]) -> None:
    for i in range(50):
        store.put(rows, b"applied", 10 + i)
        store.flush()
        time.sleep(0.02)


@pytest.mark.parametrize("harm", [None, "another cluster", "cut identity", "old"])
def test_a_store_that_another_has_open_is_not_set_aside(tmp_path: Path, harm: str | None) -> None:
    """Whatever is wrong with it, only who has it open may judge it: its files are in use."""
    store = new(tmp_path / "0")
    if harm:
        BAD[harm](tmp_path / "0")
    with pytest.raises(PartitionError, match="OFFERSTREAM_DATA_DIR") as raised:
        open_or_set_aside(tmp_path / "0", IDENTITY, RocksDB(1 << 20), 0, 100, lock_timeout_s=0.3)
    assert not isinstance(raised.value, StoreCorruptError)
    store.put({b"a": b"1"}, b"applied", 1)
    store.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0"]


def test_a_disk_that_takes_nothing_is_named(tmp_path: Path) -> None:
    store = new(tmp_path / "0")
    store.put({b"a": b"1"}, b"applied", 1)
    store._db.close()
    with pytest.raises(PartitionError, match="cannot write"):
        store.flush()


def test_a_stopped_writer_holds_up_nobody_else_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stream.kafka.store._SLOW_DISK_S", 0.05)
    store = new(tmp_path / "0")
    database = store._db
    # One table is too many, and nothing compacts it.
    database.set_options({"level0_file_num_compaction_trigger": "100", "level0_stop_writes_trigger": "1"})
    store.put({b"a": b"1"}, b"applied", 1)
    database.flush()
    assert database.property_int_value("rocksdb.is-write-stopped")
    writer = threading.Thread(target=store.put, args=({b"b": b"2"}, b"applied", 2), daemon=True)
    writer.start()
    wait_until(lambda: "has taken no writes for" in caplog.text, "it says so", 30)  # so Python's lock is free
    assert writer.is_alive()
    database.compact_range(None, None)
    writer.join(10)
    assert not writer.is_alive()
    assert store.get([b"b"]) == [b"2"]
    store.close()


def test_what_is_removed_is_gone_from_the_tables_with_the_next_flush(tmp_path: Path) -> None:
    """A deletion alone hides the bytes and leaves them."""
    gone = b"dora-who-leaves-7f3a91"
    users = [b"customer-%03d" % i for i in range(60)] + [gone] + [b"erik-%03d" % i for i in range(60)]

    def tables() -> list[str]:
        return [path.name for path in (tmp_path / "0" / "rows").glob("*.sst") if gone in path.read_bytes()]

    store = new(tmp_path / "0")
    for i in range(2):  # two tables
        store.put({user: os.urandom(300) for user in users}, b"applied", 10 * i)
        store.flush()
    assert tables()
    store.put({gone: None}, b"applied", 30)
    asked = [store.must_forget]
    store.flush()
    assert [*asked, store.must_forget] == [True, False]
    assert tables() == []
    assert store.get([gone, users[0]])[0] is None
    # A standby learns of it from the changelog.
    store.replay([(gone, os.urandom(300))], 40)
    store.flush()
    assert tables()
    store.replay([(gone, None)], 50)
    store.flush()
    assert tables() == []
    assert {key for key, _ in store.items()} == set(users) - {gone}
    store.close()
