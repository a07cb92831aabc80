from collections.abc import Mapping
from typing import Any

from aiokafka.structs import ConsumerRecord
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import SOURCES
from stream.kafka.transport import EventBatch, Fetched, bundle

SOURCE_OF = {f"shop.{source}": source for source in SOURCES}
Record = Any
"""A ConsumerRecord, which has no types."""


def record(tp: TP, offset: int, n_bytes: int | None) -> Record:
    value: Any = None if n_bytes is None else bytes(n_bytes)
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, b"u", value, 1, n_bytes or 0, None, ())


tps = st.builds(TP, st.sampled_from(sorted(SOURCE_OF)), st.integers(0, 3))


@st.composite
def polls(draw: st.DrawFn) -> Mapping[TP, Fetched]:
    """Offsets with holes, where transaction markers and compacted records were; empty and null values."""
    found = {}
    for tp in draw(st.lists(tps, max_size=8, unique=True)):
        begin = offset = draw(st.integers(0, 2**40))
        records = []
        for size in draw(st.lists(st.none() | st.integers(0, 40) | st.just(500), min_size=1, max_size=25)):
            offset += draw(st.integers(1, 3))
            records.append(record(tp, offset, size))
        found[tp] = Fetched(begin, offset + draw(st.integers(1, 3)), records)
    return found


def flat(batches: list[EventBatch]) -> list[Record]:
    return [r for batch in batches for records in batch.records.values() for r in records]


def n_bytes(batch: EventBatch) -> int:
    return sum(len(r.value or b"") for records in batch.records.values() for r in records)


@given(polls(), st.integers(1, 30), st.integers(1, 600), st.sets(st.integers(0, 3)))
def test_batches_hold_everything_once_in_order_within_bounds(
    poll: Mapping[TP, Fetched], rows_max: int, bytes_max: int, waiting: set[int]
) -> None:
    batches = list(bundle(poll, SOURCE_OF, rows_max, bytes_max, waiting))
    # Nothing is lost, nothing twice: by topic and partition the same records in the same order.
    for tp, fetched in poll.items():
        ours = [r for r in flat(batches) if (r.topic, r.partition) == tp]
        assert [r.offset for r in ours] == [r.offset for r in fetched.records]
        # Their spans lie end to end, each around its records.
        reached = fetched.begin
        for batch in batches:
            source = SOURCE_OF[tp.topic]
            if batch.partition == tp.partition and source in batch.records:
                begin, end = batch.spans[source]
                offsets = [r.offset for r in batch.records[source]]
                assert reached == begin <= min(offsets) <= max(offsets) < end
                reached = end
        assert reached == fetched.end
    assert sum(batch.n_records for batch in batches) == sum(len(fetched.records) for fetched in poll.values())
    last_of: dict[int, EventBatch] = {}
    for batch in batches:
        assert 1 <= batch.n_records <= rows_max
        assert n_bytes(batch) <= bytes_max or batch.n_records == 1
        found: Any
        for source, found in batch.records.items():
            assert {(r.topic, r.partition) for r in found} == {(f"shop.{source}", batch.partition)}
        last_of[batch.partition] = batch
    for batch in batches:
        is_last = batch is last_of[batch.partition]
        assert batch.more_waits == (not is_last or batch.partition in waiting)


@given(polls(), st.integers(1, 10))
def test_batches_are_no_smaller_than_they_must_be(poll: Mapping[TP, Fetched], rows_max: int) -> None:
    batches = list(bundle(poll, SOURCE_OF, rows_max, 1 << 30))
    for partition in {tp.partition for tp in poll}:
        total = sum(len(fetched.records) for tp, fetched in poll.items() if tp.partition == partition)
        assert sum(batch.partition == partition for batch in batches) == -(-total // rows_max)


def test_partitions_take_turns() -> None:
    long, short = TP("shop.clickstream", 0), TP("shop.orders", 1)
    poll = {tp: Fetched(0, n, [record(tp, i, 1) for i in range(n)]) for tp, n in ((long, 10), (short, 3))}
    batches = list(bundle(poll, SOURCE_OF, 3, 1 << 20))
    assert [batch.partition for batch in batches] == [0, 1, 0, 0, 0]
    assert [batch.more_waits for batch in batches] == [True, False, True, True, False]


def test_an_empty_poll() -> None:
    assert list(bundle({}, SOURCE_OF, 3, 3)) == []
