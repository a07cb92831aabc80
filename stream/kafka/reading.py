"""Bytes to structs: a value that cannot be read becomes a fault, whatever is wrong with it."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from msgspec import DecodeError, Meta, MsgspecError, Raw, Struct, ValidationError, json

from stream.kafka.codec import (
    DETAIL_CHARS_MAX,
    ORDER_LINES_MAX,
    SOURCE_VALUES,
    Click,
    Customer,
    DeadReason,
    Erasure,
    Feedback,
    Identity,
    Merge,
    Order,
    OrderLine,
    Redemption,
)

UNKNOWN_SAMPLE = 16
"""Where many records of a batch carry unknown fields, those at every 16th offset are counted, each for 16."""


class Fault(Struct, frozen=True, gc=False):
    """Why a record is refused: what of a `DeadLetter` is not the record itself."""

    reason: DeadReason
    field: str
    detail: str


class _StrictLine(OrderLine, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictClick(Click, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictOrder(Order, kw_only=True, gc=False, forbid_unknown_fields=True):
    # Lists are invariant, but nothing is ever put into this one.
    lines: Annotated[list[_StrictLine], Meta(max_length=ORDER_LINES_MAX)] | None = None  # type: ignore[assignment]


class _StrictFeedback(Feedback, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictRedemption(Redemption, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictCustomer(Customer, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictErasure(Erasure, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictIdentity(Identity, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class _StrictMerge(Merge, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


_VALUES: dict[str, Any] = {**SOURCE_VALUES, "erasures": Erasure, "identities": Identity, "merges": Merge}
_LENIENT = {source: json.Decoder(struct).decode for source, struct in _VALUES.items()}
_STRICT: dict[str, Callable[[bytes], Any]] = {
    "clickstream": json.Decoder(_StrictClick).decode,
    "orders": json.Decoder(_StrictOrder).decode,
    "feedback": json.Decoder(_StrictFeedback).decode,
    "redemptions": json.Decoder(_StrictRedemption).decode,
    "customers": json.Decoder(_StrictCustomer).decode,
    "erasures": json.Decoder(_StrictErasure).decode,
    "identities": json.Decoder(_StrictIdentity).decode,
    "merges": json.Decoder(_StrictMerge).decode,
}
_KNOWN = {source: frozenset(struct.__struct_fields__) for source, struct in _VALUES.items()}
_KNOWN_LINE = frozenset(OrderLine.__struct_fields__)
_OBJECT = json.Decoder(dict[str, Raw])
_LINES = json.Decoder(list[dict[str, Raw]] | None)


def read(
    source: str, offsets: Sequence[int], values: Sequence[bytes], refused: dict[int, Fault]
) -> tuple[list[Any], int]:
    """Structs of the values that can be read, in order; the others are added to `refused`.

    Decoders that refuse unknown fields cost nothing more than those that skip them, so that there are none is known
    for free. A value that has some is read again and counted, which costs several times a plain read: after a bounded
    number of those the rest of the batch is read leniently, and sampled.

    Args:
        source: one of `SOURCES`, or another input that is keyed by user.
        offsets: of the values: which ones are sampled does not depend on how the batch was cut.
        values: JSON; empty at those places that are refused already.
        refused: place -> fault; grows.

    Returns:
        (structs, unknown): unknown fields, see `Decoded`.
    """
    structs: list[Any] = []
    append = structs.append
    lenient = _LENIENT[source]
    decode = _STRICT[source]
    unknown = 0
    exact_left = 64 + len(values) // UNKNOWN_SAMPLE
    sampled_from = len(values)
    for i, value in enumerate(values):
        try:
            append(decode(value))
        except Exception as error:  # noqa: BLE001 (whatever a producer wrote must not stop a worker)
            if i in refused:
                continue
            # Undecodable: the name of an unknown field, perhaps, which only the strict decoder looks at.
            if not (isinstance(error, UnicodeDecodeError) or str(error).startswith("Object contains unknown field")):
                refused[i] = _fault(error, value)
                continue
            try:
                append(lenient(value))
            except Exception as second:  # noqa: BLE001 (as above)
                refused[i] = _fault(second, value)
                continue
            unknown += count_unknown(source, value)
            exact_left -= 1
            if exact_left == 0:
                decode, sampled_from = lenient, i + 1
    for i in range(sampled_from, len(values)):
        if offsets[i] % UNKNOWN_SAMPLE == 0 and i not in refused:
            unknown += UNKNOWN_SAMPLE * count_unknown(source, values[i])
    return structs, unknown


def count_unknown(source: str, value: bytes) -> int:
    """Fields of a readable value that the contract does not know; lines of orders included."""
    try:
        fields = _OBJECT.decode(value)
        unknown = len(fields.keys() - _KNOWN[source])
        if source == "orders" and (lines := _LINES.decode(fields.get("lines", b"null"))):
            unknown += sum(len(line.keys() - _KNOWN_LINE) for line in lines)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return 1  # it was read, so what cannot be read now is an unknown field's name or content
    return unknown


_MISSING = "Object missing required field `"


def _fault(error: Exception, value: bytes) -> Fault:
    """Reason, field and detail from what msgspec says."""
    text = str(error)
    detail = text[:DETAIL_CHARS_MAX]
    if isinstance(error, ValidationError):
        reason, field = _blame(text)
        return Fault(reason, field, detail)
    if isinstance(error, RecursionError):
        return Fault(DeadReason.NOT_JSON, "", "nested too deep")
    if isinstance(error, DecodeError | UnicodeDecodeError):
        try:
            value.decode()
        except UnicodeDecodeError as encoding:
            return Fault(DeadReason.NOT_UTF8, "", str(encoding)[:DETAIL_CHARS_MAX])
        return Fault(DeadReason.NOT_JSON, "", detail)
    return Fault(DeadReason.UNEXPECTED, "", f"{type(error).__name__}: {detail}")


def _blame(text: str) -> tuple[DeadReason, str]:
    """Reason and field of a value that is JSON and not what the contract says."""
    # The path stands at the end; what stands before it may quote the producer.
    message, _, path = text.rpartition(" - at `")
    message, field = (message, path.removesuffix("`")) if message else (path, "$")
    if message.startswith(_MISSING):
        return DeadReason.FIELD_MISSING, f"{field}.{message[len(_MISSING) : -1]}"
    if ", got `" in message and not message.startswith("Invalid enum value"):
        return DeadReason.FIELD_TYPE, field
    return (DeadReason.TIME_RANGE if field == "$.time_ms" else DeadReason.FIELD_VALUE), field
