"""Recorded logs as numbered lines: a file, a .gz file or standard input, in bounded memory, whatever the bytes are."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

LINE_BYTES_MAX = 1 << 20
"""A longer line is no record of any format here: it is cut, counted as broken and read over."""

_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 18

Line = tuple[int, bytes]
"""Line number, from 1, as an editor shows it, and the bytes without the line end."""


class LineSource:
    """The lines of a file (plain or gzip, told by its first bytes) or of standard input (`-`).

    `cut` says, after the last line, why the input ended too early (a gzip stream without its end), else it is "".
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == "-" else path
        self.bytes_total = 0 if path == "-" else Path(path).stat().st_size
        self.cut = ""
        self._raw: BinaryIO = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115 - closed by __exit__
        self._owned = path != "-"
        self._consumed = _Counted(self._raw)
        buffered = io.BufferedReader(self._consumed, _BUFFER_BYTES)
        if buffered.peek(2)[:2] == _GZIP_MAGIC:
            self._lines: BinaryIO = io.BufferedReader(gzip.GzipFile(fileobj=buffered), _BUFFER_BYTES)
        else:
            self._lines = buffered

    @property
    def bytes_read(self) -> int:
        """Bytes taken from the file so far: compressed ones, so that they compare with `bytes_total`."""
        return self._consumed.bytes_read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._owned:
            self._raw.close()

    def __iter__(self) -> Iterator[Line]:
        """Lines in order. One longer than `LINE_BYTES_MAX` comes as its first LINE_BYTES_MAX + 1 bytes."""
        number = 0
        try:
            while line := self._lines.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
                    self._skip_rest_of_line()
                yield number, line.rstrip(b"\r\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            self.cut = f"{self.name} cannot be unpacked after line {number}: {e}"

    def _skip_rest_of_line(self) -> None:
        while (more := self._lines.readline(LINE_BYTES_MAX)) and not more.endswith(b"\n"):
            pass


class _Counted(io.RawIOBase):
    """A raw stream that counts what was taken from it (a pipe has no position to ask for)."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._raw.read1(len(buffer)) if isinstance(self._raw, io.BufferedReader) else self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self.bytes_read += len(data)
        return len(data)
