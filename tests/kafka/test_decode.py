"""Every record becomes the event that a naive reading makes of it, or a dead letter that says why not."""

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_one
from aiokafka.structs import ConsumerRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from stream.core.events import KINDS_OF_SOURCE, SOURCES, TIERS, TIME_MIN_MS
from stream.kafka import codec, reading
from stream.kafka.decode import Decoded, decode

NOW_MS = 1_763_700_000_000
# The first draw of text makes a table of all characters, which takes seconds on a busy machine.
patient = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Document = dict[str, Any]


def record(value: bytes | None, key: bytes | None = b"u1", offset: int = 0, timestamp: int = NOW_MS) -> Any:
    return ConsumerRecord("shop-topic", 0, offset, timestamp, 0, key, value, 0, 0, 0, ())


def decode_one(source: str, value: bytes | None, key: bytes | None = b"u1", **more: Any) -> Decoded:
    return decode(source, [record(value, key, **more)], 0, 1, "EUR", "shop-topic")


def dump(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


GOOD: dict[str, Document] = {
    "clickstream": {
        "event_id": "e1",
        "user_id": "u1",
        "time_ms": NOW_MS,
        "kind": "search",
        "session_id": "s1",
        "product_id": "p1",
        "category_id": "c1",
        "brand": "b1",
        "price_minor": 1999,
        "currency": "EUR",
        "quantity": 2,
        "dwell_ms": 5000,
        "referrer": "https://example.com/",
        "page": "/p1",
        "keywords": ["red", "shoe"],
        "result_count": 3,
        "service": "stylist",
    },
    "orders": {
        "event_id": "e2",
        "user_id": "u1",
        "time_ms": NOW_MS,
        "kind": "placed",
        "order_id": "o1",
        "lines": [
            {"product_id": "p1", "category_id": "c1", "brand": "b1", "quantity": 2, "unit_price_minor": 1000},
            {"product_id": "p2", "quantity": 1, "unit_price_minor": 500, "unit_cost_minor": 300},
        ],
        "total_minor": 2250,
        "discount_minor": 250,
        "currency": "EUR",
        "offer_id": "f1",
        "session_id": "s1",
    },
    "feedback": {
        "event_id": "e3",
        "user_id": "u1",
        "time_ms": NOW_MS,
        "kind": "rating",
        "rating": 4,
        "offer_id": "f1",
        "product_id": "p1",
    },
    "redemptions": {
        "event_id": "e4",
        "user_id": "u1",
        "time_ms": NOW_MS,
        "kind": "redeemed",
        "offer_id": "f1",
        "order_id": "o1",
        "amount_minor": 250,
        "currency": "EUR",
    },
    "customers": {
        "event_id": "e5",
        "user_id": "u1",
        "time_ms": NOW_MS,
        "kind": "profile",
        "registered_ms": NOW_MS - 10**9,
        "birthday": "02-29",
        "tier": "gold",
        "consent": True,
        "objection": False,
    },
}


# --- the oracle: one document at a time, as a reader of docs/topics.md would do it ------------------------------------


def hashed(text: str | None, bits: int = 64) -> int:
    return (xxh3_64_intdigest(text.encode()) % 2**bits or 1) if text else 0


def expected(source: str, document: Document, offset: int) -> dict[str, int]:
    def given(name: str) -> int:
        return document.get(name) or 0

    columns = dict.fromkeys(np.dtype([]).names or (), 0)
    columns |= {
        "time_ms": document["time_ms"],
        "offset": offset,
        "user": hashed(document["user_id"]),
        "event_id": hashed(document["event_id"]),
        "source": SOURCES.index(source),
        "kind": KINDS_OF_SOURCE[source][document.get("kind", "profile")],
        "session": hashed(document.get("session_id")),
        "offer": hashed(document.get("offer_id")),
        "discount_minor": given("discount_minor"),
        "registered_ms": given("registered_ms"),
        "dwell_ms": given("dwell_ms"),
        "results": 0 if document.get("result_count") is None else document["result_count"] + 1,
        "rating": given("rating"),
        "tier": TIERS.index(document.get("tier") or ""),
        "consent": {None: 0, False: 1, True: 2}[document.get("consent")],
        "objection": int(given("objection")),
    }
    birthday = document.get("birthday")
    columns["birthday"] = int(birthday[:2]) * 32 + int(birthday[3:]) if birthday else 0
    described = document
    if source == "orders":
        lines = document.get("lines") or []
        described = lines[0] if lines else {}
        columns["amount_minor"] = document["total_minor"]
        columns["price_minor"] = document["total_minor"] + given("discount_minor")
        columns["quantity"] = sum(line["quantity"] for line in lines)
    else:
        columns["amount_minor"] = given("amount_minor")
        columns["price_minor"] = given("price_minor")
        columns["quantity"] = given("quantity")
    columns["product"] = hashed(described.get("product_id"), 32)
    columns["category"] = hashed(described.get("category_id"), 32)
    columns["brand"] = hashed(described.get("brand"), 32)
    return columns


def assert_event(source: str, document: Document, decoded: Decoded, i: int, offset: int) -> None:
    event = decoded.events[i]
    names = event.dtype.names or ()
    want = expected(source, document, offset)
    assert {name: event[name].item() for name in names} == {name: want[name] for name in names}
    assert decoded.users[i] == document["user_id"].encode()


# --- valid documents, generated ---------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=128)
minors = st.integers(0, 10**12)
quantities = st.integers(1, 10**6)
lines = st.fixed_dictionaries(
    {"product_id": ids, "quantity": quantities, "unit_price_minor": minors},
    optional={"category_id": st.none() | texts, "brand": st.none() | texts, "unit_cost_minor": st.none() | minors},
)
common = {
    "event_id": ids,
    "user_id": st.text(st.characters(codec="utf-8"), min_size=1, max_size=16),
    "time_ms": st.integers(TIME_MIN_MS, NOW_MS + 3_600_000),
}
FIELDS: dict[str, tuple[Document, Document]] = {
    "clickstream": (
        {"kind": st.sampled_from(sorted(KINDS_OF_SOURCE["clickstream"]))},
        {
            "session_id": texts,
            "product_id": texts,
            "category_id": texts,
            "brand": texts,
            "price_minor": minors,
            "currency": st.just("EUR"),
            "quantity": quantities,
            "dwell_ms": st.integers(0, 86_400_000),
            "referrer": texts,
            "page": texts,
            "keywords": st.lists(texts, max_size=16),
            "result_count": st.integers(0, 10**9),
            "service": texts,
        },
    ),
    "orders": (
        {
            "kind": st.sampled_from(sorted(KINDS_OF_SOURCE["orders"])),
            "order_id": ids,
            "total_minor": minors,
            "currency": st.just("EUR"),
        },
        {"lines": st.lists(lines, max_size=4), "discount_minor": minors, "offer_id": texts, "session_id": texts},
    ),
    "feedback": (
        {"kind": st.sampled_from(sorted(KINDS_OF_SOURCE["feedback"])), "rating": st.integers(1, 5), "offer_id": ids},
        {"product_id": texts},
    ),
    "redemptions": (
        {"kind": st.sampled_from(sorted(KINDS_OF_SOURCE["redemptions"])), "offer_id": ids},
        {"order_id": texts, "amount_minor": minors, "currency": st.just("EUR")},
    ),
    "customers": (
        {},
        {
            "kind": st.just("profile"),
            "registered_ms": st.integers(0, NOW_MS),
            "birthday": st.dates().map(lambda day: f"{day:%m-%d}"),
            "tier": st.sampled_from(TIERS[1:]),
            "consent": st.booleans(),
            "objection": st.booleans(),
        },
    ),
}
NULL_IS_NO_KIND = {"kind"}


@st.composite
def documents(draw: st.DrawFn, source: str) -> Document:
    required, optional = FIELDS[source]
    document: Document = draw(
        st.fixed_dictionaries(
            common | required,
            optional={name: some if name in NULL_IS_NO_KIND else st.none() | some for name, some in optional.items()},
        )
    )
    return document


@pytest.mark.parametrize("source", SOURCES)
@given(data=st.data())
@patient
def test_columns_are_what_a_naive_reading_gives(source: str, data: st.DataObject) -> None:
    batch = data.draw(st.lists(documents(source), max_size=8))
    records = [record(dump(doc), doc["user_id"].encode(), offset=7 * i) for i, doc in enumerate(batch)]
    decoded = decode(source, records, 0, 1, "EUR", "shop-topic")
    assert decoded.dead == []
    assert decoded.unknown_fields == 0
    assert len(decoded.events) == len(batch)
    for i, document in enumerate(batch):
        assert_event(source, document, decoded, i, 7 * i)


@pytest.mark.parametrize("source", SOURCES)
def test_full_documents_fill_every_column(source: str) -> None:
    decoded = decode_one(source, dump(GOOD[source]), offset=3)
    assert_event(source, GOOD[source], decoded, 0, 3)


@pytest.mark.parametrize("source", SOURCES)
def test_escapes_and_white_space_make_no_difference(source: str) -> None:
    document = GOOD[source] | {"user_id": "ü/😀"}
    plain = decode_one(source, dump(document), "ü/😀".encode())
    escaped = decode_one(source, json.dumps(document, indent=2).encode(), "ü/😀".encode())
    assert plain.users == escaped.users == ["ü/😀".encode()]
    assert plain.events.tolist() == escaped.events.tolist()


# --- poison -----------------------------------------------------------------------------------------------------------


def with_(source: str, **fields: Any) -> bytes:
    return dump(GOOD[source] | fields)


def without(source: str, *fields: str) -> bytes:
    return dump({name: value for name, value in GOOD[source].items() if name not in fields})


def raw(source: str, field: str, text: str) -> bytes:
    """The good document with one field's value replaced by this JSON text."""
    return with_(source, **{field: "@"}).replace(b'"@"', text.encode())


def line(**fields: Any) -> bytes:
    return with_("orders", lines=[GOOD["orders"]["lines"][1], GOOD["orders"]["lines"][1] | fields])


CLICK = dump(GOOD["clickstream"])
POISON: list[tuple[str, bytes | None, str, str]] = [
    ("clickstream", None, "value_missing", ""),
    ("clickstream", b"", "value_missing", ""),
    ("clickstream", b" ", "not_json", ""),
    ("clickstream", b"<xml/>", "not_json", ""),
    ("clickstream", b"user_id=u1", "not_json", ""),
    ("clickstream", CLICK[:-1], "not_json", ""),
    ("clickstream", CLICK[: len(CLICK) // 2], "not_json", ""),
    ("clickstream", CLICK + CLICK, "not_json", ""),
    ("clickstream", CLICK + b"\0", "not_json", ""),
    ("clickstream", b"\0" * 100, "not_json", ""),
    ("clickstream", b"\x00\x00\x00\x00\x01" + CLICK, "not_json", ""),  # a schema registry's magic byte and id
    ("clickstream", b"\xef\xbb\xbf" + CLICK, "not_json", ""),
    ("clickstream", CLICK.decode().encode("utf-16"), "not_utf8", ""),
    ("clickstream", CLICK.decode().encode("utf-16-le"), "not_json", ""),
    ("clickstream", CLICK.decode().encode("utf-32"), "not_utf8", ""),
    ("clickstream", with_("clickstream", brand="café").decode().encode("latin-1"), "not_utf8", ""),
    ("clickstream", b"\xff\xfe\xfd" * 50, "not_utf8", ""),
    ("clickstream", raw("clickstream", "brand", '"\\ud800"'), "not_json", ""),
    ("clickstream", with_("clickstream", brand="@").replace(b"@", b"\xed\xa0\x80"), "not_utf8", ""),
    ("clickstream", b"null", "field_type", "$"),
    ("clickstream", b"[]", "field_type", "$"),
    ("clickstream", b"[" + CLICK + b"]", "field_type", "$"),
    ("clickstream", b'"text"', "field_type", "$"),
    ("clickstream", b"{}", "field_missing", "$.event_id"),
    ("clickstream", without("clickstream", "event_id"), "field_missing", "$.event_id"),
    ("clickstream", without("clickstream", "user_id"), "field_missing", "$.user_id"),
    ("clickstream", without("clickstream", "time_ms"), "field_missing", "$.time_ms"),
    ("clickstream", without("clickstream", "kind"), "field_missing", "$.kind"),
    ("clickstream", with_("clickstream", event_id=None), "field_type", "$.event_id"),
    ("clickstream", with_("clickstream", event_id=7), "field_type", "$.event_id"),
    ("clickstream", with_("clickstream", event_id=""), "field_value", "$.event_id"),
    ("clickstream", with_("clickstream", event_id="x" * 129), "field_value", "$.event_id"),
    ("clickstream", with_("clickstream", user_id="x" * 65), "field_value", "$.user_id"),
    ("clickstream", with_("clickstream", user_id="u2"), "user_mismatch", "$.user_id"),
    ("clickstream", with_("clickstream", user_id="u1\n"), "user_mismatch", "$.user_id"),
    ("clickstream", with_("clickstream", kind="jump"), "field_value", "$.kind"),
    ("clickstream", with_("clickstream", kind="x, got `y` - at `$.time_ms`"), "field_value", "$.kind"),
    ("clickstream", with_("clickstream", kind=["search"]), "field_type", "$.kind"),
    ("clickstream", with_("clickstream", time_ms="now"), "field_type", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=float(NOW_MS)), "field_type", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=True), "field_type", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=0), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=-1), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=1), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=TIME_MIN_MS - 1), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=NOW_MS // 1000), "time_range", "$.time_ms"),  # seconds
    ("clickstream", with_("clickstream", time_ms=NOW_MS + 3_600_001), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=253_402_300_799_000), "time_range", "$.time_ms"),  # 9999-12-31
    ("clickstream", with_("clickstream", time_ms=2**63), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", time_ms=2**64), "time_range", "$.time_ms"),
    ("clickstream", raw("clickstream", "time_ms", "1e400"), "time_range", "$.time_ms"),
    ("clickstream", raw("clickstream", "time_ms", "9" * 5000), "time_range", "$.time_ms"),
    ("clickstream", with_("clickstream", price_minor=-1), "field_value", "$.price_minor"),
    ("clickstream", with_("clickstream", price_minor=10**12 + 1), "field_value", "$.price_minor"),
    ("clickstream", with_("clickstream", price_minor=2**63), "field_value", "$.price_minor"),
    ("clickstream", with_("clickstream", price_minor=19.99), "field_type", "$.price_minor"),
    ("clickstream", with_("clickstream", price_minor="1999"), "field_type", "$.price_minor"),
    ("clickstream", raw("clickstream", "price_minor", "1e400"), "field_value", "$.price_minor"),
    ("clickstream", raw("clickstream", "price_minor", "-1e400"), "field_value", "$.price_minor"),
    ("clickstream", raw("clickstream", "price_minor", "NaN"), "not_json", ""),
    ("clickstream", raw("clickstream", "price_minor", "Infinity"), "not_json", ""),
    ("clickstream", raw("clickstream", "price_minor", "0x10"), "not_json", ""),
    ("clickstream", raw("clickstream", "price_minor", "007"), "not_json", ""),
    ("clickstream", with_("clickstream", currency="USD"), "currency", "$.currency"),
    ("clickstream", with_("clickstream", currency="eur"), "currency", "$.currency"),
    ("clickstream", with_("clickstream", currency="EURO"), "field_value", "$.currency"),
    ("clickstream", with_("clickstream", currency=978), "field_type", "$.currency"),
    ("clickstream", with_("clickstream", quantity=0), "field_value", "$.quantity"),
    ("clickstream", with_("clickstream", quantity=10**6 + 1), "field_value", "$.quantity"),
    ("clickstream", with_("clickstream", dwell_ms=86_400_001), "field_value", "$.dwell_ms"),
    ("clickstream", with_("clickstream", result_count=2**32), "field_value", "$.result_count"),
    ("clickstream", with_("clickstream", keywords=["x"] * 17), "field_value", "$.keywords"),
    ("clickstream", with_("clickstream", keywords=["x", 1]), "field_type", "$.keywords[1]"),
    ("clickstream", with_("clickstream", keywords="red"), "field_type", "$.keywords"),
    ("clickstream", raw("clickstream", "page", "[" * 100_000), "field_type", "$.page"),
    ("clickstream", raw("clickstream", "unknown", "[" * 100_000), "not_json", ""),
    ("clickstream", raw("clickstream", "unknown", "[" * 100_000 + "]" * 100_000), "not_json", ""),
    ("clickstream", b"[" * 100_000, "field_type", "$"),
    ("clickstream", b'{"a":' * 100_000, "not_json", ""),
    ("orders", without("orders", "currency"), "field_missing", "$.currency"),
    ("orders", without("orders", "total_minor"), "field_missing", "$.total_minor"),
    ("orders", without("orders", "order_id"), "field_missing", "$.order_id"),
    ("orders", with_("orders", kind="page_view"), "field_value", "$.kind"),
    ("orders", with_("orders", currency="JPY"), "currency", "$.currency"),
    ("orders", with_("orders", currency=None), "field_type", "$.currency"),
    ("orders", line(quantity=0), "field_value", "$.lines[1].quantity"),
    ("orders", line(quantity=1.5), "field_type", "$.lines[1].quantity"),
    ("orders", line(unit_price_minor=-5), "field_value", "$.lines[1].unit_price_minor"),
    ("orders", line(product_id=None), "field_type", "$.lines[1].product_id"),
    ("orders", with_("orders", lines=[{"product_id": "p"}]), "field_missing", "$.lines[0].quantity"),
    ("orders", with_("orders", lines=[GOOD["orders"]["lines"][0]] * 501), "field_value", "$.lines"),
    ("orders", with_("orders", lines={}), "field_type", "$.lines"),
    ("feedback", with_("feedback", rating=0), "field_value", "$.rating"),
    ("feedback", with_("feedback", rating=6), "field_value", "$.rating"),
    ("feedback", without("feedback", "rating"), "field_missing", "$.rating"),
    ("feedback", with_("feedback", rating=None), "field_missing", "$.rating"),
    (
        "feedback",
        dump(json.loads(without("feedback", "offer_id")) | {"kind": "offer_seen"}),
        "field_missing",
        "$.offer_id",
    ),
    ("feedback", with_("feedback", kind="offer_dismissed", offer_id=""), "field_missing", "$.offer_id"),
    ("redemptions", without("redemptions", "offer_id"), "field_missing", "$.offer_id"),
    ("redemptions", with_("redemptions", currency="USD"), "currency", "$.currency"),
    ("customers", None, "value_missing", ""),  # a tombstone: docs/topics.md
    ("customers", with_("customers", birthday="02-30"), "field_value", "$.birthday"),
    ("customers", with_("customers", birthday="13-01"), "field_value", "$.birthday"),
    ("customers", with_("customers", birthday="1990-02-01"), "field_value", "$.birthday"),
    ("customers", with_("customers", birthday="02-01\n"), "field_value", "$.birthday"),
    ("customers", with_("customers", tier="diamond"), "field_value", "$.tier"),
    ("customers", with_("customers", consent="yes"), "field_type", "$.consent"),
    ("customers", with_("customers", kind="x"), "field_value", "$.kind"),
    ("customers", with_("customers", registered_ms=2**63), "field_value", "$.registered_ms"),
]


