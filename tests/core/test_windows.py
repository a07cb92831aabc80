from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import windows
from stream.core.events import N_KINDS_WINDOWED
from stream.core.fold import fold
from stream.core.row import WINDOWS, new_rows
from tests.core import oracle
from tests.core.logs import as_columns, logs, of_user


def edges(name: str) -> st.SearchStrategy[int]:
    """Time passed since the clock: none, any number of tiles (and 1 ms beside), more than the window, decades."""
    tiles, tile_ms = WINDOWS[name]
    at_edge = st.builds(lambda n, ms: max(n * tile_ms + ms, 0), st.integers(0, 2 * tiles), st.integers(-1, 1))
    return st.just(0) | at_edge | st.integers(0, 2 * tiles * tile_ms) | st.just(10**12)


@pytest.mark.parametrize("name", WINDOWS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_counts_at_a_later_time_equal_the_oracle(name: str, data: st.DataObject) -> None:
    log = data.draw(logs(n_users_max=3))
    events, row = as_columns(log)
    table = new_rows(3)
    fold(events, row, table)
    to_edge_ms = data.draw(st.booleans()) * (-table["last_ms"] % WINDOWS[name][1])
    now_ms = table["last_ms"] + to_edge_ms + data.draw(edges(name))
    one_now_ms = int(now_ms.max())
    did = []
    for user in range(3):
        events_of = of_user(log, user)
        applied = [e for e, applies in zip(events_of, oracle.which_apply(events_of), strict=True) if applies]
        did.append([e for e in applied if e.kind < N_KINDS_WINDOWED])
    clocks_ms = table["last_ms"].tolist()
    of_all = [len(oracle.in_window(d, name, c)) for d, c in zip(did, clocks_ms, strict=True)]
    assert windows.count_all(table, name).tolist() == of_all
    for kind in range(N_KINDS_WINDOWED):
        at_clock = [oracle.count(d, name, kind, c) for d, c in zip(did, clocks_ms, strict=True)]
        assert windows.count(table, name, kind).tolist() == at_clock
        assert windows.count(table, name, kind, table["last_ms"]).tolist() == at_clock
        # An earlier time than the row's clock is its clock: what is forgotten stays so.
        assert windows.count(table, name, kind, table["last_ms"] - 10**9).tolist() == at_clock
        later = [oracle.count(d, name, kind, now) for d, now in zip(did, now_ms.tolist(), strict=True)]
        assert windows.count(table, name, kind, now_ms).tolist() == later
        at_once = [oracle.count(d, name, kind, one_now_ms) for d in did]
        assert windows.count(table, name, kind, one_now_ms).tolist() == at_once


@pytest.mark.parametrize(("name", "tiles", "tile_ms"), [(n, *w) for n, w in oracle.WINDOWS.items()])
def test_a_window_reaches_back_to_its_last_tile_and_no_further(name: str, tiles: int, tile_ms: int) -> None:
    begin = 1_700_000_000_000 // tile_ms * tile_ms  # of a tile
    for age, counted in ((0, 1), ((tiles - 1) * tile_ms, 1), (tiles * tile_ms - 1, 1), (tiles * tile_ms, 0)):
        # The event in the first millisecond of a tile, then the clock goes to that tile's first + age.
        log = [(0, oracle.Event(begin, 1, 1)), (0, oracle.Event(begin + age, 2, 2))]
        table = new_rows(1)
        fold(*as_columns(log), table)
        assert windows.count(table, name, 1).tolist() == [counted], age
    assert WINDOWS[name] == (tiles, tile_ms)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_tile_counts_to_65535_and_stays_there(name: str) -> None:
    time_ms = 1_700_000_000_000
    events, row = as_columns([(u, oracle.Event(time_ms, 1, i)) for i in (1, 2, 3) for u in range(2)])
    table = new_rows(2)
    tiles, tile_ms = WINDOWS[name]
    table["last_ms"] = time_ms
    table["seq"] = 1
    table[f"count_{name}"][0, time_ms // tile_ms % tiles, 1] = 65_533
    fold(events, row, table)
    assert windows.count(table, name, 1).tolist() == [65_535, 3]
    assert windows.count_all(table, name).tolist() == [65_535, 3]


@pytest.mark.parametrize("name", WINDOWS)
def test_sums_hold_a_window_full_of_full_tiles(name: str) -> None:
    table = new_rows(1)
    table[f"count_{name}"] = 65_535
    tiles = WINDOWS[name][0]
    assert windows.count(table, name, 3).tolist() == [tiles * 65_535]
    assert windows.count_all(table, name).tolist() == [tiles * 65_535 * N_KINDS_WINDOWED]


def test_another_users_clock_moves_nothing() -> None:
    draw = Random(3)
    table = new_rows(40)
    counts = np.frombuffer(draw.randbytes(40 * 31 * 16 * 2), "u2").reshape(40, 31, 16)
    first = 0
    for name, (tiles, _) in WINDOWS.items():
        table[f"count_{name}"] = counts[:, first : first + tiles]
        first += tiles
    table["last_ms"] = 1_700_000_000_000
    table["seq"] = 1
    before = table.copy()
    fold(*as_columns([(7, oracle.Event(1_900_000_000_000, 0, 1))]), table)
    others = np.arange(40) != 7
    assert table[others].tobytes() == before[others].tobytes()
    assert windows.count_all(table, "30d")[7] == 1
