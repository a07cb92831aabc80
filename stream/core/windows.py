"""Rolling counts per event kind in event time, as rings of tiles in the row.

A window of `tiles` tiles of `tile_ms` counts the events of the tile that holds the row's clock and of the `tiles - 1` before it. So it
reaches back at least `(tiles - 1) * tile_ms` and less than `tiles * tile_ms`: short of the named window by at most one tile. A late event
counts if its tile is still held. A tile counts to 65,535 and stays there.

The tile of time t stands at place `(t // tile_ms) % tiles`; which tile a place holds follows from the row's clock `last_ms` alone.
"""

import numpy as np
from numpy.typing import NDArray

from stream.core.row import WINDOWS, Rows

COUNT_MAX = 65_535


def advance(rows: Rows, now_ms: NDArray[np.int64]) -> None:
    """Empty the tiles that fall out of the windows when the clock of each row moves from `last_ms` to `now_ms` (not earlier), in place.

    The clock itself is not written.
    """
    last_ms = rows["last_ms"]
    for name, (tiles, tile_ms) in WINDOWS.items():
        tile = last_ms // tile_ms
        moved = now_ms // tile_ms - tile
        if not moved.any():
            continue
        age = (np.arange(tiles) - tile[:, None] - 1) % tiles  # 0 for the first place to be reused
        keep = age >= moved[:, None]
        words = rows[f"count_{name}"].view("u8")  # four counts at a time
        np.multiply(words, keep[:, :, None], out=words)


def add(rows: Rows, kind: NDArray[np.uint8], time_ms: NDArray[np.int64], now_ms: NDArray[np.int64]) -> None:
    """Count one event a row, in place, after `advance` to the same `now_ms`.

    Args:
        rows: ROW [n].
        kind: [n], below N_KINDS_WINDOWED.
        time_ms: [n], event time, at most `now_ms`.
        now_ms: [n], the row's clock.
    """
    row = np.arange(len(rows))
    for name, (tiles, tile_ms) in WINDOWS.items():
        tile = time_ms // tile_ms
        place = tile % tiles
        counts = rows[f"count_{name}"]
        count = counts[row, place, kind]
        held = (now_ms // tile_ms - tile < tiles) & (count < COUNT_MAX)
        counts[row, place, kind] = count + held


def _held(rows: Rows, name: str, now_ms: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    """Which places [n, tiles] still lie in the window when the clock stands at `now_ms`."""
    tiles, tile_ms = WINDOWS[name]
    tile = rows["last_ms"] // tile_ms
    age = (np.arange(tiles) - tile[:, None] - 1) % tiles
    held: NDArray[np.bool_] = age >= np.maximum(now_ms // tile_ms - tile, 0)[:, None]
    return held


def count(rows: Rows, name: str, kind: int, now_ms: NDArray[np.int64] | int | None = None) -> NDArray[np.int64]:
    """Events of one kind in window `name`, int64 [n], at the row's clock or at a later `now_ms`."""
    counts = rows[f"count_{name}"][:, :, kind]
    if now_ms is not None:
        counts = counts * _held(rows, name, now_ms)
    total: NDArray[np.int64] = counts.sum(axis=1, dtype=np.int64)
    return total


def count_all(rows: Rows, name: str) -> NDArray[np.int64]:
    """Events of all kinds in window `name` at the row's clock, int64 [n]."""
    words = rows[f"count_{name}"].view("u8")
    # Each word holds four counts of 16 bits; added in lanes of 32 bits, which the sum of a whole ring cannot overflow.
    lanes = ((words & 0x0000FFFF0000FFFF) + ((words >> np.uint64(16)) & 0x0000FFFF0000FFFF)).sum(axis=(1, 2))
    total: NDArray[np.int64] = ((lanes & 0xFFFFFFFF) + (lanes >> np.uint64(32))).astype(np.int64)
    return total
