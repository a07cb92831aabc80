"""One batch of one source topic in, columns out: every record becomes an event or a dead letter, never an exception.

This runs once for every event there is, so its costs are counted in nanoseconds; docs/topics.md has the figures.
"""

import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream.core.events import (
    CONSENT_NO,
    CONSENT_UNKNOWN,
    CONSENT_YES,
    EVENT,
    KINDS_OF_SOURCE,
    SOURCES,
    TIERS,
    TIME_AHEAD_MAX_MS,
)
from stream.kafka.codec import (
    DETAIL_CHARS_MAX,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    Click,
    Customer,
    DeadLetter,
    DeadReason,
    Feedback,
    Order,
    Redemption,
    Source,
)
from stream.kafka.partitioner import partitions
from stream.kafka.reading import Fault, read

Events = NDArray[np.void]
"""An array of `EVENT`."""


class Record(Protocol):
    """What is read of a record that a consumer fetched; `timestamp` in ms."""

    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102


class Decoded(NamedTuple):
    """A batch as columns.

    Attributes:
        users: N user ids as bytes, the records' keys.
        events: EVENT [N], in offset order.
        published_ms: int64 [N], timestamps of their records.
        dead: the refused records, in offset order.
        unknown_fields: fields of readable records that the contract does not know. Exact while at most 64 records and
            one in 16 of the batch have any, an unbiased estimate beyond.
    """

    users: list[bytes]
    events: Events
    published_ms: NDArray[np.int64]
    dead: list[DeadLetter]
    unknown_fields: int


def decode(
    source: str, records: Sequence[Record], partition: int, n_partitions: int, currency: str, topic: str
) -> Decoded:
    """Read one batch of one partition of a source topic.

    Args:
        source: one of `SOURCES`.
        records: in offset order, all of one topic partition.
        partition: the partition that they came from.
        n_partitions: of the topic.
        currency: ISO 4217 code; an amount in another one is refused.
        topic: the source's name on this cluster.
    """
    sound, refused = _sound(source, records, partition, n_partitions, currency)
    # 4. Columns.
    events = np.zeros(len(sound.keys), EVENT)
    events["time_ms"] = sound.time_ms
    events["offset"] = sound.offsets
    events["user"] = [xxh3_64_intdigest(key) for key in sound.keys]
    events["event_id"] = _hashes([s.event_id for s in sound.structs])
    events["source"] = SOURCES.index(source)
    codes = KINDS_OF_SOURCE[source]
    events["kind"] = [codes[s.kind] for s in sound.structs]
    _FILL[source](events, sound.structs)
    dead = [dead_letter(topic, partition, records[i], refused[i]) for i in sorted(refused)]
    return Decoded(sound.keys, events, sound.published_ms, dead, sound.unknown_fields)


class Others(NamedTuple):
    """A batch of an input whose records are no events."""

    keys: list[bytes]
    """N users, in offset order."""
    structs: list[Any]
    """What each record says."""
    records: list[Record]
    """As they came."""
    dead: list[DeadLetter]
    unknown_fields: int


def decode_others(source: str, records: Sequence[Record], partition: int, n_partitions: int, topic: str) -> Others:
    """Read one batch of one partition of `erasures`, `identities` or `merges`; as `decode`."""
    sound, refused = _sound(source, records, partition, n_partitions, "")
    dead = [dead_letter(topic, partition, records[i], refused[i]) for i in sorted(refused)]
    good = [record for i, record in enumerate(records) if i not in refused]
    return Others(sound.keys, sound.structs, good, dead, sound.unknown_fields)


class _Sound(NamedTuple):
    """What is left of a batch after all checks: columns of N records."""

    keys: list[Any]
    offsets: list[int]
    structs: list[Any]
    time_ms: NDArray[np.int64]
    published_ms: NDArray[np.int64]
    unknown_fields: int


