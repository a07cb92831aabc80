"""What hangs: a transaction that is open though nobody has it open.

Brokers acknowledged its end and wrote none; a cluster of one that is stopped does that. Its records share the end of
the next transaction of the same id in that log: seen with a commit, lost with an abort.

A partition settles it step by step and is taken over anew after each, since only `initialise` waits until what a step
ended is ended:

1. The changelog, and outputs of which nothing is applied, are aborted: nobody has seen them. Their events are applied
   again. An output is what the applied record says of its event.
2. Where some outputs are applied, the applied record says that they are owed: nothing else would tell, once they are
   aborted.
3. What is owed is aborted.
4. What is applied of it is sent again, in one transaction with an applied record that owes nothing.

Whoever is killed between two steps leaves the next owner to go on there.
"""

import json

import msgspec
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from stream.errors import BrokerSilentError, HangingError, TransactionError
from stream.kafka import applied as applied_record
from stream.kafka.applied import Applied
from stream.kafka.cluster import INPUTS, OUTPUTS, Range, high_watermarks
from stream.kafka.commit import ExactlyOnce, Sender
from stream.kafka.emit import DeadRecord
from stream.kafka.restore import read_range
from stream.kafka.shared import Shared
from stream.kafka.store import Store
from stream.settings import Settings

ABORTS_MAX = 3
"""What hangs all the same belongs to another transactional id: another program's, whose time-out will end it."""


def settle_what_hangs(
    shared: Shared,
    partition: int,
    admin: AdminClient,
    logs: dict[str, Range],
    sender: Sender,
    store: Store,
    applied: Applied | None,
) -> None:
    """Do the first of the steps above that there is something to do in.

    Args:
        shared: settings and clients.
        partition: its number.
        admin: asks how long the logs are.
        logs: by topic, as they were when everybody else was fenced: nobody else has a transaction open since.
        sender: initialised.
        store: as of the changelog's last stable offset.
        applied: the record in it.

    Raises:
        HangingError: there was; store and sender are closed. It has to be taken over again.
        BrokerSilentError: the leader of a log does not answer.
    """
    if not isinstance(sender, ExactlyOnce):
        return
    try:
        _settle(shared, partition, admin, logs, sender, applied)
    except (TransactionError, BrokerSilentError):  # it is taken over again, which opens both
        store.close()
        sender.close()
        raise


def _settle(
    shared: Shared,
    partition: int,
    admin: AdminClient,
    logs: dict[str, Range],
    sender: ExactlyOnce,
    applied: Applied | None,
) -> None:
    changelog = shared.settings.changelog
    owed = {} if applied is None else applied.owed
    hanging = _what_hangs(shared, partition, admin, logs)
    outputs = {
        topic: _applied_of(topic, partition, span, applied, shared)
        for topic, span in (owed | hanging).items()
        if topic != changelog
    }
    # 1. and 3.
    if wrong := [topic for topic in hanging if topic in owed or not outputs.get(topic)]:
        shared.aborted.update((topic, partition, hanging[topic][0]) for topic in wrong)
        sender.abort([(topic, partition) for topic in wrong])
        raise HangingError(f"brokers had lost the end of a transaction, it is aborted now in {wrong} [{partition}]")
    if applied is None:
        return
    # 2.
    if hanging:
        sender.rewrite(applied_record.encode(msgspec.structs.replace(applied, owed=owed | hanging)), {})
        raise HangingError(f"brokers had lost the end of a transaction, its outputs are owed: {hanging} [{partition}]")
    # 4. But for what hung all the same: it is another's.
    if owed:
        again = {topic: outputs[topic] for topic, (first, _) in owed.items() if logs[topic][1] > first}
        sender.rewrite(applied_record.encode(msgspec.structs.replace(applied, owed={})), again)
        raise HangingError(f"outputs of a transaction whose end was lost are sent again: {owed} [{partition}]")


def _what_hangs(shared: Shared, partition: int, admin: AdminClient, logs: dict[str, Range]) -> dict[str, Range]:
    """From where to where, by topic."""
    topics = [*map(shared.settings.topic, OUTPUTS), shared.settings.changelog]
    ends = high_watermarks(admin, [(topic, partition) for topic in topics])
    found = {topic: (logs[topic][1], ends[topic, partition]) for topic in topics}
    return {
        topic: (first, end)
        for topic, (first, end) in found.items()
        if first < end and shared.aborted[topic, partition, first] < ABORTS_MAX
    }


def _applied_of(topic: str, partition: int, span: Range, applied: Applied | None, shared: Shared) -> list[DeadRecord]:
    """What lies there, seen or not, of events that are applied."""
    found = read_range(topic, partition, span, "read_uncommitted", shared.settings, shared.outside.consumer)
    return [(m.key(), m.value(), m.headers() or []) for m in found if _is_applied(m, applied, shared.settings)]


def _is_applied(output: Message, applied: Applied | None, settings: Settings) -> bool:
    """Whether the event, or the silence, that an output answers is applied."""
    if applied is None:
        return False
    headers = dict(output.headers() or [])
    source_of = {settings.topic(name): name for name in INPUTS}
    try:
        if "offset" in headers:  # a dead letter
            topic, offset = headers["topic"].decode(), int(headers["offset"])
        else:
            trigger = json.loads(output.value() or b"")["trigger"]
            topic, offset = trigger["topic"], int(trigger["offset"])
            if trigger["kind"] == "silence":
                sweep, due_ms = applied.sweep, int(trigger["time_ms"])
                swept = due_ms < sweep.tick_ms and (output.key() or b"") <= sweep.cursor
                return due_ms < sweep.swept_ms or swept
        return offset < applied.sources[source_of[topic]].next_offset
    except (KeyError, TypeError, ValueError):  # of an abort whose end was lost too, or another program's
        return False