@pytest.mark.parametrize(("source", "value", "reason", "field"), POISON)
def test_poison_is_a_dead_letter_with_its_reason_and_field(
    source: str, value: bytes | None, reason: str, field: str
) -> None:
    # Between good neighbours, which must not suffer.
    before, after = with_(source, time_ms=NOW_MS - 2), with_(source, time_ms=NOW_MS - 1)
    records = [record(before, offset=10), record(value, offset=11), record(after, offset=12)]
    decoded = decode(source, records, 0, 1, "EUR", "shop-topic")
    assert decoded.events["offset"].tolist() == [10, 12]
    assert decoded.events["time_ms"].tolist() == [NOW_MS - 2, NOW_MS - 1]
    assert decoded.users == [b"u1", b"u1"]
    (dead,) = decoded.dead
    assert (dead.reason, dead.field) == (reason, field)
    assert dead.detail or reason == "unexpected"
    assert len(dead.detail) <= codec.DETAIL_CHARS_MAX
    where = (dead.topic, dead.partition, dead.offset, dead.timestamp, dead.key, dead.value)
    assert where == ("shop-topic", 0, 11, NOW_MS, b"u1", value)


KEYS: list[tuple[bytes | None, str, str, str]] = [
    (None, "u1", "key_missing", ""),
    (b"", "u1", "key_missing", ""),
    (b"k" * 65, "u1", "key_too_long", ""),
    ("ü".encode() * 33, "ü" * 33, "key_too_long", ""),  # 33 characters, 66 bytes
    (b"u\xff", "u1", "key_not_utf8", ""),
    (b"u2", "u1", "user_mismatch", "$.user_id"),
    (b"U1", "u1", "user_mismatch", "$.user_id"),
    (b"u1 ", "u1", "user_mismatch", "$.user_id"),
]


