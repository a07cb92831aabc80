"""Values of all topics as typed structs, and what a refused record becomes.

The structs are the contract in Python, `schemas/*.json` the same contract for everybody else; a test holds them
together. Producers of ours encode them (`msgspec.json.encode`), `stream.kafka.decode` reads them. What is optional may
be left out or be null.

Structs say types and static bounds. What needs the record around the value (its key, partition and timestamp, the
reporting currency) is checked by `decode`.
"""

import hashlib
from enum import StrEnum, unique
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from stream.core.events import TIME_MIN_MS

KEY_BYTES_MAX = 64
"""Of a record key: the user id in UTF-8."""

VALUE_BYTES_MAX = 1 << 20
"""A longer value is refused unread."""

DEAD_VALUE_BYTES_MAX = 512 << 10
"""What dead-letters keep of a value."""

DEAD_KEY_BYTES_MAX = 64 << 10
"""What dead-letters keep of a key: key, value and headers stay below librdkafka's default `message.max.bytes`."""

DETAIL_CHARS_MAX = 300
"""Of a dead letter's detail and field: both may quote what the producer wrote."""

TIME_MAX_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: the last time that ISO 8601 writes in four digits."""

ORDER_LINES_MAX = 500

MERGED_ROW_BYTES_MAX = 4095
"""A packed row, with room for formats to come; three bytes are four characters of base64."""

Id = Annotated[str, Meta(min_length=1, max_length=128)]
OptionalId = Annotated[str, Meta(max_length=128)] | None
UserId = Annotated[str, Meta(min_length=1, max_length=KEY_BYTES_MAX)]
Text = Annotated[str, Meta(max_length=8192)]
TimeMs = Annotated[int, Meta(ge=TIME_MIN_MS, le=TIME_MAX_MS)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Minor = Annotated[int, Meta(ge=0, le=10**12)]
Currency = Annotated[str, Meta(min_length=3, max_length=3)]  # `decode` compares it with the one that is right
Count = Annotated[int, Meta(ge=0, le=10**9)]
Quantity = Annotated[int, Meta(ge=1, le=10**6)]


# --- sources: what producers write ------------------------------------------------------------------------------------


class Source(Struct, kw_only=True, gc=False, omit_defaults=True):
    """What every source value has. Structs hold no cycles, so the garbage collector need not look at them."""

    event_id: Id
    user_id: UserId
    time_ms: TimeMs


ClickKind = Literal[
    "page_view",
    "product_view",
    "search",
    "cart_add",
    "cart_remove",
    "favourite",
    "checkout_start",
    "service_use",
]


class Click(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic clickstream."""

    kind: ClickKind
    session_id: OptionalId = None
    product_id: OptionalId = None
    category_id: OptionalId = None
    brand: OptionalId = None
    price_minor: Minor | None = None
    currency: Currency | None = None
    quantity: Quantity | None = None
    dwell_ms: Annotated[int, Meta(ge=0, le=86_400_000)] | None = None
    referrer: Text | None = None
    page: Text | None = None
    keywords: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=16)] | None = None
    result_count: Count | None = None
    service: OptionalId = None


class OrderLine(Struct, kw_only=True, gc=False, omit_defaults=True):
    """One product of an order."""

    product_id: Id
    category_id: OptionalId = None
    brand: OptionalId = None
    quantity: Quantity
    unit_price_minor: Minor
    unit_cost_minor: Minor | None = None


