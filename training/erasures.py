"""Erasures and the archive: who asked to be forgotten when, and which records are theirs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from stream.kafka.decode import decode_others
from stream.kafka.topics import Topics

ERASURES = "erasures"
"""The topic, without prefix."""

_NAMED = r'"user_id"\s*:\s*"(?P<user>[^"\\]*)"'


class Erasures(NamedTuple):
    """What the topic `erasures` holds."""

    until_ms: dict[bytes, int]
    """By user, the publish time of the latest: what was published up to then is to be forgotten."""
    first: list[int]
    """By partition, the first offset that retention has left."""
    end: list[int]
    """By partition, the offset after the last one read."""


def read_erasures(topics: Topics, topic: str, n_partitions: int) -> Erasures:
    """Read the whole topic; what a worker refuses counts for nothing here either.

    Args:
        topics: of the broker.
        topic: full name.
        n_partitions: of it.

    Raises:
        SetupError: no broker answers.
    """
    until_ms: dict[bytes, int] = {}
    first = [topics.watermarks(topic, partition)[0] for partition in range(n_partitions)]
    end = list(first)
    for (_, partition), records in topics.read([(topic, partition) for partition in range(n_partitions)]):
        found = decode_others(ERASURES, records, partition, n_partitions, topic)
        for user, record in zip(found.keys, found.records, strict=True):
            until_ms[user] = max(until_ms.get(user, 0), record.timestamp)
        end[partition] = max(end[partition], records[-1].offset + 1)
    return Erasures(until_ms, first, end)


def gone(table: Any, until_ms: Mapping[bytes, int]) -> Any:  # noqa: ANN401 (pyarrow has no types)
    """Which records are to be forgotten: those published up to the erasure of the user whom their key or value names.

    A record whose value names another user than its key is refused by every reader, but lies in an archive as it came.

    Args:
        table: columns timestamp_ms, key and value.
        until_ms: by user.

    Returns:
        boolean [rows of the table].
    """
    users = pa.array(list(until_ms), pa.binary())
    times = pa.array(list(until_ms.values()), pa.int64())
    published, key, value = (table[name].combine_chunks() for name in ("timestamp_ms", "key", "value"))
    named = pc.struct_field(pc.extract_regex(value, pattern=_NAMED), "user")
    found = pa.array([False] * len(table), pa.bool_())
    for column in (key, named):
        until = pc.take(times, pc.index_in(column, value_set=users))
        found = pc.or_(found, pc.fill_null(pc.less_equal(published, until), fill_value=False))
    return found
