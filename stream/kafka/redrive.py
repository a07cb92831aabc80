"""Refused events back to their topics, each at most once, whoever calls and however often.

The log of what was re-driven is `dead-letters` itself: a marker in the partition of the letter, with the letter's own
coordinates and the reason `redriven`. Retention deletes a partition from its beginning, so a letter never outlives the
marker behind it; a log elsewhere could be gone first, and the event would be applied twice.

1. Open the producer with the one transactional id of re-drives: it fences another that still runs, and what that one
   left open is aborted. From here on nobody else re-drives.
2. Ask where `dead-letters` ends, open transactions and all, then read up to there: every marker that was ever committed
   is seen. Asked before 1., or read only to the last stable offset (a worker's open transaction holds it back), one
   could be missed.
3. The event and its marker in one transaction: both are there or neither.

A row remembers the ids of 16 events, so the rows could not tell a second re-drive from a new event.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from stream.core.events import SOURCES
from stream.kafka.cluster import INPUTS, admin_client, high_watermarks
from stream.kafka.dead_letters import ORIGIN, REDRIVEN, Filter, Refused, origin, refused
from stream.kafka.decode import decode, decode_others
from stream.kafka.partitioner import partitions
from stream.kafka.spread import SpreadProducer
from stream.kafka.topics import Header, Record, Topics
from stream.settings import Settings

TRANSACTION_LETTERS_MAX = 500
TRANSACTION_BYTES_MAX = 8 << 20

CUT = "cut"
"""Why a letter stays: its value was too long to be kept whole."""

FOREIGN = "foreign"
"""Why a letter stays: it is from a topic that these settings do not know, or no letter of a worker."""


class Redriven(NamedTuple):
    """What a re-drive did."""

    sent: Counter[str]
    """By the reason for which they had been refused."""
    left: Counter[str]
    """Those that workers would refuse again, by reason; `CUT`, `FOREIGN`."""
    before: int
    """Those that an earlier re-drive sent."""


def redrive(settings: Settings, wanted: Filter, *, dry_run: bool = False) -> Redriven:
    """Send refused events to where they came from, to the partition of their key; see the module's text.

    What a worker with these settings would refuse again is left where it is. The record's timestamp is the present;
    headers say where the event came from first.

    Args:
        settings: brokers, names of topics, currency.
        wanted: which.
        dry_run: say what would be done.

    Raises:
        SetupError: no broker answers, a topic is missing, or another re-drive took over.
        DeliveryError: a record was not taken; nothing of its transaction is seen by anybody.
    """
    topic = settings.topic("dead-letters")
    with Topics(settings.bootstrap) as topics, ExitStack() as stack:
        places = topics.places([topic])
        counts = topics.partitions([settings.topic(source) for source in INPUTS])
        # 1.
        producer = None if dry_run else stack.enter_context(SpreadProducer(settings, transactional_id(settings)))
        # 2.
        ends = high_watermarks(admin_client(settings.bootstrap), places)
        done = {origin(one) for one in _letters(topics, ends) if one.headers.get("reason") == REDRIVEN}
        result = Redriven(Counter(), Counter(), 0)
        for letters in _chunks(one for one in _letters(topics, ends) if wanted.takes(one)):
            fresh = {origin(one): one for one in letters}  # at least once, a letter may be there twice
            result = result._replace(before=result.before + len(fresh.keys() & done))
            good, left = _judge([one for at, one in fresh.items() if at not in done], settings, counts)
            result.left.update(left)
            result.sent.update(event.letter.headers.get("reason", "") for event in good)
            done |= fresh.keys()
            # 3.
            if producer is not None and good:
                _send(producer, topic, good)
    return result


def _letters(topics: Topics, ends: dict[tuple[str, int], int]) -> Iterator[Refused]:
    for at, records in topics.read(ends, until=ends):
        yield from (refused(record) for record in records if record.offset < ends[at])


def _chunks(letters: Iterable[Refused]) -> Iterator[list[Refused]]:
    chunk: list[Refused] = []
    n_bytes = 0
    for letter in letters:
        chunk.append(letter)
        n_bytes += len(letter.value or b"")
        if len(chunk) >= TRANSACTION_LETTERS_MAX or n_bytes >= TRANSACTION_BYTES_MAX:
            yield chunk
            chunk, n_bytes = [], 0
    yield chunk


class _Event(NamedTuple):
    """An event on its way back."""

    topic: str
    partition: int
    letter: Refused


def _judge(letters: list[Refused], settings: Settings, counts: dict[str, int]) -> tuple[list[_Event], Counter[str]]:
    """Which of them workers would take now, by the workers' own decoder, and why not the others."""
    left: Counter[str] = Counter()
    good: list[_Event] = []
    now_ms = time.time_ns() // 1_000_000
    source_of = {settings.topic(source): source for source in INPUTS}
    for letter in letters:
        topic = letter.headers.get("topic", "")
        if topic not in source_of or any(name not in letter.headers for name in ORIGIN):
            left[FOREIGN] += 1
        elif letter.headers.get("length", "0") != str(len(letter.value or b"")):
            left[CUT] += 1
        else:
            to = int(partitions([letter.key or b""], counts[topic])[0])
            record = Record(topic, to, letter.key, letter.value, 0, now_ms, [])
            source = source_of[topic]
            if source in SOURCES:
                dead = decode(source, [record], to, counts[topic], settings.currency, topic).dead
            else:
                dead = decode_others(source, [record], to, counts[topic], topic).dead
            if dead:
                left[dead[0].reason] += 1
            else:
                good.append(_Event(topic, to, letter))
    return good, left


def _send(producer: SpreadProducer, dead_letters: str, events: list[_Event]) -> None:
    """Events and their markers, in one transaction."""
    now_ms = time.time_ns() // 1_000_000
    with producer.transaction():
        for event in events:
            letter = event.letter
            for topic, partition, key, value, headers in (
                (event.topic, event.partition, letter.key, letter.value, _origin_headers(letter)),
                (dead_letters, letter.partition, None, None, _marker(event)),
            ):
                producer.send_as_it_is(topic, partition, Record(topic, partition, key, value, 0, now_ms, headers))


def transactional_id(settings: Settings) -> str:
    """One for all re-drives of an app: the later fences the earlier."""
    return f"{settings.app_id}-redrive"


def _origin_headers(letter: Refused) -> list[Header]:
    """Where an event came from first, and which letter it was meanwhile."""
    origins: list[Header] = [(f"origin-{name}", letter.headers[name].encode()) for name in ORIGIN]
    return [*origins, ("dead-letter", f"{letter.partition}:{letter.offset}".encode())]


def _marker(event: _Event) -> list[Header]:
    """The letter's own coordinates; a dead letter by its form, so that every reader can read it."""
    letter = event.letter
    headers = {name: text for name, text in letter.headers.items() if name not in {"reason", "field", "detail"}}
    detail = (
        f"{letter.headers['reason']} at {letter.partition}:{letter.offset}, sent to {event.topic}[{event.partition}]"
    )
    headers |= {"reason": REDRIVEN, "field": "", "detail": detail}
    return [(name, text.encode()) for name, text in headers.items()]
