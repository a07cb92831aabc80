"""A shop's own CSV as events: a mapping file says which column is which field. docs/replay.md has an example."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jsonschema
import msgspec
import yaml

from stream.core.events import KINDS_OF_SOURCE
from stream.errors import SettingsError
from stream.kafka.codec import KEY_BYTES_MAX, SOURCE_VALUES
from stream.shop.fields import (
    BadLineError,
    Event,
    Item,
    LeftOut,
    broken,
    cells_of,
    columns_of,
    milliseconds,
    minor,
    one_of,
    short,
    whole,
)
from stream.shop.lines import Line

SOURCE_OF_KIND = {kind: source for source, kinds in KINDS_OF_SOURCE.items() for kind in kinds}

FIELDS_OF_SOURCE: dict[str, tuple[str, ...]] = {
    "clickstream": (
        *("session_id", "product_id", "category_id", "brand", "price", "quantity", "dwell_ms", "referrer", "page"),
        *("keywords", "result_count", "service"),
    ),
    "orders": (
        *("order_id", "product_id", "category_id", "brand", "quantity", "price", "total", "discount", "offer_id"),
        "session_id",
    ),
    "feedback": ("rating", "offer_id", "product_id"),
    "redemptions": ("offer_id", "order_id", "amount"),
    "customers": ("registered", "birthday", "tier", "consent", "objection"),
}
"""Fields that a mapping file may fill, by source topic."""

_MONEY = ("price", "total", "discount", "amount")
_WHOLE = ("quantity", "dwell_ms", "result_count", "rating")
_FLAGS = ("consent", "objection")
_FLAG_VALUES = {"1": "1", "true": "1", "yes": "1", "0": "", "false": "", "no": ""}
_WHOLE_MAX = 2**53
_NAME_IN_VALUE = {"price": "price_minor", "amount": "amount_minor", "registered": "registered_ms"}
"""Fields that are called otherwise in the value; those of an order are put together by `_order_fields`."""


@dataclass(frozen=True)
class TimeColumn:
    """Where an event's time stands, and how it is written."""

    column: str
    unit: str
    zone: ZoneInfo

    def parse(self, text: str, column: str) -> int:
        """Milliseconds since the epoch.

        Raises:
            BadLineError: no such time.
        """
        if self.unit in ("s", "ms"):
            return whole(text, column, 0, _WHOLE_MAX) * (1000 if self.unit == "s" else 1)
        try:
            moment = self._moment(text)
            return milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=self.zone))
        except (ValueError, OverflowError):
            raise BadLineError("time", f"{column}: {text[:40]!r} is no time in the form {self.unit}") from None

    def _moment(self, text: str) -> datetime:
        return datetime.fromisoformat(text) if self.unit == "iso" else datetime.strptime(text, self.unit)  # noqa: DTZ007


@dataclass(frozen=True)
class ColumnMapping:
    """A mapping file, read and checked."""

    name: str
    currency: str
    decimals: int
    delimiter: str
    columns: tuple[str, ...]
    time: TimeColumn
    user: str
    kind_column: str
    kinds: dict[str, str]
    """What the values of `kind_column` mean, "" = left out; {"": kind} where every line is of one kind."""
    fields: dict[str, str]

    def read(self, lines: Iterable[Line], currency: str) -> Iterator[Item]:
        """A reader like those of `formats`.

        Raises:
            SettingsError: the header lacks a column that the mapping names.
        """
        rest = iter(lines)
        wanted = dict.fromkeys([self.time.column, self.user, self.kind_column, *self.fields.values()])
        wanted.pop("", None)
        place = (
            {column: i for i, column in enumerate(self.columns)}
            if self.columns
            else columns_of(rest, tuple(wanted), self.name, self.delimiter)
        )
        for number, line in rest:
            try:
                cells = cells_of(line, len(place), self.delimiter)
                item = self._item(number, {column: cells[place[column]].strip() for column in wanted}, currency)
            except BadLineError as e:
                item = broken(number, e)
            except msgspec.ValidationError as e:
                item = broken(number, BadLineError("value", str(e)))
            yield item

    def _item(self, number: int, cells: dict[str, str], currency: str) -> Item:
        kind = one_of(cells.get(self.kind_column, ""), self.kind_column, self.kinds)
        if not kind:
            return LeftOut(number, f"{self.kind_column} {cells[self.kind_column]}")
        source = SOURCE_OF_KIND[kind]
        given = {
            field: self._value(field, cells[column], column)
            for field, column in self.fields.items()
            if field in FIELDS_OF_SOURCE[source] and cells[column]
        }
        value: dict[str, Any] = {
            "event_id": f"{self.name}:{number}",
            "user_id": short(cells[self.user], self.user, KEY_BYTES_MAX),
            "time_ms": self.time.parse(cells[self.time.column], self.time.column),
            "kind": kind,
        }
        if source == "orders":
            value |= _order_fields(given, value["event_id"])
        else:
            value |= {_NAME_IN_VALUE.get(field, field): v for field, v in given.items()}
        if source == "orders" or "price_minor" in value or "amount_minor" in value:
            value["currency"] = currency
        return Event(number, source, msgspec.convert(value, SOURCE_VALUES[source]))

    def _value(self, field: str, text: str, column: str) -> Any:  # noqa: ANN401 - msgspec checks it against the topic
        if field in _MONEY:
            return minor(text, column, self.decimals)
        if field in _WHOLE:
            return whole(text, column, 0, _WHOLE_MAX)
        if field in _FLAGS:
            return bool(one_of(text.lower(), column, _FLAG_VALUES))
        if field == "registered":
            return self.time.parse(text, column)
        return text.split() if field == "keywords" else text


