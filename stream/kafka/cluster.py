"""What the brokers say about our topics: ids, partition counts, where logs begin and end."""

import time
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream.core.events import SOURCES
from stream.errors import SetupError
from stream.settings import Settings

OUTPUTS = ("offers", "decisions", "dead-letters")
CONTROL = ("models", "campaigns")

REQUEST_TIMEOUT_S = 6.0
"""For one request. A broker that is not there must be reported within 15 s of the start."""

_PAUSE_S = 0.1


@dataclass(frozen=True)
class Cluster:
    """Our topics as they stood at a take-over."""

    cluster_id: str
    topic_ids: dict[str, str]
    """Full topic name to Kafka's id: all that a worker reads or writes."""


def look(settings: Settings, admin: AdminClient) -> Cluster:
    """Describe every topic that a worker reads or writes.

    Raises:
        SetupError: no broker answers; or the topics are not as they must be: names everything that is wrong.
    """
    by_user = [*map(settings.topic, (*SOURCES, *OUTPUTS)), settings.changelog]
    count_of = dict.fromkeys(by_user, settings.partitions) | dict.fromkeys(map(settings.topic, CONTROL), 1)
    try:
        cluster = admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S).result()
        described = admin.describe_topics(TopicCollection(list(count_of)), request_timeout=REQUEST_TIMEOUT_S)
    except KafkaException as e:
        raise SetupError(
            f"no answer from the brokers at {settings.bootstrap}: {e.args[0].str()}. Is Kafka running there?"
        ) from e
    ids: dict[str, str] = {}
    problems: list[str] = []
    for name, future in described.items():
        try:
            topic = future.result()
        except KafkaException as e:
            problems.append(f"{name}: {e.args[0].str()}. `python -m stream topics create` makes what is missing")
            continue
        ids[name] = str(topic.topic_id)
        if len(topic.partitions) != count_of[name]:
            problems.append(f"{name} has {len(topic.partitions)} partitions, {_why(name in by_user, settings)}")
    if problems:
        raise SetupError("topics are not as they must be:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Cluster(str(cluster.cluster_id), ids)


def _why(by_user: bool, settings: Settings) -> str:
    if by_user:
        said = f"OFFERSTREAM_PARTITIONS says {settings.partitions}"
        return f"{said}: all topics keyed by user have one count, fixed for life"
    return "must have 1: its records are read in one order"


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
