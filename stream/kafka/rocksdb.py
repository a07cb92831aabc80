"""RocksDB as the local stores use it: where databases come from, and how they are set up."""

from pathlib import Path
from typing import Protocol

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

WRITE_BUFFER_BYTES = 32 << 20
_STOP_TABLES = 36
"""Tables not compacted yet, at which writers are stopped; RocksDB's own default."""


class Databases(Protocol):
    """What opens the databases of stores."""

    def open(self, path: Path) -> Rdict:
        """Open one, or make it."""

    def batch(self) -> WriteBatch:
        """Writes that happen all together or not at all."""


class RocksDB:
    """Databases on disk, with one block cache for all stores of a worker."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache = Cache(cache_bytes)

    def open(self, path: Path) -> Rdict:
        """See `Databases`."""
        return Rdict(str(path), _options(self._cache))

    def batch(self) -> WriteBatch:
        """See `Databases`."""
        return WriteBatch(raw_mode=True)


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003 rocksdict's own
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    # No slowing down before the stop: RocksDB would sleep inside of a write, see `_await_room`.
    options.set_level_zero_slowdown_writes_trigger(_STOP_TABLES)
    options.set_level_zero_stop_writes_trigger(_STOP_TABLES)
    options.set_max_log_file_size(1 << 20)
    # Its log names keys of files and compactions: what it says of a user who was erased is gone after a day.
    options.set_keep_log_file_num(2)
    options.set_log_file_time_to_roll(12 * 3600)
    options.set_max_total_wal_size(1 << 20)
    options.set_level_compaction_dynamic_level_bytes(True)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(4 << 10)
    # Most look-ups of a cold user are for one who is not there.
    table.set_bloom_filter(10, False)  # noqa: FBT003
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options
