"""Records that wait: markers and aborted records are none, and a position that stands before a record does."""

from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from faust.types import TP

from stream.kafka.lag import Lag
from tests.e2e.harness import Site, wait_until


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path)


def test_what_is_no_record_does_not_wait(site: Site) -> None:
    tp = TP(site.settings.topic("orders"), 0)
    producer = Producer(
        {"bootstrap.servers": site.settings.bootstrap, "transactional.id": site.settings.app_id, "log_level": 0}
    )
    producer.init_transactions(30)

    def transaction(n: int, end: int, *, commit: bool, to: TP = tp) -> None:
        producer.begin_transaction()
        for i in range(n):
            producer.produce(to.topic, b"%d" % i, b"u1", to.partition)
        assert producer.flush(30) == 0
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
        wait_until(lambda: site.ends(to.topic)[0] == end, "the marker is written", 10)

    at = {tp: 0}
    lag = Lag(lambda: at, site.settings.bootstrap, AdminClient({"bootstrap.servers": site.settings.bootstrap}))

    def looked() -> int:
        for _ in range(2):  # a position counts as standing from the second look on
            lag.look()
        return lag.by_partition()[tp]

    assert looked() == 0
    transaction(3, 4, commit=True)  # offsets 0 to 2, a marker at 3
    assert looked() == 4
    at[tp] = 3
    assert lag.by_partition() == {tp: 1}
    assert looked() == 0
    transaction(5, 10, commit=False)  # 4 to 8, a marker at 9
    assert looked() == 0
    transaction(1, 12, commit=True)  # 10, a marker at 11
    assert looked() == 2
    at[tp] = 2  # as after a take-over from an older commit
    assert looked() == 10
    at[tp] = 11
    assert looked() == 0
    # Several that stand still, asked about at once: a record, nothing but a marker.
    at[tp] = 10
    empty = TP(site.settings.topic("feedback"), 0)
    transaction(1, 2, commit=False, to=empty)
    at[empty] = 0
    looked()
    assert lag.by_partition() == {tp: 2, empty: 0}
