"""What the core costs: `python -m tests.core.bench` prints one JSON object.

Times are CPU time of this process, the least of several runs. They compare with each other, not with another machine's.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import absorb
from stream.core.events import EVENT, N_KINDS_WINDOWED
from stream.core.fold import fold
from stream.core.row import ROW, gather, new_rows, pack, scatter, unpack

SEED = 1
N_BATCH = 2_000
N_ROWS = 1_000_000
HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000


def cpu_s(task: Callable[[], object], runs: int = 7) -> float:
    best = float("inf")
    for _ in range(runs):
        begin = time.process_time()
        task()
        best = min(best, time.process_time() - begin)
    return best


def random_events(draw: np.random.Generator, row: NDArray[np.int64], from_ms: int) -> NDArray[np.void]:
    """Events of these rows in the six hours from `from_ms`, all fields given, kinds as a shop has them."""
    n = len(row)
    events = np.zeros(n, EVENT)
    events["user"] = row + 1
    events["time_ms"] = from_ms + np.sort(draw.integers(0, 6 * HOUR_MS, n))
    often = np.array([30, 35, 8, 6, 2, 3, 2, 2, 3, 1, 1, 1, 1, 2, 1, 1])
    events["kind"] = draw.choice(N_KINDS_WINDOWED, n, p=often / often.sum())
    events["event_id"] = draw.integers(1, 2**63, n)
    events["session"] = np.where(draw.random(n) < 0.7, row * 7 + draw.integers(1, 3, n), 0)
    for field, most in (("product", 5_000), ("category", 200), ("brand", 300), ("price_minor", 10**5)):
        events[field] = draw.integers(1, most, n)
    events["dwell_ms"] = draw.integers(0, 60_000, n)
    events["amount_minor"] = events["price_minor"]
    events["discount_minor"] = np.where(draw.random(n) < 0.3, 100, 0)
    return events


def fold_us(draw: np.random.Generator, row: NDArray[np.int64], n_users: int) -> float:
    """Of one event, where every user has a row and was away for a day."""
    table = new_rows(n_users)
    everybody = np.arange(n_users)
    fold(random_events(draw, everybody, NOW_MS - 24 * HOUR_MS), everybody, table)
    events = random_events(draw, row, NOW_MS)

    def task() -> None:
        events["event_id"] += 1  # else they would be duplicates
        fold(events, row, table)

    return cpu_s(task, 5) / len(row) * 1e6


def round_us(draw: np.random.Generator, n: int) -> float:
    """Of one round of `n` rows."""
    everybody = np.arange(n)
    table = new_rows(n)
    fold(random_events(draw, np.tile(everybody, 40), NOW_MS), np.tile(everybody, 40), table)
    events = random_events(draw, everybody, NOW_MS + 6 * HOUR_MS)
    repeat = max(1, 500 // n)

    def task() -> None:
        for _ in range(repeat):
            absorb(events, table)

    return cpu_s(task) / repeat * 1e6


def move_us(draw: np.random.Generator) -> dict[str, float]:
    """Taking 2,000 random rows out of a million and putting them back, per row: three ways to lay them out."""
    batches = iter([draw.choice(N_ROWS, N_BATCH, replace=False) for _ in range(64)])

    def records(raw: bool) -> float:
        table = new_rows(N_ROWS)
        table["seq"] = 1  # every page is there

        def task() -> None:
            at = next(batches)
            if raw:
                scatter(table, at, gather(table, at))
            else:
                table[at] = table[at]

        return cpu_s(task, 20)

    def columns() -> float:
        fields = [np.ones((N_ROWS, *ROW[name].shape), ROW[name].base) for name in ROW.names or ()]

        def task() -> None:
            at = next(batches)
            for field in fields:
                field[at] = field.take(at, axis=0)

        return cpu_s(task, 20)

    found = {"records_as_bytes": records(raw=True), "records_by_field": records(raw=False), "array_a_field": columns()}
    return {name: seconds / N_BATCH * 1e6 for name, seconds in found.items()}


def main() -> None:
    draw = np.random.default_rng(SEED)
    n = 50_000
    table = new_rows(N_BATCH)
    row = np.tile(np.arange(N_BATCH), 30)
    fold(random_events(draw, row, NOW_MS), row, table)
    table["state"] = draw.normal(size=table["state"].shape)
    packed = pack(table)
    figures = {
        "fold_us_per_event": {
            "5000_users": fold_us(draw, draw.integers(0, 5_000, n), 5_000),
            "100000_users": fold_us(draw, draw.integers(0, 100_000, n), 100_000),
            "zipf_1.2_20000_users": fold_us(draw, np.minimum(draw.zipf(1.2, n // 2) - 1, 19_999), 20_000),
        },
        "round_us": {str(rows): round_us(draw, rows) for rows in (1, 5, 20, 200, 1_500)},
        "pack_us_per_row": cpu_s(lambda: pack(table)) / N_BATCH * 1e6,
        "unpack_us_per_row": cpu_s(lambda: unpack(packed)) / N_BATCH * 1e6,
        "packed_bytes": sum(map(len, packed)) / N_BATCH,
        "gather_and_scatter_us_per_row": move_us(draw),
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    machine = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    about = {"machine": machine, "commit": commit.stdout.strip(), "seed": SEED, "n": n, "row_bytes": ROW.itemsize}
    print(json.dumps(about | figures, indent=2))


if __name__ == "__main__":
    main()