class Order(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic orders."""

    kind: Literal["placed", "cancelled", "returned"]
    order_id: Id
    lines: Annotated[list[OrderLine], Meta(max_length=ORDER_LINES_MAX)] | None = None
    total_minor: Minor
    discount_minor: Minor | None = None
    currency: Currency
    offer_id: OptionalId = None
    session_id: OptionalId = None


class Feedback(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic feedback. A rating has `rating`; what speaks of an offer has `offer_id`."""

    kind: Literal["rating", "complaint", "offer_seen", "offer_dismissed"]
    rating: Annotated[int, Meta(ge=1, le=5)] | None = None
    offer_id: OptionalId = None
    product_id: OptionalId = None


class Redemption(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic redemptions."""

    kind: Literal["issued", "redeemed", "expired", "released"]
    offer_id: Id
    order_id: OptionalId = None
    amount_minor: Minor | None = None
    currency: Currency | None = None


_DAY_OF_YEAR = (
    r"^(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|[12][0-9]))$"
)


class Customer(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic customers: the whole profile each time; what is left out is not known."""

    kind: Literal["profile"] = "profile"
    registered_ms: Annotated[int, Meta(ge=0, le=TIME_MAX_MS)] | None = None
    birthday: Annotated[str, Meta(pattern=_DAY_OF_YEAR, max_length=5)] | None = None
    tier: Literal["basic", "silver", "gold", "platinum"] | None = None
    consent: bool | None = None
    objection: bool | None = None


class Identity(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic identities: an anonymous id turned out to be this user."""

    anonymous_id: UserId


class Merge(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic merges, between workers: a claim of an anonymous row, or that row on its way to the user's."""

    claimed_by: UserId | None = None
    """A claim: the row of the key's anonymous id belongs to this user."""
    row: Annotated[bytes, Meta(max_length=MERGED_ROW_BYTES_MAX)] | None = None
    """A packed row (`stream.core.row`), to be merged into that of the key."""
    claim: Id | None = None
    """The login's event id, where the user's row would remember it unless it was erased meanwhile."""


class Erasure(Source, kw_only=True, gc=False, omit_defaults=True):
    """Topic erasures: this user asks to be forgotten."""

    reason: Text | None = None


class BudgetMove(Struct, kw_only=True, gc=False, omit_defaults=True):
    """Topic budgets: leases between workers and the budget keeper."""

    lease_id: Id
    budget_id: Id
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    kind: Literal["request", "grant", "return"]
    amount_minor: Minor
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$", max_length=3)]
    time_ms: TimeMs


class Champion(Struct, kw_only=True, gc=False):
    """Topic models, key `champion`: the model that workers score with; `stream.scoring.control` has the other keys."""

    sha256: Sha256
    published_ms: TimeMs
    before: Annotated[tuple[Sha256, ...], Meta(max_length=5)] | UnsetType = UNSET


SOURCE_VALUES: dict[str, type[Click | Order | Feedback | Redemption | Customer]] = {
    "clickstream": Click,
    "orders": Order,
    "feedback": Feedback,
    "redemptions": Redemption,
    "customers": Customer,
}


# --- dead letters -----------------------------------------------------------------------------------------------------


@unique
class DeadReason(StrEnum):
    """Why a record was refused; of several faults the one that was looked for first, which is mostly this order."""

    KEY_MISSING = "key_missing"
    KEY_TOO_LONG = "key_too_long"
    VALUE_MISSING = "value_missing"
    VALUE_TOO_LARGE = "value_too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    FIELD_MISSING = "field_missing"
    FIELD_TYPE = "field_type"
    FIELD_VALUE = "field_value"
    KEY_NOT_UTF8 = "key_not_utf8"
    USER_MISMATCH = "user_mismatch"
    WRONG_PARTITION = "wrong_partition"
    TIME_RANGE = "time_range"
    CURRENCY = "currency"
    UNEXPECTED = "unexpected"


class DeadLetter(Struct, frozen=True, gc=False):
    """A record that was refused: where it came from, its bytes as they came, and why."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # of the record, ms
    key: bytes | None
    value: bytes | None
    reason: DeadReason
    field: str  # JSON path such as "$.lines[0].quantity"; "" where no field is to blame
    detail: str


def _header(text: str) -> bytes:
    # A key of JSON text may hold what UTF-8 cannot write.
    return text[:DETAIL_CHARS_MAX].encode("utf-8", "backslashreplace")


def dead_letter_record(dead: DeadLetter) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """Key, value and headers of the record for topic dead-letters.

    Returns:
        (key, value, headers): key and value are the bytes as they came, cut; `length` and `sha256` in the headers are
        of the whole value, and are left out where the value was null.
    """
    headers = [
        ("topic", dead.topic.encode()),
        ("partition", b"%d" % dead.partition),
        ("offset", b"%d" % dead.offset),
        ("timestamp", b"%d" % dead.timestamp),
        ("reason", dead.reason.encode()),
        ("field", _header(dead.field)),
        ("detail", _header(dead.detail)),
    ]
    value, key = dead.value, dead.key
    if value is not None:
        headers.append(("length", b"%d" % len(value)))
        headers.append(("sha256", hashlib.sha256(value).hexdigest().encode()))
        value = value[:DEAD_VALUE_BYTES_MAX]
    if key is not None:
        key = key[:DEAD_KEY_BYTES_MAX]
    return key, value, headers
