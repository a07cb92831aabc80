import csv
import gzip
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import SettingsError
from stream.kafka.codec import Click, Order
from stream.shop.fields import BadLineError, Broken, Event, Item, LeftOut, minor
from stream.shop.formats import FORMATS
from stream.shop.lines import LINE_BYTES_MAX, LineSource

REES46_HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
BASKET_HEADER = (
    "household_id,store_id,basket_id,product_id,quantity,sales_value,retail_disc,coupon_disc,coupon_match_disc,week,"
    "transaction_timestamp"
)


def read(format_: str, *lines: str | bytes) -> list[Item]:
    numbered = [(i, line.encode() if isinstance(line, str) else line) for i, line in enumerate(lines, 1)]
    return list(FORMATS[format_][0](numbered, "EUR"))


def value_of(item: Item) -> dict[str, Any]:
    assert isinstance(item, Event), item
    value: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(item.value))
    return value


# --- what becomes of a line


def test_taobao_view() -> None:
    [item] = read("taobao", "543462,1715,1464116,pv,1511658000")
    assert isinstance(item, Event)
    assert item.source == "clickstream"
    assert value_of(item) == {
        "event_id": "taobao:1",
        "user_id": "543462",
        "time_ms": 1511658000000,
        "kind": "product_view",
        "product_id": "1715",
        "category_id": "1464116",
    }


def test_taobao_purchase_is_an_order_without_an_amount() -> None:
    [item] = read("taobao", "7,8,9,buy,1511658000")
    assert isinstance(item, Event)
    assert item.source == "orders"
    assert value_of(item) == {
        "event_id": "taobao:1",
        "user_id": "7",
        "time_ms": 1511658000000,
        "kind": "placed",
        "order_id": "taobao:1",
        "lines": [{"product_id": "8", "category_id": "9", "quantity": 1, "unit_price_minor": 0}],
        "total_minor": 0,
        "currency": "EUR",
    }


# The first and last second of the nine days, by the calendar and not by the constant under test.
FIRST_S = int(datetime.fromisoformat("2017-11-25T00:00:00+08:00").timestamp())
LAST_S = int(datetime.fromisoformat("2017-12-03T23:59:59+08:00").timestamp())


@pytest.mark.parametrize(
    ("seconds", "kept"), [(FIRST_S - 1, False), (FIRST_S, True), (LAST_S, True), (LAST_S + 1, False), (0, False)]
)
def test_taobao_noise_outside_the_nine_days_is_left_out(seconds: int, *, kept: bool) -> None:
    [item] = read("taobao", f"1,2,3,fav,{seconds}")
    assert isinstance(item, Event if kept else LeftOut)


def test_rees46_view_has_session_brand_and_exact_price() -> None:
    _, item = (
        None,
        *read("rees46", REES46_HEADER, "2019-10-01 00:00:04 UTC,view,1004237,20530,a.b,apple,1081.98,53,s-1"),
    )
    assert value_of(item) == {
        "event_id": "rees46:2",
        "user_id": "53",
        "time_ms": int(datetime(2019, 10, 1, 0, 0, 4, tzinfo=UTC).timestamp()) * 1000,
        "kind": "product_view",
        "session_id": "s-1",
        "product_id": "1004237",
        "category_id": "20530",
        "brand": "apple",
        "price_minor": 108198,
        "currency": "EUR",
    }


def test_rees46_purchase_and_cart_and_empty_cells() -> None:
    purchase, cart, removed = read(
        "rees46",
        REES46_HEADER,
        "2019-10-01 00:04:37 UTC,purchase,1002532,2053,,apple,642.69,55,s-2",
        "2019-10-01 00:04:38 UTC,cart,1002532,2053,,,0.00,55,",
        '2019-10-01 00:04:39 UTC,remove_from_cart,1002532,2053,,"Dr. Martens, Ltd",1,55,',
    )
    assert value_of(purchase)["lines"] == [
        {"product_id": "1002532", "category_id": "2053", "brand": "apple", "quantity": 1, "unit_price_minor": 64269}
    ]
    assert value_of(purchase)["total_minor"] == 64269
    assert value_of(purchase)["session_id"] == "s-2"
    assert value_of(cart)["kind"] == "cart_add"
    assert not {"brand", "session_id"} & set(value_of(cart))
    assert value_of(removed)["kind"] == "cart_remove"
    assert value_of(removed)["brand"] == "Dr. Martens, Ltd"
    assert value_of(removed)["price_minor"] == 100


