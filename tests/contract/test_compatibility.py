"""Schemas evolve only by changes that are compatible both ways: old readers read new values, new readers old ones.

Each is compared with what was released (`schemas/baseline`). Only two things may change: texts for people, and new
optional fields in objects that were open. Everything else takes a new topic, or an agreed break: then the baseline is
replaced in the same commit, which says so. Campaigns are not among them: their documents are closed and have versions.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
BASELINES = sorted((SCHEMAS / "baseline").glob("*.json"))
FOR_PEOPLE = {"title", "description", "examples", "$comment"}

Schema = Any


def breaks(old: Schema, new: Schema, path: str = "$") -> list[str]:
    """What makes `new` incompatible with `old`, one line each."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{path}: {old!r} became {new!r}"]
    found = []
    for keyword in sorted((old.keys() | new.keys()) - FOR_PEOPLE - {"properties", "$defs", "required"}):
        before: Schema = old.get(keyword)
        after: Schema = new.get(keyword)
        if keyword not in old or keyword not in new:
            found.append(f"{path}: {keyword} was {'added' if keyword in new else 'removed'}")
        elif keyword in {"items", "if", "then"}:
            found += breaks(before, after, f"{path}.{keyword}")
        elif keyword in {"allOf", "oneOf", "anyOf"} and len(before) == len(after):
            for i, pair in enumerate(zip(before, after, strict=True)):
                found += breaks(*pair, f"{path}.{keyword}[{i}]")
        elif before != after:
            found.append(f"{path}: {keyword} was {before!r}, is {after!r}")
    return found + required_breaks(old, new, path) + field_breaks(old, new, path)


def required_breaks(old: Schema, new: Schema, path: str) -> list[str]:
    before, after = set(old.get("required", [])), set(new.get("required", []))
    found = [f"{path}: {name} became required" for name in sorted(after - before)]
    return found + [f"{path}: {name} is no longer required" for name in sorted(before - after)]


def field_breaks(old: Schema, new: Schema, path: str) -> list[str]:
    found = []
    for kind in ("properties", "$defs"):
        before, after = old.get(kind, {}), new.get(kind, {})
        found += [f"{path}: {name} was removed" for name in sorted(before.keys() - after.keys())]
        if old.get("additionalProperties") is False:
            found += [f"{path}: {name} was added to a closed object" for name in sorted(after.keys() - before.keys())]
        for name in sorted(before.keys() & after.keys()):
            found += breaks(before[name], after[name], f"{path}.{name}")
    return found


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda path: path.stem)
def test_no_schema_has_changed_incompatibly(baseline: Path) -> None:
    assert breaks(json.loads(baseline.read_text()), json.loads((SCHEMAS / baseline.name).read_text())) == []


def test_every_topic_but_campaigns_has_a_baseline() -> None:
    now = {path.name for path in SCHEMAS.glob("*.json")}
    assert {path.name for path in BASELINES} == now - {"campaigns.json", "campaign-document.json"}


def edit(path: str, value: Any) -> Callable[[Schema], None]:
    """Set what stands at a path of keys; value ... removes it."""

    def change(schema: Schema) -> None:
        *keys, last = path.split("/")
        for key in keys:
            schema = schema[int(key)] if isinstance(schema, list) else schema[key]
        if value is ...:
            del schema[last]
        else:
            schema[last] = value

    return change


ORDERS = json.loads((SCHEMAS / "orders.json").read_text())
REFUSED = {
    "field added and required": lambda s: (edit("properties/new", {"type": "string"})(s), s["required"].append("new")),
    "field made required": lambda s: s["required"].append("lines"),
    "field no longer required": lambda s: s["required"].remove("currency"),
    "field removed": edit("properties/session_id", ...),
    "field renamed": lambda s: s["properties"].update(visit_id=s["properties"].pop("session_id")),
    "type narrowed": edit("properties/session_id/type", "string"),
    "type widened": edit("properties/total_minor/type", ["integer", "null"]),
    "type changed": edit("properties/total_minor/type", "number"),
    "minimum raised": edit("properties/total_minor/minimum", 1),
    "maximum lowered": edit("properties/total_minor/maximum", 10**9),
    "maximum raised": edit("properties/total_minor/maximum", 10**15),
    "bound removed": edit("properties/total_minor/maximum", ...),
    "bound added": edit("properties/currency/maxLength", 3),
    "pattern changed": edit("properties/currency/pattern", "^[a-z]{3}$"),
    "kind added": edit("properties/kind/enum", ["placed", "cancelled", "returned", "shipped"]),
    "kind removed": edit("properties/kind/enum", ["placed", "cancelled"]),
    "enum opened": edit("properties/kind", {"type": "string"}),
    "default changed": edit("properties/discount_minor/default", 1),
    "object closed": edit("additionalProperties", value=False),
    "field of a line removed": edit("$defs/line/properties/brand", ...),
    "field of a line made required": lambda s: s["$defs"]["line"]["required"].append("brand"),
    "lines shortened": edit("properties/lines/maxItems", 100),
    "lines of another shape": edit("properties/lines/items", {"type": "object"}),
    "rule across fields added": edit("allOf", [{"required": ["lines"]}]),
}
ALLOWED = {
    "nothing": lambda _: None,
    "described better": edit("properties/total_minor/description", "What the customer paid."),
    "other examples": edit("examples", []),
    "optional field added": edit("properties/channel", {"type": ["string", "null"]}),
    "optional field of a line added": edit("$defs/line/properties/gtin", {"type": ["string", "null"]}),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_incompatible_changes_are_refused(change: Callable[[Schema], Any]) -> None:
    changed = copy.deepcopy(ORDERS)
    change(changed)
    assert breaks(ORDERS, changed)


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_compatible_changes_are_not(change: Callable[[Schema], Any]) -> None:
    changed = copy.deepcopy(ORDERS)
    change(changed)
    assert breaks(ORDERS, changed) == []


def test_a_field_added_to_a_closed_object_is_refused() -> None:
    closed = ORDERS | {"additionalProperties": False}
    changed = copy.deepcopy(closed)
    changed["properties"]["channel"] = {"type": "string"}
    assert breaks(closed, changed)


def test_rules_across_fields_are_compared() -> None:
    feedback = json.loads((SCHEMAS / "feedback.json").read_text())
    changed = copy.deepcopy(feedback)
    changed["allOf"][0]["then"]["required"].append("product_id")
    assert breaks(feedback, changed)
