import gzip
import io
import sys
from pathlib import Path

import pytest

from stream.shop.lines import LINE_BYTES_MAX, LineSource


def test_plain_gzip_and_standard_input_give_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"a,1\r\n\nb,2\n\xff\xfe\nlast without an end"
    expected = [(1, b"a,1"), (2, b""), (3, b"b,2"), (4, b"\xff\xfe"), (5, b"last without an end")]
    plain, packed = tmp_path / "log.csv", tmp_path / "log.bin"  # told by its bytes, not by its name
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data[:7]) + gzip.compress(data[7:]))  # two members, as `cat a.gz b.gz` makes
    for path in (plain, packed):
        with LineSource(str(path)) as source:
            assert list(source) == expected
            assert source.bytes_read == source.bytes_total == path.stat().st_size
            assert not source.cut
    for path in (plain, packed):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        with LineSource("-") as source:
            assert list(source) == expected


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with LineSource(str(tmp_path / "empty")) as source:
        assert list(source) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "rubbish after the end"])
def test_a_damaged_gzip_file_gives_what_can_be_read_and_says_so(tmp_path: Path, damage: str) -> None:
    lines = b"".join(b"%d,%d\n" % (i, i * i) for i in range(100_000))
    packed = bytearray(gzip.compress(lines))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed += b"rubbish"
    (tmp_path / "log.gz").write_bytes(packed)
    with LineSource(str(tmp_path / "log.gz")) as source:
        found = list(source)
        assert 1_000 < len(found) <= 100_000
        assert found[:1_000] == [(i + 1, b"%d,%d" % (i, i * i)) for i in range(1_000)]
        assert f"after line {len(found)}" in source.cut


def test_a_line_without_end_is_read_in_bounded_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.gz", "wb") as f:
        f.write(b"first\n")
        for _ in range(64):
            f.write(b"x" * (1 << 20))
        f.write(b"\nthird\n")
        f.write(b"y" * LINE_BYTES_MAX + b"\n")
    with LineSource(str(tmp_path / "log.gz")) as source:
        found = list(source)
    assert [n for n, _ in found] == [1, 2, 3, 4]
    assert len(found[1][1]) == LINE_BYTES_MAX + 1
    assert found[2][1] == b"third"
    assert len(found[3][1]) == LINE_BYTES_MAX
