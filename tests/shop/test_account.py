"""What the demo counts on the broker."""

from confluent_kafka import Producer

from stream.settings import Settings
from stream.shop.account import records


def test_records_are_counted_and_not_offsets(settings: Settings) -> None:
    """A transaction's marker has an offset, and so has what was aborted."""
    topic = settings.topic("offers")
    producer = Producer({"bootstrap.servers": settings.bootstrap, "transactional.id": settings.app_id + "counted"})
    producer.init_transactions(30)
    for commit in (True, False, True):
        producer.begin_transaction()
        producer.produce(topic, b"value", b"key", 0)
        producer.flush(30)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
    assert records(settings, "offers") == 2
    assert records(settings, "decisions") == 0
