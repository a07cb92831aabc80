"""Rows of recorded logs: as the oracle tells them, and as large as docs/row.md says."""

import re
from pathlib import Path

import cramjam
import numpy as np
import pytest

from stream.core.events import EVENT
from stream.core.fold import fold
from stream.core.row import ROW, Rows, new_rows, pack
from tests.core import oracle
from tests.core.recorded import recorded

DOCS = Path(__file__).resolve().parents[2] / "docs" / "row.md"
STORE_BLOCK_BYTES = 16 << 10
FORMAT_OF = {
    "taobao_two_hours": "taobao",
    "taobao_users": "taobao",
    "rees46_views": "rees46",
    "completejourney_transactions_300_households": "completejourney",
}


@pytest.mark.parametrize("log", FORMAT_OF)
def test_rows_equal_the_oracle_and_have_the_documented_size(shared_data: Path, log: str) -> None:
    events, row, n_users = recorded(shared_data / f"{log}.csv.gz", FORMAT_OF[log])
    table = new_rows(n_users)
    steps, applied = fold(events, row, table)
    assert applied.all()
    # The users with the most events, and some of the others.
    n_events = np.bincount(row)
    most_first = np.argsort(-n_events)
    for user in {*most_first[:1].tolist(), *most_first[2 :: n_users // 15].tolist()}:
        mine = np.flatnonzero(row == user)
        told = [oracle.Event(**dict(zip(EVENT.names or (), e, strict=True))) for e in events[mine].tolist()]
        assert {name: table[name][user].tolist() for name in oracle.row([])} == oracle.row(told)
        assert steps[mine].tolist() == oracle.steps(told)
    check_size(log, table, len(events))


def check_size(log: str, table: Rows, n_events: int) -> None:
    draw = np.random.default_rng(1)
    table["state"] = np.tanh(draw.normal(0, 0.5, table["state"].shape))
    table["model"] = draw.integers(1, 2**63)
    table["fence"][:, 0] = draw.integers(1, 10**6, len(table))
    packed = b"".join(pack(table))
    blocks = [packed[i : i + STORE_BLOCK_BYTES] for i in range(0, len(packed), STORE_BLOCK_BYTES)]
    stored = sum(len(cramjam.lz4.compress_block(block)) for block in blocks)
    found = [n_events / len(table), ROW.itemsize, len(packed) / len(table), stored / len(table)]
    assert found[1] <= 2_500
    assert found[3] <= 1_024
    line = re.search(rf"^\| {log} \| (\d+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert line
    assert int(line[1]) == len(table)
    assert [float(cell) for cell in line[2].split(" | ")] == pytest.approx(found, rel=0.02)


def test_the_document_lists_every_field_with_its_bytes() -> None:
    text = DOCS.read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w\d)((?: x \d+)*) \| (\d+) \|", text, re.MULTILINE)
    documented = [
        (name, np.dtype(scalar), tuple(int(n) for n in shape.split(" x ")[1:]), int(size))
        for name, scalar, shape, size in rows
    ]
    assert documented == [(name, ROW[name].base, ROW[name].shape, ROW[name].itemsize) for name in ROW.names or ()]
    assert f"| all | | {ROW.itemsize} | |" in text