@pytest.mark.parametrize(("key", "user_id", "reason", "field"), KEYS)
def test_bad_keys(key: bytes | None, user_id: str, reason: str, field: str) -> None:
    good = dump(GOOD["clickstream"])
    records = [
        record(good, offset=1),
        record(with_("clickstream", user_id=user_id), key, offset=2),
        record(good, offset=3),
    ]
    decoded = decode("clickstream", records, 0, 1, "EUR", "shop-topic")
    assert decoded.events["offset"].tolist() == [1, 3]
    assert [(d.offset, d.reason, d.field, d.key) for d in decoded.dead] == [(2, reason, field, key)]


def test_user_ids_that_only_look_alike_when_joined_are_told_apart() -> None:
    batch = [("a\nb", b"a"), ("c", b"b\nc"), ("a", b"a\nb"), ("b\nc", b"c")]
    records = [record(with_("clickstream", user_id=user), key, offset=i) for i, (user, key) in enumerate(batch)]
    assert [d.reason for d in decode("clickstream", records, 0, 1, "EUR", "shop-topic").dead] == ["user_mismatch"] * 4


def test_a_key_in_another_partition_is_refused() -> None:
    keys = [f"user-{i}" for i in range(64)]
    home = {key: (murmur2_of_one(key.encode()) & 0x7FFFFFFF) % 4 for key in keys}
    records = [record(with_("clickstream", user_id=key), key.encode(), offset=i) for i, key in enumerate(keys)]
    decoded = decode("clickstream", records, 2, 4, "EUR", "shop-topic")
    assert decoded.users == [key.encode() for key in keys if home[key] == 2]
    strangers = [i for i, key in enumerate(keys) if home[key] != 2]
    assert [(d.offset, d.reason) for d in decoded.dead] == [(i, "wrong_partition") for i in strangers]
    assert f"partition {home[keys[strangers[0]]]}, not 2" in decoded.dead[0].detail


