from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from stream.errors import SettingsError
from stream.shop.fields import Broken, Event, Item, LeftOut
from stream.shop.mapping import load_mapping

# The example of docs/replay.md.
EXAMPLE = """
name: my-shop
currency: EUR
delimiter: ";"
time: {column: when, unit: "%d.%m.%Y %H:%M:%S", zone: Europe/Berlin}
user: customer
kind:
  column: action
  values: {look: product_view, basket: cart_add, paid: placed, stars: rating, member: profile, ping: null}
fields:
  product_id: sku
  price: unit price
  quantity: n
  rating: n
  consent: agreed
"""
HEADER = "when;customer;action;sku;unit price;n;agreed"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(text, "utf-8")
    return path


def read(tmp_path: Path, mapping: str, *lines: str) -> list[Item]:
    numbered = [(i, line.encode()) for i, line in enumerate(lines, 1)]
    return list(load_mapping(write(tmp_path, mapping)).read(numbered, "EUR"))


def value_of(item: Item) -> dict[str, Any]:
    assert isinstance(item, Event), item
    value: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(item.value))
    return value


def test_each_kind_goes_to_its_topic(tmp_path: Path) -> None:
    items = read(
        tmp_path,
        EXAMPLE,
        HEADER,
        "01.07.2024 12:00:00;ann;look;s1;19.99;;",
        "01.01.2024 12:00:00;ann;paid;s1;19.99;3;",
        "01.07.2024 12:00:01;ann;stars;s1;;5;",
        "01.07.2024 12:00:02;ann;member;;;;yes",
        "01.07.2024 12:00:03;ann;ping;;;;",
    )
    view, order, rating, profile = items[:4]
    assert [i.source for i in items[:4] if isinstance(i, Event)] == ["clickstream", "orders", "feedback", "customers"]
    assert value_of(view) == {
        "event_id": "my-shop:2",
        "user_id": "ann",
        "time_ms": 1719828000000,  # date -d '2024-07-01 12:00 CEST' +%s
        "kind": "product_view",
        "product_id": "s1",
        "price_minor": 1999,
        "currency": "EUR",
    }
    assert value_of(order) == {
        "event_id": "my-shop:3",
        "user_id": "ann",
        "time_ms": 1704106800000,  # date -d '2024-01-01 12:00 CET' +%s
        "kind": "placed",
        "order_id": "my-shop:3",
        "lines": [{"product_id": "s1", "quantity": 3, "unit_price_minor": 1999}],
        "total_minor": 5997,
        "discount_minor": 0,
        "currency": "EUR",
    }
    assert value_of(rating)["rating"] == 5
    assert value_of(profile)["consent"] is True
    assert isinstance(items[4], LeftOut)


@pytest.mark.parametrize(
    ("unit", "text", "time_ms"),
    [
        ("s", "1719828000", 1719828000000),
        ("ms", "1719828000123", 1719828000123),
        ("iso", "2024-07-01T10:00:00Z", 1719828000000),
        ("iso", "2024-07-01T12:00:00.250+02:00", 1719828000250),
        ("iso", "2024-07-01 12:00:00", 1719828000000),
        ("%d/%m/%y %H:%M %z", "01/07/24 03:00 -0700", 1719828000000),
    ],
)
def test_times(tmp_path: Path, unit: str, text: str, time_ms: int) -> None:
    mapping = {
        "name": "m",
        "time": {"column": "t", "unit": unit, "zone": "Europe/Berlin"},
        "user": "u",
        "kind": "page_view",
    }
    [item] = read(tmp_path, yaml.safe_dump(mapping), "t,u", f"{text},ann")
    assert value_of(item)["time_ms"] == time_ms


def test_a_file_without_header_and_a_currency_without_minor_unit(tmp_path: Path) -> None:
    mapping = {
        "name": "jp",
        "columns": ["u", "t", "paid", "off", "words"],
        "decimals": 0,
        "time": {"column": "t", "unit": "s"},
        "user": "u",
        "kind": "placed",
        "fields": {"total": "paid", "discount": "off"},
    }
    good, bad = read(tmp_path, yaml.safe_dump(mapping), "ann,1700000000,1200,300,x", "ann,1700000000,12.5,300,x")
    assert value_of(good)["total_minor"] == 1200
    assert value_of(good)["discount_minor"] == 300
    assert "lines" not in value_of(good) or value_of(good)["lines"] == []
    assert isinstance(bad, Broken)
    assert (bad.line, bad.reason) == (2, "amount")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("01.07.2024 12:00:00;ann;look;s1;19.99;", "cut"),
        ("2024-07-01 12:00:00;ann;look;s1;19.99;;", "time"),
        ("01.07.2024 12:00:00;ann;jump;s1;19.99;;", "kind"),
        ("01.07.2024 12:00:00;ann;look;s1;19,99;;", "type"),
        ("01.07.2024 12:00:00;ann;stars;s1;;6;", "value"),
        ("01.07.2024 12:00:00;ann;stars;s1;;x;", "type"),
        ("01.07.2024 12:00:00;;look;s1;19.99;;", "value"),
        (f"01.07.2024 12:00:00;{'a' * 65};look;s1;19.99;;", "range"),
        (f"01.07.2024 12:00:00;{'ä' * 33};look;s1;19.99;;", "range"),
        (f"01.07.2024 12:00:00;ann;look;{'s' * 129};19.99;;", "value"),
        ("01.07.2024 12:00:00;ann;member;;;;perhaps", "kind"),
        ("01.07.1999 12:00:00;ann;look;s1;19.99;;", "value"),
    ],
)
def test_broken_lines(tmp_path: Path, line: str, reason: str) -> None:
    item, after = read(tmp_path, EXAMPLE, HEADER, line, "01.07.2024 12:00:00;ann;look;s1;19.99;;")
    assert isinstance(item, Broken), item
    assert (item.line, item.reason) == (2, reason)
    assert isinstance(after, Event)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"lacks unit price, n"):
        read(tmp_path, EXAMPLE, "when;customer;action;sku;agreed")


def test_all_bad_keys_are_named_at_once(tmp_path: Path) -> None:
    bad = """
name: "two words"
currency: euro
surprise: 1
time: {column: t, unit: hours}
kind: {column: k, values: {a: 5}}
"""
    with pytest.raises(SettingsError) as error:
        load_mapping(write(tmp_path, bad))
    for key in ("$.name", "$.currency", "surprise", "$.time.unit", "user", "$.kind"):
        assert key in str(error.value), key


def test_names_that_exist_nowhere_are_named_at_once(tmp_path: Path) -> None:
    bad = """
name: x
columns: [t, u]
time: {column: t, unit: s, zone: Mars/Olympus}
user: u
kind: {column: k, values: {a: bought, b: rating}}
fields: {prize: p, rating: r}
"""
    with pytest.raises(SettingsError) as error:
        load_mapping(write(tmp_path, bad))
    for part in ("'bought'", "Mars/Olympus", "$.fields.prize", "lacks 'k'", "lacks 'r'"):
        assert part in str(error.value), part


@pytest.mark.parametrize("text", ["", "[1, 2]", "name: [", "\x00"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"mapping\.yaml"):
        load_mapping(write(tmp_path, text))
    with pytest.raises(SettingsError, match="nowhere"):
        load_mapping(tmp_path / "nowhere.yaml")