def test_completejourney_one_order_a_basket() -> None:
    items = read(
        "completejourney",
        BASKET_HEADER,
        "83,381,900,11,1,10.99,0.0,0.0,0.0,1,2017-01-01 13:31:53",
        "84,381,901,12,3,1.0,0.5,0.25,0.1,1,2017-01-01 13:31:53",  # interleaved, as in the data set
        "83,381,900,13,2,1.38,0.02,0.0,0.0,1,2017-01-01 13:31:53",
        "83,381,900,14,0,1.776357e-15,9.0,0.0,0.0,1,2017-01-01 13:31:53",  # quantity 0: its amounts do not count
        "85,381,902,15,0,0.0,0.0,0.0,0.0,1,2017-01-01 13:31:53",  # a basket of nothing
        "83,381,903,11,1,10.99,0.0,0.0,0.0,1,2017-01-02 13:31:53",
    )
    assert [i.reason for i in items if isinstance(i, LeftOut)] == ["quantity 0", "quantity 0"]
    first, second, third = [value_of(i) for i in items if isinstance(i, Event)]
    assert first == {
        "event_id": "completejourney:2",
        "user_id": "83",
        "time_ms": int(datetime(2017, 1, 1, 13, 31, 53, tzinfo=UTC).timestamp()) * 1000,
        "kind": "placed",
        "order_id": "900",
        "lines": [
            {"product_id": "11", "quantity": 1, "unit_price_minor": 1099},
            {"product_id": "13", "quantity": 2, "unit_price_minor": 70},
        ],
        "total_minor": 1099 + 138,
        "discount_minor": 2,
        "currency": "EUR",
    }
    assert (second["event_id"], second["total_minor"], second["discount_minor"]) == ("completejourney:3", 100, 60)
    assert second["lines"][0]["unit_price_minor"] == 53  # 160 / 3, rounded; the totals are exact
    assert third["event_id"] == "completejourney:7"


def test_completejourney_never_publishes_a_basket_in_parts_unnoticed() -> None:
    items = read(
        "completejourney",
        BASKET_HEADER,
        "1,1,900,11,1,1.00,0,0,0,1,2017-01-01 10:00:00",
        "1,1,901,11,1,1.00,0,0,0,1,2017-01-01 10:00:01",
        "1,1,900,12,1,1.00,0,0,0,1,2017-01-01 10:00:02",
        "2,1,902,12,1,1.00,0,0,0,1,2017-01-01 10:00:03",
        "3,1,902,12,1,1.00,0,0,0,1,2017-01-01 10:00:03",
    )
    assert [value_of(i)["order_id"] for i in items if isinstance(i, Event)] == ["900", "901", "902"]
    assert [(i.line, i.reason) for i in items if isinstance(i, Broken)] == [(4, "basket"), (6, "basket")]


def test_completejourney_basket_bound() -> None:
    lines = [f"1,1,900,{i},1,1.00,0,0,0,1,2017-01-01 10:00:00" for i in range(501)]
    items = read("completejourney", BASKET_HEADER, *lines)
    assert [len(i.value.lines or ()) for i in items if isinstance(i, Event) and isinstance(i.value, Order)] == [500]
    assert [i.line for i in items if isinstance(i, Broken)] == [502]