def test_a_value_of_ten_megabytes_is_refused_unread() -> None:
    value = with_("clickstream", page="x" * 10_000_000)
    (dead,) = decode_one("clickstream", value).dead
    assert dead.reason == "value_too_large"
    assert dead.value is value  # whole: redriving needs it, and nothing was copied
    one_mebibyte = with_("clickstream", unknown="").replace(b'"unknown": ""', b'"unknown": "' + b"x" * (1 << 20) + b'"')
    at_limit = one_mebibyte.replace(b"x" * (len(one_mebibyte) - (1 << 20)), b"", 1)
    assert len(at_limit) == codec.VALUE_BYTES_MAX
    assert len(decode_one("clickstream", at_limit).events) == 1
    assert decode_one("clickstream", at_limit.replace(b"x", b"xx", 1)).dead[0].reason == "value_too_large"


def test_time_bounds_are_inclusive() -> None:
    for time_ms in (TIME_MIN_MS, NOW_MS + 3_600_000):
        assert len(decode_one("clickstream", with_("clickstream", time_ms=time_ms)).events) == 1


def test_a_key_that_stands_twice_counts_as_it_stands_last() -> None:
    value = CLICK[:-1] + b', "price_minor": 7}'
    assert decode_one("clickstream", value).events["price_minor"].tolist() == [7]
    value = CLICK[:-1] + b', "user_id": "u2"}'
    assert decode_one("clickstream", value).dead[0].reason == "user_mismatch"
    value = CLICK[:-1] + b', "quantity": -7}'
    assert decode_one("clickstream", value).dead[0].reason == "field_value"


