import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.fold import fold
from stream.core.row import (
    N_RECENT_IDS,
    N_RECENT_PRODUCTS,
    N_STEPS,
    ROW,
    ROW_FORMAT,
    WORDS,
    RowFormatError,
    Rows,
    gather,
    new_rows,
    overlay,
    pack,
    scatter,
    unpack,
)
from tests.core.golden import FOLDER
from tests.core.logs import as_columns, random_log

HEAD_BYTES = 40
WORDS_OF = {1: 309, 2: WORDS}
"""By format: words of the row."""
POSITIONS = {
    "step_pos": N_STEPS - 1,
    "step_count": N_STEPS,
    "recent_ids_pos": N_RECENT_IDS - 1,
    "recent_products_pos": N_RECENT_PRODUCTS - 1,
}


def random_rows(draw: random.Random, n: int) -> Rows:
    """Rows of any bits, with any share of them 0, that only keep positions within their rings."""
    rows = np.frombuffer(draw.randbytes(n * ROW.itemsize), ROW).copy()
    words = rows.view("u8").reshape(n, WORDS)
    words[np.random.default_rng(draw.getrandbits(32)).random(words.shape) < draw.choice([0.0, 0.5, 0.9, 1.0])] = 0
    for field, most in POSITIONS.items():
        rows[field] = np.minimum(rows[field], most)
    return rows


def naive_unpack(packed: bytes) -> bytes | None:
    """The bytes of one row, by the words of docs/row.md; None where it is no packed row."""
    words = WORDS_OF.get(packed[0] if packed else 0, 0)
    if not words or len(packed) < HEAD_BYTES:
        return None
    mask = [packed[1 + i // 8] >> i % 8 & 1 for i in range(39 * 8)]
    if any(mask[words:]) or len(packed) != HEAD_BYTES + 8 * sum(mask):
        return None
    row, at = b"", HEAD_BYTES
    for there in mask[:words]:
        row += packed[at : at + 8] if there else bytes(8)
        at += 8 * there
    row = row.ljust(8 * WORDS, b"\0")  # what format 1 did not have
    at_byte = {name: offset for name, (_, offset, *_) in dict(ROW.fields or ()).items()}
    return row if all(row[at_byte[field]] <= most for field, most in POSITIONS.items()) else None


def fits(packed: bytes) -> bool:
    """Says whether it is read; if so, it is read right."""
    expected = naive_unpack(packed)
    try:
        row = unpack([packed])
    except RowFormatError:
        assert expected is None
        return False
    assert row.tobytes() == expected
    return True


@given(st.randoms(use_true_random=True), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_packing_changes_no_bit(draw: random.Random, n: int) -> None:
    rows = random_rows(draw, n)
    packed = pack(rows)
    assert [naive_unpack(p) for p in packed] == [row.tobytes() for row in rows]
    assert unpack(packed).tobytes() == rows.tobytes()
    assert pack(unpack(packed)) == packed


def test_packing_takes_any_view() -> None:
    rows = random_rows(random.Random(1), 12)
    assert pack(rows[2:11:3]) == pack(rows)[2:11:3]
    assert unpack(pack(rows[:0])).tobytes() == b""


def test_a_user_that_nothing_is_known_of_is_a_head_alone() -> None:
    assert pack(new_rows(1)) == [bytes([ROW_FORMAT]) + bytes(HEAD_BYTES - 1)]


@given(
    st.binary(max_size=200)
    | st.binary(min_size=HEAD_BYTES - 1, max_size=HEAD_BYTES - 1).map(b"\2".__add__)
    | st.binary(min_size=HEAD_BYTES - 1, max_size=HEAD_BYTES - 1).map(b"\1".__add__)
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_right_or_refused(packed: bytes) -> None:
    fits(packed)


@given(st.randoms(use_true_random=True))
@settings(max_examples=300, deadline=None)
def test_damaged_rows_are_read_right_or_refused(draw: random.Random) -> None:
    packed = bytearray(pack(random_rows(draw, 1))[0])
    way = draw.choice(["flip", "cut", "add", "format", "mask"])
    if way == "flip":
        packed[draw.randrange(len(packed))] ^= 1 << draw.randrange(8)
        fits(bytes(packed))
        return
    if way == "cut":
        del packed[draw.randrange(len(packed)) :]
    elif way == "add":
        packed += draw.randbytes(draw.randint(1, 24))
    elif way == "format":
        packed[0] = draw.choice([0, *range(3, 256)])
    else:
        packed[draw.randrange(1, HEAD_BYTES)] ^= 1 << draw.randrange(8)
    assert not fits(bytes(packed))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "too short"),
        (lambda p: p[: HEAD_BYTES - 1], "too short"),
        (lambda p: b"\3" + p[1:], r"format \[3\], this version reads \[1, 2\]"),
        (lambda p: b"\1" + p[1:39] + bytes([p[39] | 128]) + p[40:] + bytes(8), "does not fit its mask"),
        (lambda p: b"\0" + p[1:], r"format \[0\]"),
        (lambda p: p[:-1], "whole number of words"),
        (lambda p: p[:-8], "does not fit its mask"),
        (lambda p: p + bytes(8), "does not fit its mask"),
        (lambda p: p[: HEAD_BYTES - 1] + bytes([p[HEAD_BYTES - 1] | 128]) + p[HEAD_BYTES:], "does not fit"),
    ],
)
def test_one_bad_row_among_good_ones_is_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    events, row = as_columns(random_log(random.Random(5), 50, 3))
    table = new_rows(3)
    fold(events, row, table)
    packed = pack(table)
    with pytest.raises(RowFormatError, match=message):
        unpack([packed[0], damage(packed[1]), packed[2]])


@pytest.mark.parametrize("field", POSITIONS)
def test_a_position_beyond_its_ring_is_refused(field: str) -> None:
    rows = new_rows(2)
    rows[field] = POSITIONS[field]
    assert unpack(pack(rows)).tobytes() == rows.tobytes()
    rows[field][1] += 1
    with pytest.raises(RowFormatError, match=field):
        unpack(pack(rows))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("row-*.json")), ids=lambda path: path.stem)
