"""Taking over a partition: its store brought up to the changelog's end, the applied record held against the sources."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from confluent_kafka.admin import AdminClient

from stream.errors import BrokerSilentError, SourceLostError, StoreCorruptError
from stream.kafka import applied as applied_record
from stream.kafka.applied import Applied
from stream.kafka.cluster import INPUTS, OUTPUTS, Cluster, Range, log_ranges
from stream.kafka.restore import confirm, restore
from stream.kafka.shared import Shared
from stream.kafka.store import Store, open_or_set_aside, set_aside
from stream.metrics import Metrics
from stream.settings import Settings

logger = logging.getLogger(__name__)

STORE_AGE_MAX_S = 12 * 3600
"""Half of the changelog's `delete.retention.ms`: an older store may hold users who were erased meanwhile."""


def path_of(settings: Settings, partition: int) -> Path:
    """The folder of a partition's store."""
    return settings.data_dir / settings.app_id / str(partition)


def identity_of(settings: Settings, cluster: Cluster) -> dict[str, str | int]:
    """What a store must belong to."""
    return {
        "cluster": cluster.cluster_id,
        "changelog": cluster.topic_ids[settings.changelog],
        "partitions": settings.partitions,
    }


def logs_of(settings: Settings, partition: int, admin: AdminClient) -> dict[str, Range]:
    """Where the logs of all that a partition reads and writes begin and end, by topic.

    Raises:
        BrokerSilentError: the leader of one does not answer.
    """
    topics = [*map(settings.topic, (*INPUTS, *OUTPUTS)), settings.changelog]
    ranges = log_ranges(admin, [(topic, partition) for topic in topics])
    return {topic: ranges[topic, partition] for topic in topics}


def open_store(shared: Shared, partition: int, cluster: Cluster, log: Range) -> tuple[Store, Applied | None]:
    """The partition's store as of the changelog's end, and its applied record.

    A store that turns out bad, when it is opened or while it is brought up to date, is set aside once.

    Raises:
        PartitionError: see `restore`.
    """
    settings, databases = shared.settings, shared.outside.databases
    path, identity = path_of(settings, partition), identity_of(settings, cluster)
    store = open_or_set_aside(path, identity, databases, settings.store_pending_bytes, STORE_AGE_MAX_S)
    try:
        return store, _bring_up(store, shared, partition, log)
    except BrokerSilentError:  # it is taken over again, which opens the store
        store.close()
        raise
    except (StoreCorruptError, msgspec.MsgspecError) as e:
        store.abandon()
        set_aside(path, e)
    store = Store(path, identity, databases, settings.store_pending_bytes)
    return store, _bring_up(store, shared, partition, log)


def _bring_up(store: Store, shared: Shared, partition: int, log: Range) -> Applied | None:
    began_s, make = time.monotonic(), shared.outside.consumer
    confirm(store, shared.settings, partition, log, make)
    n = restore(store, shared.settings, partition, log, shared.metrics.count_restored, make)
    logger.info(
        "partition %d: %d changelog records restored in %.2f s, from offset %d on",
        partition, n, time.monotonic() - began_s, log[1] - n,
    )  # fmt: skip
    return None if store.applied is None else applied_record.decode(store.applied)


class Position(NamedTuple):
    """Where a partition goes on."""

    sequence: int
    """Steps applied before."""
    read: dict[str, int]
    """Next offset by source."""


def where_to_go_on(
    applied: Applied | None,
    settings: Settings,
    partition: int,
    topic_ids: dict[str, str],
    logs: dict[str, Range],
    metrics: Metrics,
) -> Position:
    """Hold the applied record against the source topics.

    Without a record the partition begins at the earliest offsets.

    Args:
        applied: the record in the changelog.
        settings: partition count, what to do about lost events.
        partition: its number.
        topic_ids: by source, as they are now.
        logs: by topic, as they are now.
        metrics: lost events are counted.

    Raises:
        SourceLostError: a topic is another one, ends before what was applied, or lost events that were not; or the
            rows were moved to another app, or are still on their way to this one.
    """
    if applied is None:
        return Position(0, {source: logs[settings.topic(source)][0] for source in INPUTS})
    _refuse_moved(applied, partition)
    if applied.partitions != settings.partitions:
        raise SourceLostError(
            f"partition {partition}: its rows were made with {applied.partitions} partitions, now there are "
            f"{settings.partitions}"
        )
    read = {}
    for source in INPUTS:
        first, end = logs[settings.topic(source)]
        topic = f"{settings.topic(source)}[{partition}]"
        position = applied.sources.get(source)
        if position is None:  # a source that is new to the product
            read[source] = first
            continue
        applied_to = position.next_offset
        if position.topic_id != topic_ids[source]:
            raise SourceLostError(f"{topic}: deleted and made anew since offset {applied_to} was applied")
        if applied_to > end:
            raise SourceLostError(f"{topic}: applied up to offset {applied_to}, but the log ends at {end}")
        if applied_to < first:
            lost = first - applied_to
            message = f"{topic}: {lost} events before offset {first} were deleted by retention before they were applied"
            if settings.lost_events == "stop":
                raise SourceLostError(f"{message}; OFFERSTREAM_LOST_EVENTS=count goes on without them")
            logger.error("%s; going on without them", message)
            metrics.events_lost.inc(lost)
        read[source] = max(applied_to, first)
    return Position(applied.sequence, read)


def _refuse_moved(applied: Applied, partition: int) -> None:
    if applied.owed:
        raise SourceLostError(
            f"partition {partition}: outputs are to be sent again, {applied.owed}: let a worker with "
            "OFFERSTREAM_GUARANTEE=exactly_once take it over first"
        )
    if applied.moved_to:
        raise SourceLostError(
            f"partition {partition}: its rows were moved to the app {applied.moved_to}, which has its own topics and "
            "partition count: set OFFERSTREAM_APP_ID, OFFERSTREAM_TOPIC_PREFIX and OFFERSTREAM_PARTITIONS to what "
            "`python -m stream repartition` said"
        )
    if applied.filled_from:
        raise SourceLostError(
            f"partition {partition}: rows are still being copied from the app {applied.filled_from}: let "
            "`python -m stream repartition` come to its end, call it again if it was stopped"
        )