def test_null_is_as_good_as_left_out() -> None:
    for source in SOURCES:
        required = {
            "event_id",
            "user_id",
            "time_ms",
            "kind",
            "order_id",
            "total_minor",
            "currency",
            "offer_id",
            "rating",
        }
        document = {name: value if name in required else None for name, value in GOOD[source].items()}
        left_out = {name: value for name, value in document.items() if value is not None}
        assert decode_one(source, dump(document)).events.tolist() == decode_one(source, dump(left_out)).events.tolist()


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_batch_is_no_events(source: str) -> None:
    decoded = decode(source, [], 0, 4, "EUR", "shop-topic")
    assert (decoded.users, len(decoded.events), decoded.dead, decoded.unknown_fields) == ([], 0, [], 0)


def test_a_fault_in_our_own_reading_is_a_dead_letter_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(value: bytes) -> Any:
        raise KeyError(value)

    monkeypatch.setitem(reading._STRICT, "clickstream", broken)
    (dead,) = decode_one("clickstream", CLICK).dead
    assert dead.reason == "unexpected"
    assert dead.detail.startswith("KeyError")


def test_hashes_are_never_nought_for_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.kafka import decode as module

    monkeypatch.setattr(module, "xxh3_64_intdigest", lambda text: 0 if text == b"zero" else 2**32)
    for names in (module._CATEGORIES, module._BRANDS):
        names.clear()
    value = with_("clickstream", event_id="zero", product_id="low bits are zero", brand="these too")
    (event,) = decode_one("clickstream", value).events
    for names in (module._CATEGORIES, module._BRANDS):
        names.clear()
    assert (event["event_id"], event["product"], event["brand"]) == (1, 1, 1)


