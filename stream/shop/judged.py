"""The simulated shop run through the stream's own `process`, without a broker: one partition, in steps of time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream.core.absorb import Events, apply_order
from stream.core.budget import Wallet, name_open_offers
from stream.core.decide import Reason
from stream.core.events import CONSENT_NO, CONSENT_UNKNOWN, CONSENT_YES, EVENT, KINDS_OF_SOURCE, SOURCES, TIERS
from stream.core.row import DAY_MS, gather, new_rows
from stream.kafka.control import InForce
from stream.kafka.encode import SourceTopic, encode_offers, offer_hashes, offer_ids
from stream.kafka.intake import draws_of
from stream.shop.coupons import Coupons
from stream.shop.gaming import GamingShop
from stream.shop.simulate import Published, Shop
from stream.topology import Outcome, process

CURRENCY = "EUR"
STEP_MS = 300_000
HISTORY_STEP_MS = 3_600_000
TOPICS = [SourceTopic(source, f"topic-{source}") for source in SOURCES]
_TOPIC_HASHES = [xxh3_64_intdigest(topic.id.encode()) for topic in TOPICS]
_PLACE = {name: i for i, name in enumerate(EVENT.names or ())}

Seen = Callable[[Events, Outcome, int], None]


class Hashes(dict[str | None, int]):
    """Hashes of names, remembered; 0 = not given."""

    def __missing__(self, name: str | None) -> int:
        hashed = self[name] = (xxh3_64_intdigest(name.encode()) or 1) if name else 0
        return hashed


@dataclass
class Run:
    """A shop and the rows of its customers."""

    seed: int
    customers: int
    start_ms: int
    now_ms: int = 0
    wallet: Wallet = field(default_factory=Wallet)
    events: int = 0
    step_ms: int = STEP_MS
    gaming: float = 0.0
    """Share of the customers who provoke offers."""

    def __post_init__(self) -> None:
        opened = self.seed, self.customers, self.start_ms, Coupons(CURRENCY)
        self.shop = GamingShop(*opened, self.gaming) if self.gaming else Shop(*opened)
        self.rows = new_rows(self.customers)
        self.now_ms = self.start_ms
        self.names = Hashes()
        self._offsets = dict.fromkeys(SOURCES, 0)
        self._waiting = list(self.shop.profiles())
        ids = [self.shop.population.id(i) for i in range(self.customers)]
        self.user_hashes = np.array([self.names[id_] for id_ in ids], np.uint64)

    def until(self, end_ms: int, in_force: InForce, seen: Seen, step_ms: int) -> None:
        """Let time pass: customers act, the stream decides, offers reach the coupon service at the end of each step.

        Args:
            end_ms: until when.
            in_force: model and campaigns.
            seen: called after each step with the events, what was decided about them, and the time.
            step_ms: length of a step.
        """
        while self.now_ms < end_ms:
            self.now_ms += step_ms
            published = [*self._waiting, *self.shop.until(self.now_ms)]
            self._waiting = []
            if published:
                self._step(published, in_force, seen)

    def _step(self, published: list[Published], in_force: InForce, seen: Seen) -> None:
        events, users = self._in_columns(published)
        order = apply_order(events)
        events, row = gather(events, order), users[order]
        self.events += len(events)
        draw = draws_of(events, 0, _TOPIC_HASHES)
        if in_force.campaigns.budgeted:
            self.wallet.follow(in_force.campaigns, 0, 1, self.now_ms)
        outcome: Outcome = process(
            events, row, self.rows, in_force, self.now_ms, draw, DAY_MS, lambda _: None, self.wallet
        )
        seen(events, outcome, self.now_ms)
        offered = np.flatnonzero(outcome.decisions["reason"] == Reason.OFFERED)
        if not len(offered):
            return
        offers = outcome.decisions[offered]
        ids = offer_ids(TOPICS, 0, events[offered])
        name_open_offers(self.rows, row[offered], offers, in_force.campaigns, offer_hashes(ids))
        names = [self.shop.population.id(i).encode() for i in row[offered].tolist()]
        values = encode_offers(
            TOPICS, 0, names, events[offered], offers, in_force.campaigns, [""] * len(names), self.now_ms, CURRENCY, ids
        )
        for value in values:
            self._waiting += self.shop.offer(value, self.now_ms)

    def _in_columns(self, published: list[Published]) -> tuple[Events, NDArray[np.int64]]:
        """The events as the worker's decoder makes them of the published bytes (tested), and their customers."""
        records = []
        users = []
        names, offsets = self.names, self._offsets
        for source, value in published:
            offset = offsets[source]
            offsets[source] = offset + 1
            users.append(int(value.user_id[1:]))
            records.append(_record(source, value, offset, names))
        return np.array(records, EVENT), np.array(users)


_NOTHING: tuple[int, ...] = (0,) * len(_PLACE)
_CONSENT = {None: CONSENT_UNKNOWN, False: CONSENT_NO, True: CONSENT_YES}


def _low(hashed: int) -> int:
    return (hashed & 0xFFFFFFFF or 1) if hashed else 0


def _record(source: str, value: Any, offset: int, names: Hashes) -> tuple[int, ...]:  # noqa: ANN401 five structs
    kind = KINDS_OF_SOURCE[source]["profile" if source == "customers" else value.kind]
    made: dict[str, int] = {
        "time_ms": value.time_ms,
        "offset": offset,
        "user": names[value.user_id],
        "event_id": xxh3_64_intdigest(value.event_id.encode()) or 1,
        "kind": int(kind),
        "source": SOURCES.index(source),
    }
    if source == "clickstream":
        made |= {
            "session": names[value.session_id],
            "product": _low(names[value.product_id]),
            "category": _low(names[value.category_id]),
            "brand": _low(names[value.brand]),
            "price_minor": value.price_minor or 0,
            "quantity": value.quantity or 0,
            "dwell_ms": value.dwell_ms or 0,
            "results": 0 if value.result_count is None else value.result_count + 1,
        }
    elif source == "orders":
        (line,) = value.lines
        discount = value.discount_minor or 0
        made |= {
            "session": names[value.session_id],
            "offer": names[value.offer_id],
            "product": _low(names[line.product_id]),
            "category": _low(names[line.category_id]),
            "brand": _low(names[line.brand]),
            "amount_minor": value.total_minor,
            "discount_minor": discount,
            "price_minor": value.total_minor + discount,
            "quantity": line.quantity,
        }
    elif source == "feedback":
        made |= {
            "offer": names[value.offer_id],
            "product": _low(names[value.product_id]),
            "rating": value.rating or 0,
        }
    elif source == "redemptions":
        made |= {"offer": names[value.offer_id], "amount_minor": value.amount_minor or 0}
    else:
        made |= {
            "registered_ms": value.registered_ms or 0,
            "birthday": int(value.birthday[:2]) * 32 + int(value.birthday[3:]),
            "tier": TIERS.index(value.tier or ""),
            "consent": _CONSENT[value.consent],
            "objection": bool(value.objection),
        }
    record = list(_NOTHING)
    for name, number in made.items():
        record[_PLACE[name]] = number
    return tuple(record)