def _sound(
    source: str, records: Sequence[Record], partition: int, n_partitions: int, currency: str
) -> tuple[_Sound, dict[int, Fault]]:
    """Check a batch: the good records, and the faults of the others by their place."""
    keys: list[Any] = [r.key for r in records]  # None only until step 1 is done
    values: list[Any] = [r.value for r in records]
    offsets = [r.offset for r in records]
    timestamps = [r.timestamp for r in records]
    places: Sequence[int] = range(len(records))
    refused: dict[int, Fault] = {}  # place in `records` -> fault
    # 1. What is wrong without reading it. `all` and `max` look at a good batch in nanoseconds.
    if not all(keys) or max(map(len, keys), default=0) > KEY_BYTES_MAX:
        refused |= {i: _key_fault(keys[i]) for i in places if not 0 < len(keys[i] or b"") <= KEY_BYTES_MAX}
    if not all(values) or max(map(len, values), default=0) > VALUE_BYTES_MAX:
        wrong = [i for i, value in enumerate(values) if not value or len(value) > VALUE_BYTES_MAX]
        refused = {i: _value_fault(values[i]) for i in wrong} | refused
    for i in refused:
        values[i] = b""
    # 2. Read: types, static bounds.
    structs, unknown_fields = read(source, offsets, values, refused)
    if refused:
        places, keys, offsets, timestamps = _without(refused, places, keys, offsets, timestamps)
    # 3. What only the record around the value can tell. The first fault found is the one that is reported.
    found: dict[int, Fault] = {}
    time_ms = np.array([s.time_ms for s in structs], np.int64)
    published_ms = np.array(timestamps, np.int64)
    _check_users(keys, structs, found)
    _check_partition(keys, partition, n_partitions, found)
    _check_times(time_ms, published_ms, found)
    _check_currency(structs, currency, found)
    if source == "feedback":
        _check_feedback(structs, found)
    if found:
        refused |= {places[i]: fault for i, fault in found.items()}
        structs, keys, offsets = _without(found, structs, keys, offsets)
        time_ms, published_ms = (np.delete(column, list(found)) for column in (time_ms, published_ms))
    return _Sound(keys, offsets, structs, time_ms, published_ms, unknown_fields), refused


def _without(gone: Collection[int], *columns: Any) -> list[list[Any]]:  # noqa: ANN401 (whatever the columns hold)
    """The columns less what stands at some places."""
    stays = bytearray(b"\1") * len(columns[0])
    for i in gone:
        stays[i] = 0
    return [list(compress(column, stays)) for column in columns]


def dead_letter(topic: str, partition: int, record: Record, fault: Fault) -> DeadLetter:
    """A record that is refused, with why."""
    return DeadLetter(
        topic,
        partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        fault.reason,
        fault.field,
        fault.detail,
    )


def _key_fault(key: bytes | None) -> Fault:
    if not key:
        return Fault(DeadReason.KEY_MISSING, "", "the key is null" if key is None else "the key is empty")
    return Fault(DeadReason.KEY_TOO_LONG, "", f"the key has {len(key)} bytes, at most {KEY_BYTES_MAX} are allowed")


def _value_fault(value: bytes | None) -> Fault:
    if not value:
        return Fault(DeadReason.VALUE_MISSING, "", "the value is null" if value is None else "the value is empty")
    detail = f"the value has {len(value)} bytes, at most {VALUE_BYTES_MAX} are allowed"
    return Fault(DeadReason.VALUE_TOO_LARGE, "", detail)


# --- 3. value and record ----------------------------------------------------------------------------------------------


def _check_users(keys: list[bytes], structs: list[Source], found: dict[int, Fault]) -> None:
    users = [s.user_id for s in structs]
    # Joined by a byte that none of them holds, lists are equal where the joined are: two calls instead of 2 N.
    joined = b"\n".join(keys)
    if joined.count(b"\n") == len(keys) - 1 and "\n".join(users).encode() == joined:
        return
    differ = map(operator.ne, keys, map(str.encode, users))
    for i in compress(range(len(keys)), differ):
        try:
            keys[i].decode()
        except UnicodeDecodeError as error:
            found[i] = Fault(DeadReason.KEY_NOT_UTF8, "", str(error)[:DETAIL_CHARS_MAX])
        else:
            found[i] = Fault(DeadReason.USER_MISMATCH, "$.user_id", "user_id differs from the record's key")


def _check_partition(keys: list[bytes], partition: int, n_partitions: int, found: dict[int, Fault]) -> None:
    right = partitions(keys, n_partitions)
    for i in np.flatnonzero(right != partition).tolist():
        found.setdefault(
            i,
            Fault(
                DeadReason.WRONG_PARTITION,
                "",
                f"the key belongs to partition {right[i]}, not {partition}: set the producer's partitioner to murmur2",
            ),
        )


def _check_times(time_ms: NDArray[np.int64], published_ms: NDArray[np.int64], found: dict[int, Fault]) -> None:
    for i in np.flatnonzero(time_ms > published_ms + TIME_AHEAD_MAX_MS).tolist():
        detail = f"{time_ms[i]} is more than {TIME_AHEAD_MAX_MS} ms after the record's timestamp {published_ms[i]}"
        found.setdefault(i, Fault(DeadReason.TIME_RANGE, "$.time_ms", detail))


def _check_currency(structs: list[Any], currency: str, found: dict[int, Fault]) -> None:
    if not structs or not hasattr(structs[0], "currency"):
        return
    if {s.currency for s in structs} <= {None, currency}:
        return
    for i, struct in enumerate(structs):
        if struct.currency not in (None, currency):
            detail = f"{struct.currency!r} is not the reporting currency {currency!r}"
            found.setdefault(i, Fault(DeadReason.CURRENCY, "$.currency", detail))