def test_names_remembered_are_bounded() -> None:
    from stream.kafka.decode import _Names

    names = _Names()
    names.limit = 100
    texts = [f"brand {i}" for i in range(1000)]
    assert names.codes(texts).tolist() == [hashed(text, 32) for text in texts]
    assert len(names) <= 100
    assert names.codes([None, ""]).tolist() == [0, 0]


# --- unknown fields ---------------------------------------------------------------------------------------------------


def test_unknown_fields_are_counted_and_not_stored() -> None:
    strange = GOOD["orders"] | {
        "name": "Ada",
        "address": {"street": "x"},
        "lines": [GOOD["orders"]["lines"][0] | {"gtin": "1"}],
    }
    plain = GOOD["orders"] | {"lines": [GOOD["orders"]["lines"][0]]}
    decoded = decode_one("orders", dump(strange))
    assert decoded.unknown_fields == 3
    assert decoded.events.tolist() == decode_one("orders", dump(plain)).events.tolist()


def test_few_unknown_fields_are_counted_exactly() -> None:
    odd = with_("clickstream", a=1, b=2)
    records = [record(odd if i % 20 == 7 else CLICK, offset=i) for i in range(2000)]
    assert decode("clickstream", records, 0, 1, "EUR", "shop-topic").unknown_fields == 2 * 100


