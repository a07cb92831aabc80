"""Rolling counts per event kind in event time, as rings of tiles in the row.

A window of `tiles` tiles of `tile_ms` counts the events of the tile that holds the row's clock and of the `tiles - 1`
before it. So it reaches back at least `(tiles - 1) * tile_ms` and less than `tiles * tile_ms`: short of the named
window by at most one tile. A late event counts if its tile is still held. A tile counts to 65,535 and stays there.

The tile of time t stands at place `(t // tile_ms) % tiles`; which tile a place holds follows from the row's clock
`last_ms` alone.
"""

import numpy as np
from numpy.typing import NDArray

from stream.core.events import N_KINDS_WINDOWED
from stream.core.row import ROW, WINDOWS, Rows, overlay

COUNT_MAX = 65_535

# [windows, 1]: against [n] they give [windows, n], so all windows of all rows are one call.
_TILES = np.array([[tiles] for tiles, _ in WINDOWS.values()])
_TILE_MS = np.array([[tile_ms] for _, tile_ms in WINDOWS.values()])
_FIRST = np.cumsum(_TILES, axis=0) - _TILES  # where a window's tiles begin among the tiles of all windows
_ALL_COUNTS = overlay(ROW, [f"count_{name}" for name in WINDOWS], "u2", (int(_TILES.sum()), N_KINDS_WINDOWED))

# [clock's place, place]: the tile at `place` falls out when the clock moves on by more than this many tiles.
_LASTS = {name: (np.arange(tiles) - np.arange(tiles)[:, None] - 1) % tiles for name, (tiles, _) in WINDOWS.items()}


def add(rows: Rows, kind: NDArray[np.uint8], time_ms: NDArray[np.int64]) -> None:
    """Count one event a row, in place. The windows move with the row's clock, which the caller sets afterwards.

    Args:
        rows: ROW [n], `last_ms` as it was before the event.
        kind: [n], below N_KINDS_WINDOWED.
        time_ms: [n], event time.
    """
    clock = rows["last_ms"] // _TILE_MS  # [windows, n], in tiles
    tile = time_ms // _TILE_MS
    moved = tile - clock  # below 0: the event is late
    for name, by, at, any_moved in zip(WINDOWS, moved, clock, (moved > 0).any(axis=1).tolist(), strict=True):
        if any_moved:
            rows[f"count_{name}"][_out(name, at, by)] = 0
    counts = rows.view(_ALL_COUNTS)["all"]
    each = np.arange(len(rows))
    place = _FIRST + tile % _TILES
    count = counts[each, place, kind]
    counts[each, place, kind] = count + ((moved > -_TILES) & (count < COUNT_MAX))


def join(rows: Rows, others: Rows) -> None:
    """Add what other rows count, in place. The clock moves to the later of both, which the caller sets afterwards.

    Args:
        rows: ROW [n], `last_ms` as it was before.
        others: ROW [n].
    """
    clock_ms = np.maximum(rows["last_ms"], others["last_ms"])
    for name, (_, tile_ms) in WINDOWS.items():
        total = np.zeros(rows[f"count_{name}"].shape, np.int64)
        for some in (rows, others):
            at = some["last_ms"] // tile_ms
            total += np.where(_out(name, at, clock_ms // tile_ms - at)[:, :, None], 0, some[f"count_{name}"])
        rows[f"count_{name}"] = np.minimum(total, COUNT_MAX)


def _out(name: str, clock: NDArray[np.int64], moved: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which places fall out, bool [n, tiles], when the clocks at tile `clock` move on by `moved` tiles."""
    lasts = _LASTS[name]
    out: NDArray[np.bool_] = lasts.take(clock % len(lasts), axis=0) < moved[:, None]
    return out


def count(rows: Rows, name: str, kind: int, now_ms: NDArray[np.int64] | int | None = None) -> NDArray[np.int64]:
    """Events of one kind in window `name`, int64 [n], at the row's clock or at a later `now_ms`."""
    counts = rows[f"count_{name}"][:, :, kind]
    if now_ms is not None:
        _, tile_ms = WINDOWS[name]
        clock = rows["last_ms"] // tile_ms
        counts = np.where(_out(name, clock, now_ms // tile_ms - clock), 0, counts)
    total: NDArray[np.int64] = np.einsum("nt->n", counts, dtype=np.int64)  # faster than `sum` along an axis this short
    return total


def count_all(rows: Rows, name: str) -> NDArray[np.int64]:
    """Events of all kinds in window `name` at the row's clock, int64 [n]."""
    counts = rows[f"count_{name}"].reshape(len(rows), -1)
    total: NDArray[np.int64] = counts.sum(axis=1, dtype=np.uint32).astype(np.int64)  # 128 counts of 16 bits fit
    return total