def test_golden_rows_of_every_format_are_read(path: Path) -> None:
    for golden in json.loads(path.read_text())["rows"]:
        (row,) = unpack([base64.b64decode(golden["packed"])])
        expected = new_rows(1)[0]
        for name, value in golden["fields"].items():
            expected[name] = value
        assert {n: row[n].tolist() for n in ROW.names or ()} == {n: expected[n].tolist() for n in ROW.names or ()}


def test_the_present_format_is_the_golden_one() -> None:
    """A change of ROW needs a new ROW_FORMAT, a reader for the old one and a golden file for the new one."""
    golden = json.loads((FOLDER / f"row-{ROW_FORMAT}.json").read_text())
    assert golden["fields"] == {name: [str(ROW[name].base), [*ROW[name].shape]] for name in ROW.names or ()}
    rows = new_rows(len(golden["rows"]))
    for row, told in zip(rows, golden["rows"], strict=True):
        for name, value in told["fields"].items():
            row[name] = value
    assert [base64.b64encode(p).decode() for p in pack(rows)] == [told["packed"] for told in golden["rows"]]


def test_fields_are_aligned_to_their_size() -> None:
    """The columns of an array of rows are plain strided arrays to numpy, with no copy on the way."""
    rows = new_rows(3)
    assert all(rows[name].flags.aligned for name in ROW.names or ())


def test_gather_and_scatter_move_whole_rows() -> None:
    table = random_rows(random.Random(2), 20)
    before = table.copy()
    at = np.array([3, 19, 0, 7])
    block = gather(table, at)
    assert [r.tobytes() for r in block] == [before[i].tobytes() for i in at]
    block["seq"] += 1
    assert table.tobytes() == before.tobytes()  # a copy
    scatter(table, at, block)
    before["seq"][at] += 1
    assert table.tobytes() == before.tobytes()


def test_overlays_refuse_fields_that_do_not_stand_side_by_side() -> None:
    names = ["category", "category_weight"]
    assert new_rows(2).view(overlay(ROW, names, "u4", (2, 8)))["all"].shape == (2, 2, 8)
    for wrong, scalar, shape in (
        (["category", "brand"], "u4", (2, 8)),
        (names, "i4", (2, 8)),
        (names, "u4", (2, 9)),
    ):
        with pytest.raises(AssertionError):
            overlay(ROW, wrong, scalar, shape)