def test_many_unknown_fields_are_estimated() -> None:
    odd = with_("clickstream", a=1, b=2, c=3)
    for first in (0, 5, 12_345):
        records = [record(odd, offset=first + i) for i in range(2000)]
        assert decode("clickstream", records, 0, 1, "EUR", "shop-topic").unknown_fields == pytest.approx(6000, rel=0.02)


def test_unknown_fields_that_cannot_be_read_are_ignored_too() -> None:
    for value in (
        CLICK[:-1] + b', "note": "caf\xe9"}',
        CLICK[:-1] + b', "caf\xe9": 1}',
        CLICK[:-1] + b', "huge": 1e999}',
    ):
        decoded = decode_one("clickstream", value)
        assert (len(decoded.events), decoded.unknown_fields) == (1, 1)


# --- fuzzing ----------------------------------------------------------------------------------------------------------


def assert_accounted(source: str, records: list[Any], decoded: Decoded) -> None:
    """Every record is an event or a dead letter that keeps its bytes, and both are in order."""
    by_offset = {r.offset: r for r in records}
    dead = [d.offset for d in decoded.dead]
    events = decoded.events["offset"].tolist()
    assert sorted(dead + events) == [r.offset for r in records]
    assert dead == sorted(dead)
    assert events == sorted(events)
    assert decoded.users == [by_offset[offset].key for offset in events]
    for letter in decoded.dead:
        assert (letter.key, letter.value) == (by_offset[letter.offset].key, by_offset[letter.offset].value)
        key, value, headers = codec.dead_letter_record(letter)
        assert key == letter.key
        assert value == letter.value
        assert dict(headers)["reason"].decode() in set(codec.DeadReason)
    assert (decoded.events["source"] == SOURCES.index(source)).all()


keys_ = st.none() | st.binary(max_size=70) | st.just(b"u1")


