"""What real producers do wrong: publish an event twice, or what is no event. Seeded, a small share of the traffic."""

from stream.kafka.codec import SOURCE_VALUES
from stream.shop.fields import SourceValue
from stream.shop.population import stream_of
from stream.shop.publish import Publisher

_DRAWS = 5

POISON: tuple[bytes | None, ...] = (
    b"",
    b"\x00\xff\xfe not text",
    b"{cut",
    b'"a string"',
    b"[]",
    b'{"event_id": 5, "user_id": "x", "time_ms": 1, "kind": "page_view"}',
    b'{"event_id": "e", "time_ms": 1700000000000, "kind": "page_view"}',
    b'{"event_id": "e", "user_id": "c0000000", "time_ms": 0, "kind": "page_view"}',
    b'{"event_id": "e", "user_id": "c0000000", "time_ms": 253402300799000, "kind": "page_view"}',
    None,
)
"""Values that no worker can take."""


class Disturbance:
    """After an event, now and then, the same event again or something broken."""

    def __init__(self, seed: int, duplicates: float = 0, poison: float = 0) -> None:
        """Shares of the events that are followed by a duplicate, and by a poison event."""
        self.duplicates = 0
        self.poison = 0
        self._shares = duplicates, poison
        self._draws = stream_of(seed, _DRAWS)

    def after(self, source: str, value: SourceValue, publisher: Publisher) -> None:
        """Maybe publish more."""
        duplicates, poison = self._shares
        if duplicates and self._draws.random() < duplicates:
            publisher.publish(source, value)
            self.duplicates += 1
        if poison and self._draws.random() < poison:
            bad = POISON[int(self._draws.random() * len(POISON))]
            sources = list(SOURCE_VALUES)
            target = sources[int(self._draws.random() * (len(sources) - 1))]  # customers is compacted: no null values
            publisher.publish_bytes(target, value.user_id.encode(), bad)
            self.poison += 1