# --- broken lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "cut"),
        (b"543462,1715,1464116,pv", "cut"),
        (b"543462,1715,1464116,pv,1511658000,7", "columns"),
        (b"543462,1715,1464116,pv,", "type"),
        (b"543462,1715,1464116,pv,15116580x0", "type"),
        (b"543462,1715,1464116,pv,-5", "type"),
        (b"abc,1715,1464116,pv,1511658000", "type"),
        (b",1715,1464116,pv,1511658000", "type"),
        ("٣,1715,1464116,pv,1511658000".encode(), "type"),  # a digit, not of ours
        (b"543462,1715,1464116,view,1511658000", "kind"),
        (b"543462,1715,1464116,pv,1511658\xff00", "not_utf8"),
        (b"543462,1715,1464116,pv,\x0015116580", "binary"),
        (b'543462,"1715,1464116,pv,1511658000', "quotes"),
        (b"\x1f\x8b\x08\x00\x00", "not_utf8"),
        (b"1" * (LINE_BYTES_MAX + 1), "too_long"),
    ],
)
def test_taobao_broken_lines(line: bytes, reason: str) -> None:
    before, item, after = read("taobao", "1,2,3,pv,1511658000", line, "1,2,3,pv,1511658001")
    assert isinstance(item, Broken)
    assert (item.line, item.reason) == (2, reason)
    assert item.detail
    assert isinstance(before, Event)
    assert isinstance(after, Event)


REES46_GOOD = ["2019-10-01 00:00:00 UTC", "view", "1", "2", "c", "b", "3.50", "4", "s"]


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        (0, "2019-10-01 00:00:00", "time"),
        (0, "2019-02-30 00:00:00 UTC", "time"),
        (0, "2019-10-01T00:00:00 UTC", "time"),
        (0, "", "time"),
        (1, "buy", "kind"),
        (2, "x1", "type"),
        (3, "", "type"),
        (5, "b" * 129, "range"),
        (6, "3.505", "amount"),
        (6, "-3.50", "range"),
        (6, "nan", "type"),
        (6, "1e400", "range"),
        (6, "1e-999", "amount"),
        (6, "10000000000.01", "range"),
        (6, "1_000", "type"),
        (6, "", "type"),
        (7, "four", "type"),
        (8, "s" * 200, "range"),
    ],
)
def test_rees46_broken_cells(column: int, cell: str, reason: str) -> None:
    cells = list(REES46_GOOD)
    cells[column] = cell
    good, bad = read("rees46", REES46_HEADER, ",".join(REES46_GOOD), ",".join(cells))
    assert isinstance(good, Event)
    assert isinstance(bad, Broken)
    assert (bad.line, bad.reason) == (3, reason)


BASKET_GOOD = ["1", "2", "900", "11", "1", "1.00", "0.0", "0.0", "0.0", "1", "2017-01-01 10:00:00"]


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        (0, "", "type"),
        (2, "x", "type"),
        (3, "-1", "type"),
        (4, "-1", "range"),
        (4, "1000001", "range"),
        (4, "1.5", "type"),
        (5, "1.001", "amount"),
        (6, "-0.5", "range"),
        (8, "free", "type"),
        (10, "2017-13-01 10:00:00", "time"),
    ],
)
def test_completejourney_broken_cells(column: int, cell: str, reason: str) -> None:
    cells = list(BASKET_GOOD)
    cells[column] = cell
    [bad] = read("completejourney", BASKET_HEADER, ",".join(cells))
    assert isinstance(bad, Broken)
    assert (bad.line, bad.reason) == (2, reason)


@pytest.mark.parametrize("format_", ["rees46", "completejourney"])
@pytest.mark.parametrize("header", ["", "a,b,c", "\ufeff", "price,price", "1,2,3,pv,4"])
def test_another_header_is_refused_and_says_what_is_expected(format_: str, header: str) -> None:
    with pytest.raises(SettingsError, match=r"expected .*(price|basket_id)"):
        read(format_, header)
    with pytest.raises(SettingsError, match="empty"):
        read(format_)


def test_a_header_in_another_order_with_more_columns_and_a_byte_order_mark() -> None:
    columns = ["more", *reversed(REES46_HEADER.split(","))]
    cells = ["m", *reversed(REES46_GOOD)]
    [item] = read("rees46", "\ufeff" + ",".join(columns), ",".join(cells))
    assert value_of(item)["price_minor"] == 350


# --- whole files, against a count that shares nothing with the readers


