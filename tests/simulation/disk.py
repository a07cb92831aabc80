"""Databases in memory for the local stores: what a kill leaves of them is drawn, as with RocksDB without its log."""

import contextlib
import copy
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from rocksdict import DbClosedError, Rdict, WriteBatch

from stream.kafka.rocksdb import RocksDB

_names = itertools.count()
_NAME = "name"


class Batch:
    """As rocksdict's `WriteBatch`."""

    def __init__(self) -> None:
        self.writes: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.writes.append((key, value))

    def delete(self, key: bytes) -> None:
        self.writes.append((key, None))


class _File:
    """What one database has on disk, and what it wrote since, which memory holds."""

    def __init__(self) -> None:
        self.durable: dict[bytes, bytes] = {}
        self.since: list[Batch] = []
        self.is_open = False

    def keep(self, n: int) -> None:
        """Make the first `n` batches durable."""
        for batch in self.since[:n]:
            for key, value in batch.writes:
                if value is None:
                    self.durable.pop(key, None)
                else:
                    self.durable[key] = value
        del self.since[:n]


class Database:
    """As rocksdict's `Rdict` in raw mode, as far as `Store` uses it."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._now = dict(file.durable)
        file.is_open = True

    def set_write_options(self, _options: object) -> None:
        """Nothing is written ahead."""

    def get(self, keys: bytes | list[bytes]) -> bytes | list[bytes | None] | None:
        assert self._file.is_open, "closed"
        return self._now.get(keys) if isinstance(keys, bytes) else [self._now.get(key) for key in keys]

    def write(self, batch: Batch) -> None:
        assert self._file.is_open, "closed"
        self._file.since.append(batch)
        for key, value in batch.writes:
            if value is None:
                self._now.pop(key, None)
            else:
                self._now[key] = value

    def flush(self) -> None:
        assert self._file.is_open, "closed"
        self._file.keep(len(self._file.since))

    def compact_range(self, _start: bytes, _end: bytes) -> None:
        """Nothing lies in layers."""

    def property_int_value(self, name: str) -> int:
        return 0 if name == "rocksdb.is-write-stopped" else len(self._now)

    def items(self, from_key: bytes = b"", read_opt: object = None) -> Iterator[tuple[bytes, bytes]]:
        del read_opt  # nothing is cached
        return iter(sorted((key, row) for key, row in self._now.items() if key >= from_key))

    def close(self) -> None:
        """RocksDB flushes what it has in memory when it is closed."""
        if self._file.is_open:
            self._file.keep(len(self._file.since))
            self._file.is_open = False


class Disk:
    """All databases of one worker. A worker that is killed is followed by another on the same disk."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def open(self, path: Path) -> Database:
        where = f"{path}/{_NAME}"  # goes with the folder where that is moved
        try:
            name = Path(where).read_text()
        except FileNotFoundError:
            path.mkdir(parents=True, exist_ok=True)
            name = str(next(_names))
            Path(where).write_text(name)
        file = self._files.setdefault(name, _File())
        if file.is_open:
            raise OSError("lock hold by current process")  # as RocksDB says it
        return Database(file)

    def batch(self) -> Batch:
        return Batch()

    def copied(self) -> "Disk":
        """As it is now."""
        return copy.deepcopy(self)

    def killed(self, draw: Random) -> None:
        """Its process died: of what was not flushed, the writes up to some moment are there."""
        for file in self._files.values():
            file.keep(draw.randint(0, len(file.since)))
            file.since.clear()
            file.is_open = False

    def flush(self, draw: Random) -> None:
        """RocksDB makes the writes up to some moment durable."""
        for file in self._files.values():
            file.keep(draw.randint(0, len(file.since)))


class RealDisk:
    """RocksDB itself. What a kill leaves is what lies in its files at that moment: nothing is written ahead."""

    def __init__(self, cache_bytes: int = 1 << 20) -> None:
        self._databases = RocksDB(cache_bytes)
        self._open: dict[Path, Rdict] = {}
        self.batch: Callable[[], WriteBatch] = self._databases.batch

    def open(self, path: Path) -> Rdict:
        found = self._open[path] = self._databases.open(path)
        return found

    def copied(self) -> "Disk | RealDisk":
        """Empty: as good as any old one."""
        return RealDisk()

    def killed(self, _draw: Random) -> None:
        """See the class. Files are copied first, since RocksDB writes what it holds when it is closed."""
        for path, database in self._open.items():
            with contextlib.suppress(DbClosedError):
                database.get(b"")  # closed in order: it holds nothing back
                left = path.with_name("left")
                shutil.copytree(path, left)
                database.close()
                shutil.rmtree(path)
                left.rename(path)
        self._open = {}

    def flush(self, draw: Random) -> None:
        """Some of it becomes durable."""
        for database in self._open.values():
            if draw.random() < 0.5:
                with contextlib.suppress(DbClosedError):
                    database.flush()
