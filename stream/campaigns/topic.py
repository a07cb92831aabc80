"""Reading and writing the `campaigns` topic from the command line. A worker follows it by its own means."""

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from stream.errors import SetupError

TIMEOUT_S = 10.0
"""For the broker's first answer, and for each step after it."""

# Why a broker does not answer is said once, by us, and not by librdkafka every second.
_QUIET: dict[str, Any] = {"log_level": 0, "logger": logging.getLogger("offerstream.librdkafka")}


def check(bootstrap: str, topic: str) -> None:
    """Look whether the topic is as it has to be.

    Raises:
        SetupError: no broker answers; the topic is missing, has more than one partition, or is not compacted.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = admin.list_topics(timeout=TIMEOUT_S).topics.get(topic)
        if found is None:
            raise SetupError(f"the topic {topic} does not exist; `python -m stream topics create` creates it")
        configs = admin.describe_configs([resource], request_timeout=TIMEOUT_S)
        policy = configs[resource].result()["cleanup.policy"].value
    except KafkaException as error:
        raise _no_answer(bootstrap, error) from error
    if len(found.partitions) != 1:
        text = f"the topic {topic} has {len(found.partitions)} partitions, it must have 1: make it anew"
        raise SetupError(f"{text} with `python -m stream topics create`")
    if policy != "compact":
        text = f"the topic {topic} has cleanup.policy={policy}, it must be compact, or campaigns are lost with time"
        raise SetupError(f"{text}: kafka-configs --alter --topic {topic} --add-config cleanup.policy=compact")


def read(bootstrap: str, topic: str) -> dict[str, bytes]:
    """The topic's records from beginning to end: latest value by key, deleted ones left out.

    Raises:
        SetupError: as `check`; or the read stands still.
    """
    check(bootstrap, topic)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "offerstream-campaigns",  # asked for by the client; never joined, nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # the end is known at once, not after half a second of waiting for more
            "isolation.level": "read_committed",
            **_QUIET,
        }
    )
    records: dict[str, bytes] = {}
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        while True:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise SetupError(f"the broker at {bootstrap} sent nothing of {topic} for {TIMEOUT_S:.0f} s")
            error = message.error()
            if error is None:
                _take(records, message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 the constant has no other name
                return records
            else:
                raise _no_answer(bootstrap, KafkaException(error))
    finally:
        consumer.close()


def _take(records: dict[str, bytes], message: Message) -> None:
    key = (message.key() or b"").decode("utf-8", "replace")
    value = message.value()
    if value is None:
        records.pop(key, None)
    else:
        records[key] = value


def publish(bootstrap: str, topic: str, records: Mapping[str, bytes | None]) -> None:
    """Write records, None to delete, and return when the broker has confirmed all of them.

    Raises:
        SetupError: as `check`; or the broker did not confirm.
    """
    check(bootstrap, topic)
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(TIMEOUT_S * 1000),
            **_QUIET,
        }
    )
    for key, value in records.items():
        producer.produce(topic, key=key.encode(), value=value, partition=0, on_delivery=delivered)
    left = producer.flush(TIMEOUT_S + 5)
    if left or failures:
        why = failures[0].str() if failures else "no confirmation"
        raise SetupError(
            f"the broker at {bootstrap} did not take {left + len(failures)} of {len(records)} records: {why}"
        )


def _no_answer(bootstrap: str, error: KafkaException) -> SetupError:
    text = error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error)
    return SetupError(f"the broker at {bootstrap} does not answer ({text}); is KAFKA_BOOTSTRAP or --bootstrap right?")
