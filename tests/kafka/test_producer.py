import dataclasses
import os
import socket
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from stream.errors import DeliveryError
from stream.kafka.producer import BulkProducer
from stream.settings import Settings
from tests.e2e.harness import Site


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path)


def offers(site: Site) -> str:
    return site.settings.topic("offers")


def test_records_arrive_in_order_in_the_partition_named(site: Site) -> None:
    producer = BulkProducer(site.settings, 1)
    keys = [b"%d" % i for i in range(5_000)]
    producer.send(offers(site), keys, [b"v" + key for key in keys])
    producer.send_with_headers(offers(site), [(None, None, [("a", b"1"), ("b", b"")]), (b"k", b"", [])])
    producer.flush()
    read = site.out("offers")
    assert {r.partition for r in read} == {1}
    assert [(r.key, r.value) for r in read] == [*((k, b"v" + k) for k in keys), (None, None), (b"k", b"")]
    assert [r.headers for r in read[-2:]] == [{"a": b"1", "b": b""}, {}]
    producer.close()


def test_the_last_record_tells_its_offset(site: Site) -> None:
    producer = BulkProducer(site.settings, 0, report_offsets=True)
    assert producer.send_last(offers(site), b"k", b"v") == 0
    producer.send(offers(site), [b"a", b"b"], [b"1", b"2"])
    assert producer.send_last(offers(site), b"k", b"v") == 3
    producer.close()


def test_keys_and_values_that_do_not_pair_up(site: Site) -> None:
    producer = BulkProducer(site.settings, 0)
    with pytest.raises(ValueError, match="zip"):
        producer.send(offers(site), [b"a", b"b"], [b"1"])
    producer.close()


def test_more_than_the_queue_holds(site: Site) -> None:
    producer = BulkProducer(site.settings, 0)
    n = 120
    producer.send(offers(site), [b"k"] * n, [bytes(400_000)] * n)
    producer.send_with_headers(offers(site), [(b"k", bytes(400_000), [])] * n)
    producer.flush()
    assert site.ends(offers(site))[0] == 2 * n
    producer.close()


def test_a_record_that_the_broker_refuses(site: Site) -> None:
    small = site.settings.topic("small")
    client = AdminClient({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    client.create_topics([NewTopic(small, 1, 1, config={"max.message.bytes": "100000"})])[small].result()
    producer = BulkProducer(site.settings, 0)
    producer.send(small, [b"a", b"b"], [b"1", os.urandom(200_000)])
    with pytest.raises(DeliveryError, match=r"partition 0: .*MSG_SIZE_TOO_LARGE"):
        producer.flush()
    with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"):  # it is not forgotten
        producer.send(small, [b"c"], [b"3"])
    producer.close()


def test_a_record_that_no_broker_takes(site: Site) -> None:
    producer = BulkProducer(site.settings, 0)
    with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"):
        producer.send(offers(site), [b"a"], [bytes(17 << 20)])
    with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"):
        producer.send_with_headers(offers(site), [(b"a", bytes(17 << 20), [])])
    producer.close()


def test_a_partition_that_is_not_there(site: Site) -> None:
    producer = BulkProducer(dataclasses.replace(site.settings, delivery_timeout_ms=2_000), 7)
    with pytest.raises(DeliveryError, match="partition 7"):
        producer.send_last(offers(site), b"k", b"v")
    producer.close()


def test_no_broker_in_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        settings = Settings(bootstrap=f"127.0.0.1:{taken.getsockname()[1]}", delivery_timeout_ms=1_000)
        producer = BulkProducer(settings, 0)
        began_s = time.monotonic()
        with pytest.raises(DeliveryError, match="partition 0"):
            producer.send_last("offers", b"k", b"v")
        assert time.monotonic() - began_s < 10
        producer.close()


def test_who_was_closed_sends_no_more(site: Site) -> None:
    """The partition is another worker's: rows that came late would overwrite newer ones."""
    producer = BulkProducer(site.settings, 0)
    producer.close()
    with pytest.raises(DeliveryError, match="let go"):
        producer.send(offers(site), [b"k"], [b"v"])
    with pytest.raises(DeliveryError, match="let go"):
        producer.send_with_headers(offers(site), [(b"k", b"v", [])])
    with pytest.raises(DeliveryError, match="let go"):
        producer.flush()
    assert site.out("offers") == []
