"""What the brokers say about our topics: ids, partition counts, where logs begin and end."""

import contextlib
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription

from stream.core.events import SOURCES
from stream.errors import BrokerSilentError, SetupError
from stream.settings import Settings

ERASURES = "erasures"
INPUTS = (*SOURCES, ERASURES, "identities", "merges")
"""What a partition reads, by name without prefix: positions of these are in the applied record. Append only."""

Range = tuple[int, int]
"""(first offset, last stable offset) of a log."""

OUTPUTS = ("offers", "decisions", "dead-letters")
CONTROL = ("models", "campaigns")

REQUEST_TIMEOUT_S = 6.0
"""For one request. A broker that is not there must be reported within 10 s."""

_PAUSE_S = 0.1

MAKE_MISSING = "`python -m stream topics create` makes what is missing."


class Topic(NamedTuple):
    """A topic as the cluster has it."""

    id: str
    """Kafka's own: a topic that was deleted and made anew has another one."""
    partitions: int
    replication: int


@dataclass(frozen=True)
class Cluster:
    """Our topics as they stood at a take-over."""

    cluster_id: str
    topic_ids: dict[str, str]
    """Full topic name to Kafka's id: all that a worker reads or writes."""


def admin_client(bootstrap: str, client_id: str = "offerstream-admin") -> AdminClient:
    """A client that says what is wrong by raising, not by logging: it would log every attempt to connect."""
    return AdminClient(
        {"bootstrap.servers": bootstrap, "client.id": client_id, "log_level": 0, "error_cb": lambda _error: None}
    )


def no_answer(bootstrap: str, error: KafkaException) -> BrokerSilentError:
    """What to say where no broker answers."""
    return BrokerSilentError(
        f"no answer from Kafka at {bootstrap}: {error.args[0].str()}. "
        "Is it running there? KAFKA_BOOTSTRAP names the brokers; `python -m stream broker start` starts one here."
    )


def describe(admin: AdminClient, names: Collection[str]) -> dict[str, Topic]:
    """Those of the named topics that exist.

    Raises:
        KafkaException: no broker answers.
    """
    described = admin.describe_topics(TopicCollection(sorted(names)), request_timeout=REQUEST_TIMEOUT_S)
    found = {name: _described(future) for name, future in described.items()}
    return {name: topic for name, topic in found.items() if topic}


def _described(future: "Future[TopicDescription]") -> Topic | None:
    """None: there is none, or it is just being made or deleted and not every broker knows of it."""
    try:
        topic = future.result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    replication = max((len(partition.replicas) for partition in topic.partitions), default=0)
    return Topic(str(topic.topic_id), len(topic.partitions), replication)


def look(settings: Settings, admin: AdminClient) -> Cluster:
    """Describe every topic that a worker reads or writes.

    Raises:
        BrokerSilentError: no broker answers.
        SetupError: the topics are not as they must be: names everything that is wrong.
    """
    keyed_by_user = dict.fromkeys([*map(settings.topic, (*INPUTS, *OUTPUTS)), settings.changelog], True)
    keyed_by_user |= dict.fromkeys(map(settings.topic, CONTROL), False)
    try:
        cluster = admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S).result()
        found = describe(admin, keyed_by_user)
    except KafkaException as e:
        raise no_answer(settings.bootstrap, e) from e
    if problems := count_problems(found, keyed_by_user, settings.partitions):
        raise wrong_topics(problems)
    return Cluster(str(cluster.cluster_id), {name: topic.id for name, topic in found.items()})


def wrong_topics(problems: list[str]) -> SetupError:
    """What to say where topics are not as they have to be."""
    return SetupError("topics are not as they should be:\n" + "\n".join(f"  {line}" for line in problems))


def count_problems(found: dict[str, Topic], keyed_by_user: dict[str, bool], partitions: int) -> list[str]:
    """A line for the topics that are missing, and one for each count of partitions that should not be.

    Args:
        found: those that exist, by name.
        keyed_by_user: all that are wanted, and whether they have as many partitions as the setting says, or one.
        partitions: the setting.
    """
    missing = [name for name in keyed_by_user if name not in found]
    problems = [f"no such topic: {', '.join(missing)}. {MAKE_MISSING}"] if missing else []
    names_by_count: dict[tuple[bool, int], list[str]] = {}
    for name, topic in found.items():
        names_by_count.setdefault((keyed_by_user[name], topic.partitions), []).append(name)
    for (by_user, has), names in sorted(names_by_count.items()):
        line = f"{has} partition{'' if has == 1 else 's'} in {', '.join(names)}: "
        if not by_user and has != 1:
            problems.append(
                f"{line}must be 1, these are read in one order. Delete, then `python -m stream topics create`."
            )
        elif by_user and has != partitions:
            problems.append(
                f"{line}too {'few' if has < partitions else 'many'}, OFFERSTREAM_PARTITIONS is {partitions}. All "
                f"topics keyed by user have one count, fixed for life: if all have {has}, set OFFERSTREAM_PARTITIONS="
                f"{has}; else delete these, then `python -m stream topics create`."
            )
    return problems


def group_members(admin: AdminClient, group: str) -> list[str]:
    """Who is in a consumer group: names of static members, client ids of others.

    Raises:
        BrokerSilentError: the group's coordinator does not answer.
    """
    give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            asked = admin.describe_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_S)
            return sorted(member.group_instance_id or member.client_id for member in asked[group].result().members)
        except KafkaException as e:
            if e.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:  # it never had a member
                return []
            if time.monotonic() > give_up_s:
                raise BrokerSilentError(f"nothing of the group {group} from the brokers: {e.args[0].str()}") from e
        time.sleep(_PAUSE_S)  # a broker that was just started is still reading its groups


def log_ranges(admin: AdminClient, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], Range]:
    """Of each (topic, partition) what a read_committed reader can read now.

    Raises:
        BrokerSilentError: the leader does not answer.
    """
    if not partitions:
        return {}
    tps = [TopicPartition(topic, partition) for topic, partition in partitions]
    first, end = (
        _offsets(admin, dict.fromkeys(tps, spec), IsolationLevel.READ_COMMITTED)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    )
    return {tp: (first[tp], end[tp]) for tp in partitions}


def high_watermarks(admin: AdminClient, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """The end of each (topic, partition), open transactions and all: what is committed by now lies before it.

    Raises:
        SetupError: the leader does not answer.
    """
    wanted = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in partitions}
    return _offsets(admin, wanted, IsolationLevel.READ_UNCOMMITTED)


def _offsets(
    admin: AdminClient, wanted: dict[TopicPartition, OffsetSpec], isolation: IsolationLevel
) -> dict[tuple[str, int], int]:
    """Ask the leaders, for a while: they move when a broker restarts, and a topic that is new has none yet."""
    give_up_s = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        futures = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=REQUEST_TIMEOUT_S)
        try:
            return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
        except KafkaException as e:
            if time.monotonic() > give_up_s:
                raise BrokerSilentError(f"no offsets from the brokers: {e.args[0].str()}") from e
        # librdkafka keeps asking with the leader's epoch that it knew, which a broker that was restarted refuses: only
        # looking at the topics again tells it the new one.
        with contextlib.suppress(KafkaException):
            admin.list_topics(timeout=_PAUSE_S * 10)
        time.sleep(_PAUSE_S)
