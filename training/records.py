"""Decisions, offers, orders, redemptions and feedback: from topics, or from files with a JSON record a line."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from stream.core.events import SOURCES
from stream.kafka.topics import Topics
from stream.shop.lines import LineSource
from training.errors import TrainingError

logger = logging.getLogger(__name__)

# What these reports read of a record; the rest of it is skipped. Bounds as in the schemas.
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Time = Annotated[int, msgspec.Meta(ge=946_684_800_000, le=253_402_300_799_999)]
Money = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Trigger(msgspec.Struct, frozen=True):
    """The event that a decision answers."""

    topic: str
    partition: int
    offset: int


class Decision(msgspec.Struct, frozen=True):
    """See schemas/decisions.json."""

    decision_id: str
    user_id: Id
    time_ms: Time
    arm: Id
    eligible: list[Id]
    propensity: Share
    holdout: bool
    reason: str
    campaign_id: Id | None
    score: Share | None
    step: str
    row_seq: Annotated[int, msgspec.Meta(ge=0)] = 0
    trigger: Trigger | None = None


class Offer(msgspec.Struct, frozen=True):
    """See schemas/offers.json. A revocation names an offer and has no kind."""

    offer_id: str
    user_id: Id
    campaign_id: Id
    arm: Id
    kind: str
    valid_from_ms: Time
    percent: float | None = None
    value_minor: int | None = None
    min_spend_minor: int | None = None


class Line(msgspec.Struct, frozen=True):
    """Of an order."""

    product_id: str
    quantity: Annotated[int, msgspec.Meta(ge=0, le=10**6)]
    unit_price_minor: Money
    unit_cost_minor: Money | None = None


class Order(msgspec.Struct, frozen=True):
    """See schemas/orders.json."""

    event_id: str
    user_id: Id
    time_ms: Time
    kind: Literal["placed", "cancelled", "returned"]
    order_id: str
    total_minor: Money
    lines: list[Line] | None = None
    discount_minor: Money | None = None
    offer_id: str | None = None


class Redemption(msgspec.Struct, frozen=True):
    """See schemas/redemptions.json."""

    event_id: str
    user_id: Id
    time_ms: Time
    kind: Literal["issued", "redeemed", "expired", "released"]
    offer_id: str
    order_id: str | None = None
    amount_minor: Money | None = None


class Feedback(msgspec.Struct, frozen=True):
    """See schemas/feedback.json."""

    event_id: str
    user_id: Id
    time_ms: Time
    kind: Literal["rating", "complaint", "offer_seen", "offer_dismissed"]
    rating: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None


class Customer(msgspec.Struct, frozen=True):
    """See schemas/customers.json; the last record of a user counts."""

    user_id: Id
    tier: str | None = None


R = TypeVar("R", Decision, Offer, Order, Redemption, Feedback, Customer)

_ID = {
    Decision: "decision_id",
    Offer: "offer_id",
    Order: "event_id",
    Redemption: "event_id",
    Feedback: "event_id",
}


def read_records(source: str, prefix: str, topic: str, of: type[R], *, needed: bool) -> list[R]:
    """Every record of a topic, once: the first of those with the same id counts.

    What producers sent to a broker and workers cannot read, dead letters to them, is left out and told; in a file, and
    in what workers write, it is an error.

    Args:
        source: a broker (host:port), an archive, or a folder of files `<topic>.jsonl` or `<topic>.jsonl.gz`.
        prefix: before the topic's name on the broker.
        topic: its name.
        of: what its records are.
        needed: it is an error if a folder has no such file.

    Raises:
        TrainingError: neither, or a record is not of the contract; it names file and line, or partition and offset.
        SetupError: the broker does not answer or lacks the topic.
    """
    folder = Path(source)
    if folder.is_dir():
        from training.archive import is_archive  # noqa: PLC0415  pyarrow takes its time, and only folders need it

        archived = is_archive(folder)
        values: Iterable[tuple[str, bytes]] = (
            _of_archive(folder, topic) if archived else _of_folder(folder, topic, needed=needed)
        )
    elif ":" in source and not folder.exists():
        values = _of_broker(source, prefix + topic)
    else:
        raise TrainingError(f"{source} is neither a folder with {topic}.jsonl nor a broker (host:port)")
    of_producers = topic in SOURCES and not folder.is_dir()
    refused: list[str] = []
    decoder = msgspec.json.Decoder(of)
    found: dict[Any, R] = {}
    name = _ID.get(of)
    for where, value in values:
        try:
            record = decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if not of_producers:
                raise TrainingError(f"{where}: {error}") from error
            refused.append(f"{where}: {error}")
            continue
        if name is None:
            found[record.user_id] = record
        else:
            key = (record.user_id, getattr(record, name))
            found.setdefault(key, record)
    if refused:
        logger.warning("%d records left out, which workers refuse too; the first: %s", len(refused), refused[0])
    return list(found.values())


def _of_folder(folder: Path, topic: str, *, needed: bool) -> Iterator[tuple[str, bytes]]:
    paths = [path for end in (".jsonl", ".jsonl.gz") if (path := folder / (topic + end)).is_file()]
    if not paths:
        if needed:
            raise TrainingError(f"{folder}: no {topic}.jsonl or {topic}.jsonl.gz")
        return
    with LineSource(str(paths[0])) as lines:
        for number, line in lines:
            if line.strip():
                yield f"{lines.name}, line {number}", line
        if lines.cut:
            raise TrainingError(lines.cut)


def _of_archive(folder: Path, topic: str) -> Iterator[tuple[str, bytes]]:
    from training import archive  # noqa: PLC0415  as above

    manifest = archive.read_manifest(folder)
    for partition in range(len(manifest.end.get(topic, []))):
        for records in archive.read_records(folder, manifest, topic, partition):
            for record in records:
                if record.value is not None:
                    yield f"{topic}, partition {record.partition}, offset {record.offset}", record.value


def _of_broker(bootstrap: str, topic: str) -> Iterator[tuple[str, bytes]]:
    with Topics(bootstrap) as topics:
        for _, records in topics.read(topics.places([topic])):
            for record in records:
                if record.value is not None:
                    yield f"{topic}, partition {record.partition}, offset {record.offset}", record.value