def text_of(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def items_of(path: Path, format_: str) -> list[Item]:
    with LineSource(str(path)) as lines:
        items = list(FORMATS[format_][0](lines, "EUR"))
        assert not lines.cut
    return items


@pytest.mark.parametrize("name", ["taobao_two_hours", "taobao_users"])
def test_taobao_files_whole(shared_data: Path, name: str) -> None:
    path = shared_data / f"{name}.csv.gz"
    expected: dict[str, tuple[Any, ...]] = {}
    noise = 0
    for number, row in enumerate(csv.reader(text_of(path)), 1):
        day = datetime.fromtimestamp(int(row[4]) + 8 * 3600, UTC).strftime("%Y-%m-%d")
        if "2017-11-25" <= day <= "2017-12-03":
            expected[f"taobao:{number}"] = tuple(row)
        else:
            noise += 1
    items = items_of(path, "taobao")
    assert not [i for i in items if isinstance(i, Broken)]
    assert sum(isinstance(i, LeftOut) for i in items) == noise == (23 if name == "taobao_users" else 0)
    words = {"product_view": "pv", "cart_add": "cart", "favourite": "fav", "placed": "buy"}
    found = {}
    for item in items:
        if isinstance(item, Event):
            value = item.value
            assert isinstance(value, Click | Order)
            thing = value if isinstance(value, Click) else (value.lines or [])[0]
            cells = (value.user_id, thing.product_id, thing.category_id, words[value.kind], str(value.time_ms // 1000))
            found[value.event_id] = cells
    assert found == expected


def test_rees46_file_whole(shared_data: Path) -> None:
    path = shared_data / "rees46_views.csv.gz"
    expected = [
        (
            r["user_id"],
            r["product_id"],
            r["event_type"],
            int(r["price"].replace(".", "")),
            r["user_session"],
            r["brand"],
        )
        for r in csv.DictReader(text_of(path))
    ]
    words = {"product_view": "view", "cart_add": "cart", "placed": "purchase"}
    found = []
    for item in items_of(path, "rees46"):
        value = item.value if isinstance(item, Event) else None
        assert isinstance(value, Click | Order)
        thing = value if isinstance(value, Click) else (value.lines or [])[0]
        price = value.price_minor if isinstance(value, Click) else value.total_minor
        found.append((value.user_id, thing.product_id, words[value.kind], price, value.session_id, thing.brand or ""))
    assert found == expected


def test_completejourney_file_whole(shared_data: Path) -> None:
    path = shared_data / "completejourney_transactions_300_households.csv.gz"
    paid: dict[str, Decimal] = defaultdict(Decimal)
    off: dict[str, Decimal] = defaultdict(Decimal)
    count: Counter[str] = Counter()
    zero = 0
    for row in csv.DictReader(text_of(path)):
        if row["quantity"] == "0":
            zero += 1
            continue
        basket = row["basket_id"]
        paid[basket] += Decimal(row["sales_value"])
        off[basket] += Decimal(row["retail_disc"]) + Decimal(row["coupon_match_disc"])
        count[basket] += 1
    items = items_of(path, "completejourney")
    assert Counter(type(i) for i in items) == {Event: len(count), LeftOut: zero}
    orders = [i.value for i in items if isinstance(i, Event) and isinstance(i.value, Order)]
    assert {o.order_id: o.total_minor for o in orders} == {b: int(p * 100) for b, p in paid.items()}
    assert {o.order_id: o.discount_minor for o in orders} == {b: int(d * 100) for b, d in off.items()}
    assert {o.order_id: len(o.lines or ()) for o in orders} == count
    assert len({o.event_id for o in orders}) == len(orders)


@given(
    st.one_of(
        st.from_regex(r"[0-9]{1,12}(\.[0-9]{0,6})?", fullmatch=True),
        st.from_regex(r"[+-]?[0-9]{1,4}(\.[0-9]{0,3})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    ),
    st.sampled_from([0, 2, 3]),
)
def test_amounts_are_exact(text: str, decimals: int) -> None:
    exact = Fraction(text) * 10**decimals
    if exact.denominator == 1 and 0 <= exact <= 10**12:
        assert minor(text, "amount", decimals) == exact
    else:
        with pytest.raises(BadLineError):
            minor(text, "amount", decimals)
