"""What hangs: a transaction that is open though nobody has it open.

Brokers acknowledged its end and wrote none; a cluster of one that is stopped does that. Its records share the end of
the next transaction of the same id in that log: seen with a commit, lost with an abort.
"""

import json

from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from stream.errors import BrokerSilentError, HangingError, TransactionError
from stream.kafka.applied import Applied
from stream.kafka.cluster import INPUTS, OUTPUTS, Range, high_watermarks
from stream.kafka.commit import ExactlyOnce, Sender
from stream.kafka.restore import record_at
from stream.kafka.shared import Shared
from stream.kafka.store import Store
from stream.settings import Settings

ABORTS_MAX = 3
"""What hangs all the same belongs to another transactional id: another program's, whose time-out will end it."""


def abort_what_hangs(
    shared: Shared,
    partition: int,
    admin: AdminClient,
    logs: dict[str, Range],
    sender: Sender,
    store: Store,
    applied: Applied | None,
) -> None:
    """Abort what hangs of a partition and is not applied; its events are applied again.

    The changelog's part is not: nobody has seen it. An output is what the applied record says of its event. What is
    applied is left to the next commit in its log: to abort it would lose it.

    Nobody else has a transaction open, once they are fenced. The changelog is the last to be
    aborted, so that whoever is killed here leaves it hanging for the next owner to see.

    Args:
        shared: settings and clients.
        partition: its number.
        admin: asks how long the logs are.
        logs: by topic, as they were when everybody else was fenced.
        sender: initialised.
        store: as of the changelog's last stable offset.
        applied: the record in it.

    Raises:
        HangingError: something was aborted, store and sender are closed. It has to be taken over again: only the next
            `initialise` waits until that is done.
        BrokerSilentError: the leader of a log does not answer.
    """
    if not isinstance(sender, ExactlyOnce):
        return
    try:
        if wrong := _not_applied(shared, partition, admin, logs, applied):
            shared.aborted.update(wrong)
            sender.abort([(topic, number) for topic, number, _ in wrong])
            raise HangingError(f"brokers had lost the end of a transaction, it is aborted now in {wrong}")
    except (TransactionError, BrokerSilentError):  # it is taken over again, which opens both
        store.close()
        sender.close()
        raise


def _not_applied(
    shared: Shared, partition: int, admin: AdminClient, logs: dict[str, Range], applied: Applied | None
) -> list[tuple[str, int, int]]:
    """(topic, partition, first offset) of those where something hangs that is not applied."""
    settings = shared.settings
    topics = [*map(settings.topic, OUTPUTS), settings.changelog]
    ends = high_watermarks(admin, [(topic, partition) for topic in topics])
    wrong = []
    for topic in topics:
        stable = logs[topic][1]
        if stable >= ends[topic, partition] or shared.aborted[topic, partition, stable] >= ABORTS_MAX:
            continue
        if topic != settings.changelog:
            first = record_at(stable, "read_uncommitted", settings, topic, partition, shared.outside.consumer)
            if first is None or _is_applied(first, applied, settings):
                continue
        wrong.append((topic, partition, stable))
    return wrong


def _is_applied(output: Message, applied: Applied | None, settings: Settings) -> bool:
    """Whether the event, or the silence, that an output answers is applied."""
    if applied is None:
        return False
    headers = dict(output.headers() or [])
    if "offset" in headers:  # a dead letter
        topic, offset = headers["topic"].decode(), int(headers["offset"])
    elif output.value():
        trigger = json.loads(output.value() or b"")["trigger"]
        topic, offset = trigger["topic"], trigger["offset"]
        if trigger["kind"] == "silence":
            sweep, due_ms = applied.sweep, trigger["time_ms"]
            swept = due_ms < sweep.tick_ms and (output.key() or b"") <= sweep.cursor
            return due_ms < sweep.swept_ms or swept
    else:  # of an abort whose end was lost too
        return False
    source = next(name for name in INPUTS if settings.topic(name) == topic)
    return offset < applied.sources[source].next_offset
