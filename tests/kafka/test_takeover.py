"""Where a partition goes on: the applied record against the source topics as they are now."""

import dataclasses

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from stream.errors import SourceLostError
from stream.kafka.applied import Applied, SourcePosition, decode, encode
from stream.kafka.cluster import INPUTS
from stream.kafka.takeover import Position, where_to_go_on
from stream.metrics import Metrics
from stream.settings import Settings

SETTINGS = Settings(partitions=4, topic_prefix="shop.")
IDS = {source: f"id-{source}" for source in INPUTS}
LOGS = dict.fromkeys(map(SETTINGS.topic, INPUTS), (10, 100))


def record(**offsets: int) -> Applied:
    at = dict.fromkeys(INPUTS, 50) | offsets
    return Applied(1, 4, 777, {source: SourcePosition(IDS[source], offset) for source, offset in at.items()})


def ask(applied: Applied | None, settings: Settings = SETTINGS, metrics: Metrics | None = None) -> Position:
    return where_to_go_on(applied, settings, 2, IDS, LOGS, metrics or Metrics(CollectorRegistry()))


def test_a_partition_without_a_record_begins_at_the_beginning() -> None:
    assert ask(None) == Position(0, dict.fromkeys(INPUTS, 10))


def test_it_goes_on_where_it_was() -> None:
    assert ask(record(orders=100, feedback=10)) == Position(
        777, dict.fromkeys(INPUTS, 50) | {"orders": 100, "feedback": 10}
    )


def test_a_source_that_is_new_begins_at_its_beginning() -> None:
    applied = record()
    older = Applied(1, 4, 7, {s: p for s, p in applied.sources.items() if s != "customers"})
    assert ask(older).read == dict.fromkeys(INPUTS, 50) | {"customers": 10}


def test_a_topic_that_is_another_one() -> None:
    applied = record()
    other = Applied(1, 4, 7, applied.sources | {"orders": SourcePosition("another", 50)})
    with pytest.raises(SourceLostError, match=r"shop.orders\[2\]: deleted and made anew since offset 50"):
        ask(other)


def test_a_log_that_ends_before_what_was_applied() -> None:
    with pytest.raises(SourceLostError, match=r"shop.orders\[2\]: applied up to offset 101, but the log ends at 100"):
        ask(record(orders=101))


def test_events_that_retention_took() -> None:
    with pytest.raises(
        SourceLostError, match=r"shop.orders\[2\]: 4 events before offset 10 .* OFFERSTREAM_LOST_EVENTS"
    ):
        ask(record(orders=6))
    metrics = Metrics(CollectorRegistry())
    position = ask(record(orders=6, feedback=0), dataclasses.replace(SETTINGS, lost_events="count"), metrics)
    assert position.read == dict.fromkeys(INPUTS, 50) | {"orders": 10, "feedback": 10}
    assert metrics.registry.get_sample_value("offerstream_events_lost_total") == 14


def test_another_partition_count() -> None:
    with pytest.raises(SourceLostError, match="made with 4 partitions, now there are 8"):
        ask(record(), dataclasses.replace(SETTINGS, partitions=8))


def test_rows_that_are_elsewhere() -> None:
    with pytest.raises(SourceLostError, match=r"its rows were moved to the app v2.* OFFERSTREAM_APP_ID"):
        ask(msgspec.structs.replace(record(), moved_to="v2"))
    with pytest.raises(SourceLostError, match=r"rows are still being copied from the app v1: .*repartition"):
        ask(msgspec.structs.replace(record(), filled_from="v1"))


def test_an_applied_record_is_read_as_it_was_written() -> None:
    applied = Applied(1, 4, 7, record().sources, "ab" * 32, {"nudge": 3})
    assert decode(encode(applied)) == applied


def test_outputs_that_are_owed_are_sent_first() -> None:
    with pytest.raises(SourceLostError, match=r"partition 2: outputs are to be sent again, .*shop.offers"):
        ask(msgspec.structs.replace(record(), owed={"shop.offers": (3, 9)}))