def _check_feedback(structs: list[Feedback], found: dict[int, Fault]) -> None:
    for i, struct in enumerate(structs):
        if struct.kind == "rating" and struct.rating is None:
            found.setdefault(i, Fault(DeadReason.FIELD_MISSING, "$.rating", "kind rating needs a rating"))
        elif struct.kind in {"offer_seen", "offer_dismissed"} and not struct.offer_id:
            found.setdefault(i, Fault(DeadReason.FIELD_MISSING, "$.offer_id", f"kind {struct.kind} needs an offer_id"))


# --- 4. columns -------------------------------------------------------------------------------------------------------


def _hashes(texts: Iterable[str | None]) -> NDArray[np.uint64]:
    """xxh3-64 of texts, uint64 [N]; 0 = not given, so a hash that is 0 becomes 1."""
    return np.array([(xxh3_64_intdigest(text.encode()) or 1) if text else 0 for text in texts], np.uint64)


def _low(texts: Iterable[str | None]) -> NDArray[np.uint32]:
    """Low 32 bits of `_hashes`, 0 = not given."""
    hashes = _hashes(texts)
    low = hashes.astype(np.uint32)
    return np.where((low == 0) & (hashes != 0), np.uint32(1), low)


class _Names(dict[str | None, int]):
    """Low 32 bits of the hash by name, remembered: categories and brands are few, a look-up is a third of a hash."""

    limit = 1 << 16

    def __missing__(self, name: str | None) -> int:
        if len(self) >= self.limit:
            self.clear()
        low = self[name] = int(_low([name])[0])
        return low

    def codes(self, names: Sequence[str | None]) -> NDArray[np.uint32]:
        """As `_low`."""
        return np.fromiter(map(self.__getitem__, names), np.uint32, len(names))


_CATEGORIES = _Names()
_BRANDS = _Names()


def _fill_clickstream(events: Events, structs: list[Click]) -> None:
    events["session"] = _hashes([s.session_id for s in structs])
    events["product"] = _low([s.product_id for s in structs])
    events["category"] = _CATEGORIES.codes([s.category_id for s in structs])
    events["brand"] = _BRANDS.codes([s.brand for s in structs])
    events["price_minor"] = [s.price_minor or 0 for s in structs]
    events["quantity"] = [s.quantity or 0 for s in structs]
    events["dwell_ms"] = [s.dwell_ms or 0 for s in structs]
    events["results"] = [0 if s.result_count is None else s.result_count + 1 for s in structs]


def _fill_orders(events: Events, structs: list[Order]) -> None:
    first = [s.lines[0] if s.lines else None for s in structs]
    events["session"] = _hashes([s.session_id for s in structs])
    events["offer"] = _hashes([s.offer_id for s in structs])
    events["product"] = _low([line.product_id if line else None for line in first])
    events["category"] = _CATEGORIES.codes([line.category_id if line else None for line in first])
    events["brand"] = _BRANDS.codes([line.brand if line else None for line in first])
    events["amount_minor"] = [s.total_minor for s in structs]
    events["discount_minor"] = [s.discount_minor or 0 for s in structs]
    events["price_minor"] = events["amount_minor"] + events["discount_minor"]
    events["quantity"] = [sum(line.quantity for line in s.lines) if s.lines else 0 for s in structs]


def _fill_feedback(events: Events, structs: list[Feedback]) -> None:
    events["offer"] = _hashes([s.offer_id for s in structs])
    events["product"] = _low([s.product_id for s in structs])
    events["rating"] = [s.rating or 0 for s in structs]


def _fill_redemptions(events: Events, structs: list[Redemption]) -> None:
    events["offer"] = _hashes([s.offer_id for s in structs])
    events["amount_minor"] = [s.amount_minor or 0 for s in structs]


_CONSENT = {None: CONSENT_UNKNOWN, False: CONSENT_NO, True: CONSENT_YES}


def _fill_customers(events: Events, structs: list[Customer]) -> None:
    events["registered_ms"] = [s.registered_ms or 0 for s in structs]
    events["birthday"] = [int(s.birthday[:2]) * 32 + int(s.birthday[3:]) if s.birthday else 0 for s in structs]
    events["tier"] = [TIERS.index(s.tier or "") for s in structs]
    events["consent"] = [_CONSENT[s.consent] for s in structs]
    events["objection"] = [bool(s.objection) for s in structs]


_FILL: dict[str, Callable[[Events, list[Any]], None]] = {
    "clickstream": _fill_clickstream,
    "orders": _fill_orders,
    "feedback": _fill_feedback,
    "redemptions": _fill_redemptions,
    "customers": _fill_customers,
}
