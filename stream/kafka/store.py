"""The local store: every row of one partition in RocksDB, behind the columns.

It holds what was sent, byte for byte, and where in the changelog that ends. There is no write-ahead log, for the
changelog is one: after a kill the store stands at its last flush and the partition replays the changelog from there.

Rows are kept back in memory first (`pending`) and written when they have grown to some megabytes: a user who is active
now costs one RocksDB write for many changes. A pending row is as good as a stored one to every reader.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rocksdict import Rdict, ReadOptions, WriteBatch, WriteOptions

from stream.core.row import ROW_FORMAT
from stream.errors import PartitionError, StoreCorruptError
from stream.kafka import applied as applied_record
from stream.kafka.rocksdb import Databases

logger = logging.getLogger(__name__)

_OFFSET_KEY = b"\xff\x01"  # next changelog offset to read, and that of the applied record; no user id is like it
_AHEAD_KEY = b"\xff\x02"  # the offset of the applied record that rows may be ahead up to, and the record
_IDENTITY_FILE = "identity.json"
_WANTED_FILE = "wanted"

LOCK_TIMEOUT_S = 15.0
_LOCKED = ("While lock file", "lock hold by current process")  # what RocksDB says

_WRITE_ROWS = 1000
_ROOM_POLL_S = 0.005
_SLOW_DISK_S = 5.0


class Store:
    """Rows by user id, the applied record and the changelog offset, all of one moment."""

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        databases: Databases,
        pending_bytes_max: int,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        age_max_s: float = math.inf,
    ) -> None:
        """Open the store, or make it.

        Only who has it open may judge it: to its owner, a worker on the same disk, it is as it should be.

        Args:
            path: its folder, of its own.
            identity: what it must belong to: cluster, changelog topic id, partitions. Kept beside the database.
            databases: opens its database.
            pending_bytes_max: rows kept back before they are written.
            lock_timeout_s: how long another owner has to let go of it.
            age_max_s: since its files were last written.

        Raises:
            StoreCorruptError: it belongs to something else, was written in another row format, is too old, or cannot be
                opened.
            PartitionError: another worker has it open.
        """
        self.path = path
        self._identity_file = path / _IDENTITY_FILE
        path.mkdir(parents=True, exist_ok=True)
        self._databases = databases
        self._db, age_s = _open(path / "rows", databases, lock_timeout_s)
        try:
            self._check_age(age_s, age_max_s)
            offset = self._read(_OFFSET_KEY)
            self.applied = self._read(applied_record.KEY)
            ahead = self._read(_AHEAD_KEY)
            self._check_identity({**identity, "row_format": ROW_FORMAT}, new=offset is None)
        except StoreCorruptError:
            self.abandon()
            raise
        write_options = WriteOptions()
        write_options.disable_wal = True
        self._db.set_write_options(write_options)
        offset = offset or b""
        self.changelog_offset = int.from_bytes(offset[:8], "big")
        self.applied_offset = int.from_bytes(offset[8:], "big") if offset[8:] else None
        """Of the applied record in the changelog; None = there is none, or a version that did not note it wrote it."""
        self.ahead = (int.from_bytes(ahead[:8], "big"), ahead[8:]) if ahead else None
        """Rows may be of a later commit, since a process ended within `write`: offset and text of its record."""
        self._pending: dict[bytes, bytes | None] = {}
        self._pending_bytes = 0
        self._pending_bytes_max = pending_bytes_max
        self._removed: set[bytes] = set()
        """Users whose bytes may still be in the files."""
        self._flushed_at_s = time.monotonic()

    def _read(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as e:  # rocksdict raises bare Exception for every RocksDB status
            raise StoreCorruptError(f"{self.path}: RocksDB: {e}") from e
        return value

    def _check_age(self, age_s: float, age_max_s: float) -> None:
        if age_s > age_max_s:
            raise StoreCorruptError(f"{self.path}: last written {age_s:.0f} s ago, older than {age_max_s:.0f} s")

    def _check_identity(self, identity: dict[str, Any], *, new: bool) -> None:
        if new and not self._identity_file.exists():
            self._identity_file.write_text(json.dumps(identity))
            return
        try:
            found = json.loads(self._identity_file.read_text())
        except (OSError, ValueError) as e:
            raise StoreCorruptError(f"{self.path}: no readable {_IDENTITY_FILE} ({e})") from e
        if found != identity:
            raise StoreCorruptError(f"{self.path}: belongs to {found}, wanted {identity}")

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Packed rows, None where there is none, in order."""
        pending = self._pending
        found: list[bytes | None] = [pending.get(key) for key in keys]
        absent = [i for i, row in enumerate(found) if row is None and keys[i] not in pending]
        if absent:
            try:
                stored = self._db.get([keys[i] for i in absent])
            except Exception as e:  # see _read
                raise self.broken(f"RocksDB: {e}") from e
            for i, row in zip(absent, stored, strict=True):
                found[i] = row
        return found

    def broken(self, why: str) -> StoreCorruptError:
        """Mark the store, so that the next owner sets it aside: RocksDB opens one with a rotten block every time."""
        self._identity_file.write_text(json.dumps({"broken": why}))
        return StoreCorruptError(f"{self.path}: {why}")

    def put(
        self,
        rows: Mapping[bytes, bytes | None],
        applied: bytes,
        changelog_offset: int,
        applied_offset: int | None = None,
    ) -> None:
        """Take in what a commit sent: packed rows by user, the applied record, the changelog's offset behind it."""
        self._pending.update(rows)
        there = list(filter(None, rows.values()))
        self._pending_bytes += sum(map(len, there))
        if len(there) < len(rows):
            self._removed.update(user for user, row in rows.items() if row is None)
        self.applied, self.applied_offset = applied, applied_offset
        self._reach(changelog_offset)

    def replay(
        self, records: Iterable[tuple[bytes, bytes | None]], changelog_offset: int, applied_offset: int | None = None
    ) -> None:
        """Take in records as they lie in the changelog, up to `changelog_offset`; value None removes a row.

        Args:
            records: keys and values.
            changelog_offset: behind them.
            applied_offset: of the last applied record among them, if there is one and it is known.
        """
        for key, value in records:
            if key == applied_record.KEY:
                self.applied, self.applied_offset = value, applied_offset
            else:
                self._pending[key] = value
                if value is None:
                    self._removed.add(key)
                self._pending_bytes += len(key) + len(value or b"")
        self._reach(changelog_offset)

    def _reach(self, changelog_offset: int) -> None:
        self.changelog_offset = changelog_offset
        if self._pending_bytes > self._pending_bytes_max:
            self.write()

    def write(self) -> None:
        """Write what is pending to RocksDB, the applied record and the offset last.

        In many small batches, since rocksdict holds Python's lock while RocksDB takes one: 32 MB at once would hold up
        the event loop for 40 ms. If the process ends between two of them, rows are ahead of the offset; the changelog
        is replayed from the offset on and has each of them, or a later one. That it has is looked up: so it is written
        first of which commit they are.

        Raises:
            StoreCorruptError: it found a rotten block.
            PartitionError: RocksDB does not take it.
        """
        if self._pending and self.applied and self.applied_offset is not None:
            batch = self._databases.batch()
            batch.put(_AHEAD_KEY, self.applied_offset.to_bytes(8, "big") + self.applied)
            self._write(batch)
        rows = iter(self._pending.items())
        while some := list(islice(rows, _WRITE_ROWS)):
            batch = self._databases.batch()
            for key, value in some:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            self._write(batch)
        batch = self._databases.batch()
        if self.applied is not None:
            batch.put(applied_record.KEY, self.applied)
        offsets = self.changelog_offset.to_bytes(8, "big")
        if self.applied_offset is not None:
            offsets += self.applied_offset.to_bytes(8, "big")
        batch.put(_OFFSET_KEY, offsets)
        batch.delete(_AHEAD_KEY)
        self._write(batch)
        self.ahead = None
        self._pending = {}
        self._pending_bytes = 0

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._await_room()
            self._db.write(batch)
        except Exception as e:  # see _read
            raise self._cannot_write(e) from e

    def _await_room(self) -> None:
        """RocksDB stops its writers while flushes and compactions lag behind: wait for it outside of it.

        Inside, rocksdict would hold Python's lock for as long as a slow disk takes, and with it the event loop, the
        group's heartbeats and every other partition.
        """
        began_s = time.monotonic()
        warn_at_s = began_s + _SLOW_DISK_S
        while self._db.property_int_value("rocksdb.is-write-stopped"):
            time.sleep(_ROOM_POLL_S)
            if time.monotonic() > warn_at_s:
                warn_at_s += _SLOW_DISK_S
                logger.warning(
                    "%s: RocksDB has taken no writes for %.0f s, its flushes and compactions are behind: is the disk "
                    "too slow, or full of other work?",
                    self.path, time.monotonic() - began_s,
                )  # fmt: skip

    def flush(self) -> None:
        """Make everything durable: what a restart after a kill replays begins here.

        What was removed is gone from the files then: its range is compacted, since a deletion alone leaves the bytes.

        Raises:
            StoreCorruptError: it found a rotten block.
            PartitionError: RocksDB does not take it.
        """
        self.write()
        try:
            self._db.flush()
            for key in self._removed:
                self._db.compact_range(key, key + b"\0")
        except Exception as e:  # see _read
            raise self._cannot_write(e) from e
        self._removed = set()
        self._flushed_at_s = time.monotonic()

    def _cannot_write(self, error: Exception) -> PartitionError:
        """A disk that is full is not the store's fault; a rotten block that a compaction came by is."""
        if "Corruption" in str(error):
            return self.broken(f"RocksDB: {error}")
        return PartitionError(f"{self.path}: RocksDB cannot write: {error}")

    @property
    def must_forget(self) -> bool:
        """Whether users were removed since the last flush: their bytes are still there."""
        return bool(self._removed)

    @property
    def flushed_s_ago(self) -> float:
        """Seconds since the last flush."""
        return time.monotonic() - self._flushed_at_s

    @property
    def wanted(self) -> bool:
        """Whether another worker on this disk waits for it."""
        return (self.path / _WANTED_FILE).exists()

    def rows_estimated(self) -> int:
        """RocksDB's own estimate of how many rows it holds, the pending ones on top."""
        return int(self._db.property_int_value("rocksdb.estimate-num-keys") or 0) + len(self._pending)

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Every row, for tools and tests: (user id, packed row)."""
        self.write()
        for key, value in self._db.items():
            if not key.startswith(b"\xff"):
                yield key, value

    def scan(self, after: bytes, n: int) -> list[tuple[bytes, bytes]]:
        """The next `n` rows behind a user, in the order of their ids, as of the last write; past the cache of blocks.

        Raises:
            StoreCorruptError: it found a rotten block.
        """
        options = ReadOptions()
        options.fill_cache(False)  # noqa: FBT003 rocksdict's own
        try:
            rows = list(islice(self._db.items(from_key=after + b"\0", read_opt=options), n))
        except Exception as e:  # see _read
            raise self.broken(f"RocksDB: {e}") from e
        while rows and rows[-1][0].startswith(b"\xff"):
            rows.pop()
        return rows

    def close(self) -> None:
        """Flush and let go of the folder."""
        self.flush()
        self._db.close()

    def abandon(self) -> None:
        """Let go of the folder without writing what is pending."""
        try:
            self._db.close()
        except Exception as e:  # noqa: BLE001 rocksdict's; it closes, and says what was wrong before
            logger.warning("%s: closed after %s", self.path, e)


def _open(path: Path, databases: Databases, lock_timeout_s: float) -> tuple[Rdict, float]:
    """RocksDB, when nobody else has it: a partition that moves between workers on one disk is let go of meanwhile.

    Who waits says so in a file: a worker that only stands by with it lets go then.

    Returns:
        (RocksDB, seconds since its files were last written: opening writes to them).
    """
    give_up_s = time.monotonic() + lock_timeout_s
    wanted = path.with_name(_WANTED_FILE)
    while True:
        age_s = _age_s(path)
        try:
            opened = databases.open(path)
        except Exception as e:  # rocksdict raises bare Exception for every RocksDB status
            if not any(phrase in str(e) for phrase in _LOCKED):
                raise StoreCorruptError(f"{path}: RocksDB: {e}") from e
            if time.monotonic() > give_up_s:
                raise PartitionError(
                    f"{path}: another worker has it open. Each worker needs an OFFERSTREAM_DATA_DIR of its own"
                ) from e
        else:
            wanted.unlink(missing_ok=True)
            return opened, age_s
        if lock_timeout_s:
            wanted.touch()
        time.sleep(0.1)


def set_aside(path: Path, why: Exception) -> None:
    """Move a bad store out of the way, loudly. One is kept, for whoever looks into it."""
    aside = path.with_name(f"{path.name}.set-aside")
    logger.error("local store set aside as %s, restoring from the changelog: %s", aside, why)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def open_or_set_aside(
    path: Path,
    identity: dict[str, Any],
    databases: Databases,
    pending_bytes_max: int,
    age_max_s: float,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Store:
    """A store that can be trusted: one that is bad, or too old, is set aside and an empty one takes its place."""
    try:
        return Store(path, identity, databases, pending_bytes_max, lock_timeout_s, age_max_s)
    except StoreCorruptError as e:
        set_aside(path, e)
        return Store(path, identity, databases, pending_bytes_max, lock_timeout_s)


def _age_s(path: Path) -> float:
    """By the clock of its files; 0 where there are none."""
    newest_s = -math.inf
    for file in path.glob("*"):
        with suppress(FileNotFoundError):  # its owner deletes files meanwhile
            newest_s = max(newest_s, file.stat().st_mtime)
    return max(time.time() - newest_s, 0.0) if newest_s > -math.inf else 0.0
