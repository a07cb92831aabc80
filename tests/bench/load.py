"""The input: clickstream events of many users, seeded, encoded before they are sent."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray

EVENTS_CHUNK = 50_000

KINDS = ("page_view", "product_view", "search", "cart_add", "favourite", "cart_remove")
KIND_SHARES = (0.25, 0.58, 0.06, 0.055, 0.03, 0.025)
"""Mostly browsing, 5.5 % of it ends in the cart (docs/bench.md says where from)."""

TRIGGER = "cart_add"
"""The kind that is decided on: every one makes a decision, 9 of 10 an offer (one user in ten is in the holdout)."""

N_PRODUCTS, N_CATEGORIES, N_BRANDS = 50_000, 400, 1_000
SPAN_MS = 3_600_000
"""Of a log's event times, evenly spread."""

LOGS_MAX = 16
"""Logs of one run, each of later event times than the one before. The last must not lie in the future, or a worker
refuses its events."""


class Record(NamedTuple):
    """One record of a source topic, as bytes."""

    topic: str
    key: bytes
    value: bytes


def user_id(n: int) -> str:
    """The user with number n."""
    return f"user-{n:07d}"


def users_at_random(rng: np.random.Generator, users: int, events: int) -> NDArray[np.int64]:
    """User number of each event, all users equally likely."""
    return rng.integers(0, users, events)


def users_zipf(rng: np.random.Generator, users: int, events: int) -> NDArray[np.int64]:
    """User number of each event, the user of rank r (from 1) with probability proportional to 1 / r.

    Of a million users the first takes 7 % of all events. Ranks are dealt to users at random, so partitions are alike.
    """
    weights = np.cumsum(1 / np.arange(1, users + 1))
    ranks = np.searchsorted(weights, rng.random(events) * weights[-1], side="right")
    return rng.permutation(users)[ranks]


def clicks(
    rng: np.random.Generator, users: NDArray[np.int64], end_ms: int, prefix: str, span_ms: int = SPAN_MS
) -> Iterator[Record]:
    """Clickstream events, event times ascending up to `end_ms`.

    Args:
        rng: draws everything but the users.
        users: user number of each event, int64 [N].
        end_ms: event time of the last one.
        prefix: of the event ids, unique to this log.
        span_ms: by how much the first is earlier.
    """
    n = len(users)
    step_ms = span_ms / max(n, 1)
    for start in range(0, n, EVENTS_CHUNK):
        part = users[start : start + EVENTS_CHUNK]
        size = len(part)
        columns = (
            part.tolist(),
            (end_ms - span_ms + np.arange(start + 1, start + size + 1) * step_ms).astype("i8").tolist(),
            rng.choice(len(KINDS), size, p=KIND_SHARES).tolist(),
            rng.integers(0, N_PRODUCTS, size).tolist(),
            np.exp(rng.normal(7.6, 0.9, size)).astype("i8").tolist(),  # median 20.00
            rng.integers(0, 180_000, size).tolist(),
        )
        for i, (user, time_ms, kind, product, price, dwell) in enumerate(zip(*columns, strict=True), start):
            name = user_id(user)
            yield Record(
                "clickstream",
                name.encode(),
                (
                    f'{{"event_id":"{prefix}-{i}","user_id":"{name}","time_ms":{time_ms},"kind":"{KINDS[kind]}",'
                    f'"session_id":"s{user}-{time_ms // 1_800_000}","product_id":"p{product}",'
                    f'"category_id":"c{product % N_CATEGORIES}","brand":"b{product % N_BRANDS}",'
                    f'"price_minor":{price},"currency":"EUR","dwell_ms":{dwell}}}'
                ).encode(),
            )


def trigger_event(event_id: str, user: str, time_ms: int) -> bytes:
    """One event that is decided on."""
    return (
        f'{{"event_id":"{event_id}","user_id":"{user}","time_ms":{time_ms},"kind":"{TRIGGER}",'
        f'"session_id":"s-{user}","product_id":"p1","category_id":"c1","price_minor":2000,"currency":"EUR"}}'
    ).encode()


def profiles(users: int, time_ms: int) -> Iterator[Record]:
    """One profile a user, with consent: without it no offer may be made."""
    for n in range(users):
        name = user_id(n)
        yield Record(
            "customers",
            name.encode(),
            (
                f'{{"event_id":"profile-{n}","user_id":"{name}","time_ms":{time_ms},"kind":"profile",'
                f'"registered_ms":{time_ms - 86_400_000 * (n % 1000)},"tier":"basic","consent":true}}'
            ).encode(),
        )


def campaign(published_ms: int) -> tuple[bytes, bytes]:
    """Key and value of the one campaign in force: every trigger of a user outside the holdout gets its offer.

    Scores of a model with drawn weights mean nothing, so the threshold is one that every score passes: what is measured
    is the cost of a decision and of an offer, on 5 % of all events, and both systems write the same number of them.
    """
    document = {
        "id": "cart-nudge",
        "name": "Cart nudge",
        "version": 1,
        "priority": 10,
        "state": "active",
        "trigger": {"kinds": [TRIGGER]},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
        "policy": {"kind": "threshold", "probability": 0.0, "arm": "ten"},
        "holdout": 0.1,
        "valid_for": "24h",
        "published_ms": published_ms,
    }
    return b"cart-nudge", msgspec.json.encode(document)


class PublishError(RuntimeError):
    """The broker did not take what the benchmark needs."""


def publish(bootstrap: str, records: Iterator[Record] | Sequence[Record], topic_prefix: str = "") -> int:
    """Send all records, partitioned by key as Java clients do; return when each is acknowledged.

    Returns:
        How many.

    Raises:
        PublishError: a record was refused or not acknowledged in time.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2",
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 1 << 19,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 256 << 10,
        }
    )
    failed: list[str] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(str(error))

    n = 0
    for n, (topic, key, value) in enumerate(records, 1):
        while True:
            try:
                producer.produce(topic_prefix + topic, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        if n % 2000 == 0:
            producer.poll(0)
    waiting = producer.flush(60)
    if failed or waiting:
        raise PublishError(f"{len(failed) + waiting} of {n} records were not acknowledged: {failed[:1]}")
    return n