def _order_fields(given: dict[str, Any], event_id: str) -> dict[str, Any]:
    """An order of one line. Not given: quantity 1, total = price * quantity - discount."""
    line = {"quantity": given.pop("quantity", 1), "unit_price_minor": given.pop("price", 0)}
    line |= {field: given.pop(field) for field in ("product_id", "category_id", "brand") if field in given}
    discount_minor = given.pop("discount", 0)
    total_minor = given.pop("total", line["quantity"] * line["unit_price_minor"] - discount_minor)
    lines = [line] if "product_id" in line else []
    return {
        "order_id": event_id,
        "lines": lines,
        "total_minor": total_minor,
        "discount_minor": discount_minor,
    } | given


def load_mapping(path: Path) -> ColumnMapping:
    """Read and check a mapping file.

    Raises:
        SettingsError: it cannot be read or is wrong; the message names every bad key.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise SettingsError(f"{path}: {e}") from None
    schema = json.loads(resources.files("stream.shop").joinpath("mapping.schema.json").read_text("utf-8"))
    problems = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]
    if not problems:
        problems = _problems(document)
    if problems:
        raise SettingsError("\n".join(f"{path}: {problem}" for problem in sorted(problems)))
    kind = document["kind"]
    time = document["time"]
    return ColumnMapping(
        name=document["name"],
        currency=document.get("currency", ""),
        decimals=document.get("decimals", 2),
        delimiter=document.get("delimiter", ","),
        columns=tuple(document.get("columns", ())),
        time=TimeColumn(time["column"], time["unit"], ZoneInfo(time.get("zone", "UTC"))),
        user=document["user"],
        kind_column="" if isinstance(kind, str) else kind["column"],
        kinds={"": kind} if isinstance(kind, str) else {str(k): v or "" for k, v in kind["values"].items()},
        fields=document.get("fields", {}),
    )


def _problems(document: dict[str, Any]) -> list[str]:
    """What a JSON Schema cannot say: names that must exist elsewhere."""
    problems = []
    kind = document["kind"]
    kinds = [kind] if isinstance(kind, str) else [k for k in kind["values"].values() if k is not None]
    problems += [
        f"$.kind: {k!r} is no kind; known are {', '.join(SOURCE_OF_KIND)}" for k in kinds if k not in SOURCE_OF_KIND
    ]
    allowed = {f for k in kinds if k in SOURCE_OF_KIND for f in FIELDS_OF_SOURCE[SOURCE_OF_KIND[k]]}
    problems += [
        f"$.fields.{field}: no field of {', '.join(kinds)}; known are {', '.join(sorted(allowed))}"
        for field in document.get("fields", {})
        if field not in allowed
    ]
    try:
        ZoneInfo(document["time"].get("zone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        problems.append(f"$.time.zone: {document['time']['zone']!r} is no IANA time zone")
    columns = document.get("columns")
    if columns:
        used = [document["time"]["column"], document["user"], *document.get("fields", {}).values()]
        used += [] if isinstance(kind, str) else [kind["column"]]
        problems += [f"$.columns: lacks {column!r}, which is used" for column in used if column not in columns]
    return problems
