"""Inputs from inputs: bytes that are bent, JSON that is bent as a document. All draws come from one source."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

_TOKENS = (
    *(
        b"null",
        b"true",
        b"-1",
        b"0",
        b"1e400",
        b"NaN",
        b"9223372036854775808",
        b'""',
        b"[]",
        b"{}",
        b"\\u0000",
        b"\\ud800",
    ),
    *(
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\r\n",
        b"\n\n",
        b"%00",
        b"../",
        b": ",
        b"- ",
        b"&a",
        b"*a",
        b"!!",
        b"---\n",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308),
    *("", " ", "a", "é" * 70, "\u0000", "\U0001f6d2", "x" * 200, "NaN", "02-29", "13-01", "EUR", "eur", "1h", "-1d"),
    *([], {}, [[]], [None], {"a": {}}, ["x"] * 20),
)
BYTES_MAX = 1 << 16


def mutate(draw: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes of one input, or a splice with another one."""
    begin = max(data.find(b"{"), 0)  # what stands before a document stays
    document = _document(data[begin:]) if draw.random() < 0.6 else None
    if document is not None:
        for _ in range(draw.randint(1, 3)):
            document = _bend(draw, document)
        text = json.dumps(document, ensure_ascii=draw.random() < 0.5)
        data = data[:begin] + text.encode("utf-8", "surrogatepass")
        if draw.random() < 0.8:
            return data[:BYTES_MAX]
    for _ in range(draw.randint(1, 4)):
        data = _bytes(draw, data, others)
    return data[:BYTES_MAX]


def _document(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _bend(draw: Random, value: Any) -> Any:  # noqa: PLR0911 a way out for each way of bending
    """The document with one value somewhere in it replaced, dropped, doubled, renamed or buried."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        return _bend_field(draw, value, key)
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        way = draw.randrange(4)
        if way == 0:
            return value[:at] + value[at + 1 :]
        if way == 1:
            return value + [value[at]] * draw.choice([1, 20, 600])
        return [*value[:at], _bend(draw, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and draw.random() < 0.5:
        return value + draw.choice([-1, 1, 10**6, -(10**6), 2**40, 10**15])
    if isinstance(value, str) and value and draw.random() < 0.5:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice(["", "\u0000", "é", "0", "-", value]) + value[at + 1 :]
    return draw.choice(_VALUES)


def _bend_field(draw: Random, value: dict[str, Any], key: str) -> dict[str, Any]:
    way = draw.randrange(8)
    if way == 0:
        return {k: v for k, v in value.items() if k != key}
    if way == 1:
        return {**value, draw.choice(["x", key.upper(), f"{key}_", "id", "kind"]): value[key]}
    if way == 2:  # buried
        buried: Any = value[key]
        for _ in range(draw.choice([1, 5, 200])):
            buried = [buried]
        return {**value, key: buried}
    return {**value, key: _bend(draw, value[key])}


def _bytes(draw: Random, data: bytes, others: Sequence[bytes]) -> bytes:  # noqa: PLR0911 as above
    way = draw.randrange(8)
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice([1, 1, 2, 8, 64]))
    if way == 0 and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if way == 1:
        return data[:at] + draw.randbytes(draw.choice([1, 1, 2, 8])) + data[end:]
    if way == 2:
        return data[:at] + data[end:]
    if way == 3:
        return data[:at]
    if way == 4:
        return data[:at] + data[at:end] * draw.choice([2, 3, 50]) + data[end:]
    if way == 5:
        other = draw.choice(others)
        return data[:at] + other[draw.randrange(len(other) + 1) :]
    return data[:at] + draw.choice(_TOKENS) + data[end if way == 6 else at :]