@pytest.mark.parametrize("source", SOURCES)
@given(batch=st.lists(st.tuples(keys_, st.none() | st.binary(max_size=200)), max_size=10))
@patient
def test_random_bytes_never_raise(source: str, batch: list[tuple[bytes | None, bytes | None]]) -> None:
    records = [record(value, key, offset=i) for i, (key, value) in enumerate(batch)]
    assert_accounted(source, records, decode(source, records, 0, 1, "EUR", "shop-topic"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutants(draw: st.DrawFn, source: str) -> bytes:
    """A good value with fields replaced, removed or added, then with bytes changed."""
    document = dict(GOOD[source])
    for name in draw(st.lists(st.sampled_from([*document, "unknown"]), max_size=3)):
        if draw(st.booleans()):
            document[name] = draw(JSON)
        else:
            document.pop(name, None)
    value = bytearray(json.dumps(document).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(value)))
        value[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(value)


@pytest.mark.parametrize("source", SOURCES)
@given(data=st.data())
@settings(patient, max_examples=150)
def test_mutated_events_never_raise(source: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(mutants(source), max_size=6))
    records = [record(value, offset=i) for i, value in enumerate(values)]
    assert_accounted(source, records, decode(source, records, 0, 1, "EUR", "shop-topic"))


@pytest.mark.parametrize("source", SOURCES)
@given(data=st.data())
@patient
def test_how_a_batch_is_cut_does_not_matter(source: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(mutants(source), max_size=8))
    records = [record(value, offset=i) for i, value in enumerate(values)]
    whole = decode(source, records, 0, 1, "EUR", "shop-topic")
    parts = [decode(source, [r], 0, 1, "EUR", "shop-topic") for r in records]
    assert whole.events.tolist() == [event for part in parts for event in part.events.tolist()]
    assert whole.dead == [dead for part in parts for dead in part.dead]
    assert whole.unknown_fields == sum(part.unknown_fields for part in parts)


# --- cost -------------------------------------------------------------------------------------------------------------


def costs_at_most(bound: float, work: Callable[[], object], base: Callable[[], object]) -> bool:
    """Whether `work` takes at most `bound` times the processor time of `base`.

    The least of some rounds each, in turns, so that what others do on the machine hardly shows; where it does, again.
    """

    def seconds(function: Callable[[], object]) -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    def ratio() -> float:
        both = [(seconds(work), seconds(base)) for _ in range(20)]
        return min(w for w, _ in both) / min(b for _, b in both)

    return any(ratio() <= bound for _ in range(5))


def clicks(n: int) -> list[Any]:
    """As a shop's front end writes them: 10 fields, some 220 bytes."""
    records = []
    for i in range(n):
        user = f"u{i * 7919 % 1_000_000}"
        document = {
            "event_id": f"click-{i}",
            "user_id": user,
            "time_ms": NOW_MS + i,
            "kind": ("product_view", "cart_add", "page_view")[i % 3],
            "session_id": f"{user}-3",
            "product_id": str(i * 104_729 % 5_000_000),
            "category_id": str(i % 900),
            "brand": f"brand {i % 300}",
            "price_minor": i * 31 % 100_000,
            "currency": "EUR",
        }
        records.append(record(json.dumps(document, separators=(",", ":")).encode(), user.encode(), offset=i))
    return records


def test_decoding_costs_a_few_times_the_bare_parser() -> None:
    records = clicks(2000)
    values = [r.value for r in records]
    bare = msgspec.json.Decoder(codec.Click).decode
    assert len(decode("clickstream", records, 0, 1, "EUR", "shop-topic").events) == 2000
    # Measured: 3.9.
    assert costs_at_most(
        6, lambda: decode("clickstream", records, 0, 1, "EUR", "shop-topic"), lambda: [bare(v) for v in values]
    )


def test_a_tenth_of_poison_costs_at_most_a_third_of_the_throughput() -> None:
    records = clicks(2000)
    poison = [value for source, value, _, _ in POISON if source == "clickstream" and len(value or b"") < 5000]
    mixed = [record(poison[i // 10 % len(poison)], offset=i) if i % 10 == 0 else r for i, r in enumerate(records)]
    assert len(decode("clickstream", mixed, 0, 1, "EUR", "shop-topic").dead) == 200
    # Measured: 1.28.
    assert costs_at_most(
        3 / 2,
        lambda: decode("clickstream", mixed, 0, 1, "EUR", "shop-topic"),
        lambda: decode("clickstream", records, 0, 1, "EUR", "shop-topic"),
    )


def test_unknown_fields_everywhere_do_not_halve_the_speed() -> None:
    records = clicks(2000)
    odd = [record(r.value[:-1] + b',"trace":"0123456789abcdef"}', r.key, offset=r.offset) for r in records]
    # Measured: 1.2.
    assert costs_at_most(
        2,
        lambda: decode("clickstream", odd, 0, 1, "EUR", "shop-topic"),
        lambda: decode("clickstream", records, 0, 1, "EUR", "shop-topic"),
    )
