"""The applied record: how far a partition got. It is the only authority; group offsets are a hint for lag tools.

It lies in the partition's changelog under a key that is no UTF-8, so no user id can collide with it, and is written
last: the rows and offers before it are acknowledged when it is. The last one wins.
"""

import msgspec

KEY = b"\xff"
"""Key of the applied record in the changelog and in the store."""


class SourcePosition(msgspec.Struct, frozen=True):
    """How far one source topic was applied."""

    topic_id: str
    """Kafka's id of the topic: a topic that was deleted and made anew has another."""
    next_offset: int


class SweepState(msgspec.Struct, frozen=True):
    """How far a partition's sweeps got, see `stream.kafka.sweep`."""

    swept_ms: int = 0
    """What fell due before is swept; 0 = the first sweep has not begun."""
    tick_ms: int = 0
    """Of the sweep under way: it is after what fell due before; 0 = none is under way."""
    cursor: bytes = b""
    """The last user whom it came by."""


class Applied(msgspec.Struct, frozen=True):
    """State of a partition beside its rows."""

    row_format: int
    partitions: int
    sequence: int
    """Steps applied in this partition since ever."""
    sources: dict[str, SourcePosition]
    model: str = ""
    """Hash of the model in force at the last batch, hexadecimal."""
    campaigns: dict[str, int] = {}
    """Campaign versions in force at the last batch."""
    budgets: dict[str, dict[str, float]] = {}
    """The partition's purses, see `stream.core.budget`."""
    sweep: SweepState = SweepState()
    owed: dict[str, tuple[int, int]] = {}
    """Offsets from and to, by topic: outputs that are to be sent again, see `stream.kafka.hanging`."""
    moved_to: str = ""
    """App that has the rows now (`stream.kafka.move`): no worker goes on from here."""
    filled_from: str = ""
    """App whose rows are still being copied to here: no worker begins."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Applied)


def encode(applied: Applied) -> bytes:
    """As it lies in the changelog: JSON."""
    return _encoder.encode(applied)


def decode(value: bytes) -> Applied:
    """Read it back.

    Raises:
        msgspec.ValidationError: it is not an applied record.
    """
    return _decoder.decode(value)
