"""What the brokers say about our topics: ids, partition counts, where logs begin and end."""

import time
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream.core.events import SOURCES
from stream.errors import SetupError
from stream.settings import Settings

REQUEST_TIMEOUT_S = 10.0
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Cluster:
    """Our topics as they stood at a take-over."""

    cluster_id: str
    topic_ids: dict[str, str]
    """Full topic name to Kafka's id: sources and changelog."""


def look(settings: Settings, admin: AdminClient) -> Cluster:
    """Describe sources and changelog.

    Raises:
        SetupError: a broker is not there, a topic is missing, or its partition count is not the setting's.
    """
    names = [settings.topic(source) for source in SOURCES] + [settings.changelog]
    try:
        cluster = admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S).result()
        described = admin.describe_topics(TopicCollection(names), request_timeout=REQUEST_TIMEOUT_S)
    except KafkaException as e:
        raise SetupError(
            f"no answer from the brokers at {settings.bootstrap}: {e.args[0].str()}. Is Kafka running there?"
        ) from e
    ids = {}
    for name, future in described.items():
        try:
            topic = future.result()
        except KafkaException as e:
            raise SetupError(
                f"topic {name}: {e.args[0].str()}. `python -m stream topics create` makes what is missing"
            ) from e
        if len(topic.partitions) != settings.partitions:
            raise SetupError(
                f"topic {name} has {len(topic.partitions)} partitions, OFFERSTREAM_PARTITIONS says "
                f"{settings.partitions}: all topics keyed by user have one count, fixed for life"
            )
        ids[name] = str(topic.topic_id)
    return Cluster(str(cluster.cluster_id), ids)


def log_ranges(admin: AdminClient, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """(first offset, last stable offset) of each (topic, partition): what a read_committed reader can read now.

    Raises:
        SetupError: the leader does not answer.
    """
    if not partitions:
        return {}
    tps = [TopicPartition(topic, partition) for topic, partition in partitions]
    first, end = (_offsets(admin, dict.fromkeys(tps, spec)) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
    return {tp: (first[tp], end[tp]) for tp in partitions}


def _offsets(admin: AdminClient, wanted: dict[TopicPartition, OffsetSpec]) -> dict[tuple[str, int], int]:
    """Ask the leaders, for a while: they move when a broker restarts, and a topic that is new has none yet."""
    give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        futures = admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
        except KafkaException as e:
            if time.monotonic() > give_up_s:
                raise SetupError(f"no offsets from the brokers: {e.args[0].str()}") from e
        time.sleep(_PAUSE_S)
