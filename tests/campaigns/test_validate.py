"""Whatever is wrong with a campaign document is said, at its place, all of it at once; and nothing that is right is."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stream.campaigns.control import compile_campaigns
from stream.campaigns.files import FILE_BYTES_MAX, load
from stream.campaigns.problems import show_path
from stream.campaigns.schema import document_schema
from stream.campaigns.validate import validate

ROOT = Path(__file__).resolve().parents[2]

WHOLE: dict[str, Any] = {
    "id": "whole",
    "name": "Everything that a document can have",
    "version": 3,
    "priority": 10,
    "state": "active",
    "from": "2026-01-01",
    "until": "2026-12-24T18:00",
    "trigger": {"kinds": ["cart_add", "order_placed"]},
    "eligibility": {
        "segments": ["new", "frequent"],
        "products": ["p1"],
        "categories": ["c1"],
        "brands": ["b1"],
        "conditions": [
            {"field": "purchases_30d", "op": ">=", "value": 1},
            {"field": "tier", "op": "in", "value": ["gold", "platinum"]},
        ],
    },
    "arms": [
        {"id": "ten", "kind": "percent", "percent": 10, "max_discount_minor": 500, "min_spend_minor": 1000},
        {
            "id": "tiers",
            "kind": "amount",
            "tiers": [{"min_spend_minor": 5000, "off_minor": 500}, {"min_spend_minor": 9000, "off_minor": 1000}],
        },
        {"id": "coupon", "kind": "coupon", "value_minor": 300},
        {"id": "ship", "kind": "free_shipping"},
        {"id": "mug", "kind": "gift", "product": "mug"},
    ],
    "policy": {"kind": "segment", "arms": {"new": "ten", "frequent": "coupon", "dormant": "tiers", "regular": "none"}},
    "cool_down": {"after_offer": "24h", "after_redemption": "7d"},
    "holdout": 0.1,
    "parity": {"by": "tier", "ratio_min": 0.8},
    "guard": {"free": 2, "per_order": 0.5},
    "valid_for": "90m",
    "stacking_group": "summer",
    "currency": "EUR",
    "disclosure": False,
}
GONE = object()
SCHEMA = Draft202012Validator(document_schema())


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    document = copy.deepcopy(WHOLE)
    at: Any = document
    for part in path[:-1]:
        at = at[part]
    if value is GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return document


def test_the_whole_document_is_valid() -> None:
    assert validate(WHOLE, "EUR") == []


CONDITION = ("eligibility", "conditions", 0)
FREQUENCY = {"kind": "frequency", "window": "30d", "more_than": 3, "arm": "ten"}
THRESHOLD = {"kind": "threshold", "probability": 0.5, "arm": "ten"}
BIRTHDAY = {"kind": "calendar", "on": "birthday", "arm": "ten"}
LINEAR = {"kind": "linear", "a": 0.3, "b": 0.0, "min": 0.0, "max": 0.3, "arm": "ten"}


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        (("id",), GONE, "", "the field 'id' is missing"),
        (("id",), "Cart Nudge", "id", "must be an id"),
        (("id",), "cart\n", "id", "must be an id"),
        (("id",), "x" * 65, "id", "must be an id"),
        (("name",), "", "name", "must not be empty"),
        (("name",), "x" * 201, "name", "at most 200 characters"),
        (("version",), 0, "version", "must be at least 1"),
        (("version",), True, "version", "must be a whole number, this is true"),
        (("version",), "1", "version", "this is the text '1'"),
        (("priority",), 1.5, "priority", "must be a whole number"),
        (("state",), "pausd", "state", "did you mean 'paused'?"),
        (("from",), "2026-02-30", "from", "there is no such date: 2026-02-30"),
        (("from",), "2026-01-01T25:00", "from", "there is no such date"),
        (("from",), "1.1.2026", "from", "must be a date"),
        (("until",), "2025-12-31", "until", "must be after `from`"),
        (("until",), "2026-01-01T00:00", "until", "must be after `from`"),
        (("trigger", "kinds"), [], "trigger.kinds", "must have at least 1 entry"),
        (("trigger", "kinds"), GONE, "trigger", "must have at least 1"),
        (("trigger", "silent_for"), "30d", "trigger.silent_for", "either events trigger or that none comes"),
        (("trigger", "repeat_every"), "30d", "trigger.repeat_every", "is for `silent_for`"),
        (("trigger",), {"repeat_every": "30d"}, "trigger", "the field 'kinds' is missing, or 'silent_for'"),
        (("trigger", "kinds", 0), "cart_ad", "trigger.kinds[0]", "did you mean 'cart_add'?"),
        (("trigger", "kinds", 0), "profile", "trigger.kinds[0]", "'profile' is not one of"),
        (("trigger", "kinds", 0), "order_placed", "trigger.kinds[1]", "is in the list already"),
        (("eligibility", "segments", 0), "newish", "eligibility.segments[0]", "did you mean 'new'?"),
        (("eligibility", "brands", 0), "", "eligibility.brands[0]", "must not be empty"),
        (("eligibility", "city"), ["Bern"], "eligibility.city", "unknown field"),
        ((*CONDITION, "field"), "purchase_30d", "eligibility.conditions[0].field", "did you mean 'purchases_30d'?"),
        ((*CONDITION, "field"), "gender", "eligibility.conditions[0].field", "is a protected attribute"),
        ((*CONDITION, "op"), "=", "eligibility.conditions[0].op", "is not one of <, <=, >, >=, ==, !=, in, not_in"),
        ((*CONDITION, "value"), [1], "eligibility.conditions[0].value", "must be one value with >="),
        ((*CONDITION, "value"), "gold", "eligibility.conditions[0].value", "must be a number, this is the text 'gold'"),
        ((*CONDITION, "value"), None, "eligibility.conditions[0].value", "must be a number (up to 10^15), a name"),
        ((*CONDITION, "value"), 1e300, "eligibility.conditions[0].value", "must be a number (up to 10^15), a name"),
        (("eligibility", "conditions", 1, "value"), "gold", "eligibility.conditions[1].value", "must be a list"),
        (
            ("eligibility", "conditions", 1, "value", 0), "golden",
            "eligibility.conditions[1].value[0]", "did you mean 'gold'?",
        ),
        (("arms",), [], "arms", "must have at least 1 entry"),
        (("arms",), {}, "arms", "must be a list, this is a mapping of fields"),
        (("arms", 0, "kind"), "percentage", "arms[0].kind", "did you mean 'percent'?"),
        (("arms", 0, "kind"), GONE, "arms[0]", "the field 'kind' is missing"),
        (("arms", 0, "percent"), GONE, "arms[0]", "the field 'percent' is missing"),
        (("arms", 0, "percent"), 0, "arms[0].percent", "must be more than 0"),
        (("arms", 0, "percent"), 100.01, "arms[0].percent", "must be at most 100"),
        (("arms", 0, "percent"), 10.123, "arms[0].percent", "at most two decimals"),
        (("arms", 0, "value_minor"), 5, "arms[0].value_minor", "unknown field"),
        (("arms", 4, "id"), "ten", "arms[4].id", "the id 'ten' is taken by arms[0]"),
        (("arms", 4, "id"), "none", "arms[4].id", "'none' is always an arm"),
        (("arms", 1, "tiers", 1, "min_spend_minor"), 5000, "arms[1].tiers[1].min_spend_minor", "tiers overlap"),
        (("arms", 1, "tiers", 1, "min_spend_minor"), 4000, "arms[1].tiers[1].min_spend_minor", "tiers overlap"),
        (("arms", 1, "tiers", 1, "off_minor"), 500, "arms[1].tiers[1].off_minor", "must take off more"),
        (("arms", 1, "tiers", 1, "off_minor"), 9001, "arms[1].tiers[1].off_minor", "more than the minimum spend"),
        (("arms", 2, "value_minor"), -5, "arms[2].value_minor", "must be at least 1"),
        (("arms", 2, "value_minor"), 10**12 + 1, "arms[2].value_minor", "must be at most 1000000000000"),
        (("holdout",), float("nan"), "holdout", "must be a number, this is NaN"),
        (("policy",), GONE, "", "the field 'policy' is missing"),
        (("policy", "kind"), "profits", "policy.kind", "did you mean 'profit'?"),
        (("policy",), {"kind": "profit"}, "", "the field 'margin_rate' is missing"),
        (("policy",), {"kind": "calendar", "on": "dates", "arm": "ten"}, "policy", "'dates' is missing"),
        (("policy",), {**BIRTHDAY, "dates": ["11"]}, "policy.dates", "leave it out here"),
        (("policy",), {**BIRTHDAY, "on": "dates", "dates": ["02-30"]}, "policy.dates[0]", "there is no such day"),
        (("policy",), {**BIRTHDAY, "on": "dates", "dates": ["1-1"]}, "policy.dates[0]", "must be a day such as"),
        (("objective",), "orders", "objective", "is for the profit policy"),
        (("exploration",), 0, "exploration", "must be more than 0"),
        (("caps",), {"1d": 0}, "caps.1d", "must be at least 1"),
        (("caps",), {"1d": 15}, "caps.1d", "must be at most 14"),
        (("caps",), {"2d": 1}, "caps.2d", "unknown field"),
        (("margin_floor",), 0.1, "", "the field 'margin_rate' is missing"),
        (("budget",), {"total_minor": -1, "pacing": "asap"}, "budget.total_minor", "must be at least 1"),
        (("parity",), {"by": "gender", "ratio_min": 0.8}, "parity.by", "is a protected attribute"),
        (("parity",), {"by": "tiers", "ratio_min": 0.8}, "parity.by", "did you mean 'tier'?"),
        (("parity",), {"by": "tier", "ratio_min": 1.1}, "parity.ratio_min", "must be at most 1"),
        (("parity",), {"by": "tier"}, "parity", "the field 'ratio_min' is missing"),
        (("guard",), {"free": 0, "per_order": 1}, "guard.free", "must be at least 1"),
        (("guard",), {"free": 2, "per_order": -1}, "guard.per_order", "must be at least 0"),
        (("guard",), {"free": 2}, "guard", "the field 'per_order' is missing"),
        (("scope",), {}, "scope", "must have at least 1 field"),
        (("policy", "arms", "new"), "tenn", "policy.arms.new", "there is no arm 'tenn'; did you mean 'ten'?"),
        (("policy", "arms", "rich"), "ten", "policy.arms.rich", "unknown field"),
        (("policy",), {**THRESHOLD, "probability": 1.1}, "policy.probability", "must be at most 1"),
        (("policy",), {**THRESHOLD, "arm": "none"}, "policy.arm", "decides nothing"),
        (("policy",), {**THRESHOLD, "window": "30d"}, "policy.window", "unknown field"),
        (("policy",), {**FREQUENCY, "window": "14d"}, "policy.window", "not one of 1h"),
        (("policy",), LINEAR, "arms[0].percent", "leave it out here"),
        (("policy",), {**LINEAR, "arm": "ship"}, "policy.arm", "'ship' is of kind free_shipping"),
        (("cool_down", "after_offer"), "1 hour", "cool_down.after_offer", "must be a duration"),
        (("cool_down", "after_offer"), "367d", "cool_down.after_offer", "must be at most 366d"),
        (("holdout",), 1, "holdout", "must be less than 1"),
        (("holdout",), -0.1, "holdout", "must be at least 0"),
        (("valid_for",), "0h", "valid_for", "must be a duration"),
        (("valid_for",), GONE, "", "the field 'valid_for' is missing"),
        (("currency",), "euro", "currency", "must be a currency"),
        (("currency",), "USD", "currency", "the shop's currency is EUR"),
        (("currency",), GONE, "", "the field 'currency' is missing: arms[0] speaks of money"),
        (("disclosure",), "yes", "disclosure", "must be true or false"),
        (("versoin",), 1, "versoin", "did you mean 'version'?"),
        (("name",), "\ud800", "", "half a surrogate pair"),
    ],
)  # fmt: skip
def test_one_mistake_one_complaint(path: tuple[str | int, ...], value: object, where: str, message: str) -> None:
    problems = validate(changed(path, value), "EUR")
    assert [(show_path(p.path), message in p.message) for p in problems] == [(where, True)], problems
    # A worker says the same of a record.
    _, refused = compile_campaigns({"whole": json.dumps(changed(path, value)).encode()})
    assert bool(refused) == (message != "the shop's currency is EUR")


def test_a_linear_policy_and_its_arm() -> None:
    arms = [{"id": "depth", "kind": "percent"}, {"id": "ten", "kind": "percent", "percent": 10}]
    document = changed(("arms",), arms) | {"policy": {**LINEAR, "arm": "depth"}}
    assert validate(document) == []
    (problem,) = validate(document | {"policy": {**LINEAR, "arm": "depth", "min": 0.4}})
    assert (problem.path, problem.message) == (("policy", "min"), "must be at most max, 0.3")


@pytest.mark.parametrize("document", [None, [], "text", 3, True])
def test_what_is_no_mapping_is_no_campaign(document: object) -> None:
    (problem,) = validate(document)
    assert "a campaign is a mapping of fields" in problem.message


def test_the_published_schema_is_ours_and_a_schema() -> None:
    published = json.loads((ROOT / "schemas" / "campaign-document.json").read_text())
    assert published == document_schema(), "python -m stream campaigns schema > schemas/campaign-document.json"
    Draft202012Validator.check_schema(published)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["ten", "percent", "24h"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "x"]), inner, max_size=3),
    max_leaves=5,
)


def paths(value: object, so_far: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [(*so_far, key) for key, _ in inner] + [p for key, v in inner for p in paths(v, (*so_far, key))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(paths(WHOLE), key=str)), VALUES | st.just(GONE)), min_size=1, max_size=3)
)
def test_whatever_stands_in_a_field_it_is_said_or_it_compiles(
    changes: list[tuple[tuple[str | int, ...], object]],
) -> None:
    document = copy.deepcopy(WHOLE)
    for path, value in changes:
        at: Any = document
        try:
            for part in path[:-1]:
                at = at[part]
            if value is GONE:
                del at[path[-1]]
            else:
                at[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    problems = validate(document, "EUR")
    by_schema = list(SCHEMA.iter_errors(document))
    assert not by_schema or problems
    campaigns, refused = compile_campaigns({"whole": json.dumps(document).encode()})
    assert bool(refused) != bool(campaigns.campaigns)
    if not problems and document["id"] == "whole":
        assert not refused


# --- files ------------------------------------------------------------------------------------------------------------


def faults(tmp_path: Path, text: str | bytes) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(fault).removeprefix(f"{file}:") for fault in load(file, "EUR").faults]


GOOD = """\
id: good
name: Good
version: 1
trigger: {kinds: [search]}
arms:
  - id: ship
    kind: free_shipping
policy: {kind: threshold, probability: 0.5, arm: ship}
valid_for: 1d
"""


def test_every_complaint_names_its_line_and_column(tmp_path: Path) -> None:
    text = GOOD.replace("version: 1", "versoin: 1").replace("    kind: free_shipping", "    kind: free\n    percent: 3")
    text = text.replace("probability: 0.5", "probability: 5")
    assert faults(tmp_path, text) == [
        "1:1: the field 'version' is missing",
        "3:1: versoin: unknown field; did you mean 'version'?",
        "7:5: arms[0].kind: 'free' is not one of percent, amount, coupon, free_shipping, gift, action",
        "9:27: policy.probability: must be at most 1, this is 5",
    ]


def test_several_documents_in_a_file(tmp_path: Path) -> None:
    assert faults(tmp_path, GOOD + "---\n" + GOOD.replace("good", "better")) == []
    (fault,) = faults(tmp_path, GOOD + "---\n" + GOOD.replace("valid_for: 1d", "valid_for: 1"))
    assert fault.startswith("19:1: valid_for: must be text, this is the number 1")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1:1: the file holds no campaign"),
        ("# nothing\n", "1:1: the file holds no campaign"),
        ("- a\n", "1:1: a campaign is a mapping of fields, this is a list"),
        ("a: [1, 2\n", "2:1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c\n", "1:5: not YAML: mapping values are not allowed here"),
        ("a: \tb\n\tc: d\n", "1:4: not YAML: found character '\\t' that cannot start any token"),
        (GOOD.replace("version: 1", "version: 1\nversion: 2"), "4:1: version: this field is given twice"),
        (GOOD.replace("version: 1", "version: !evil 1"), "3:1: version: the tag !evil is not supported"),
        (GOOD.replace("name: Good", "name: &x Good"), "2:7: not YAML: anchors and aliases are not supported"),
        (GOOD.replace("name: Good", "name: no"), None),
        (GOOD.replace("name: Good", "name: 2026-01-01"), None),
        (GOOD.replace("name: Good", "name: on"), None),
        (GOOD.replace("version: 1", "version: 010"), "3:1: version: must be a whole number, this is the text '010'"),
        (GOOD.replace("version: 1", "version: 0x10"), "3:1: version: must be a whole number, this is the text '0x10'"),
        (GOOD.replace("0.5", "5e-1"), None),
        (GOOD.replace("0.5", ".nan"), "8:27: policy.probability: must be a number, this is the text '.nan'"),
        (GOOD.replace("0.5", "1e999"), "8:27: policy.probability: must be at most 1, this is inf"),
        (GOOD.replace("kinds: [search]", "kinds: "), "4:11: trigger.kinds: must be a list, this is empty"),
        (b"id: \xff\xfe\n", "1:1: not YAML in UTF-8: invalid start byte"),
        (b"id: good\nname: \x00\n", "2:1: not YAML in UTF-8: special characters are not allowed"),
        ("[" * 5000, "1:1: nested too deeply"),
        ("#" * (FILE_BYTES_MAX + 1), "1:1: a campaign file has at most 1048576 bytes, this has 1048577"),
    ],
)  # fmt: skip
def test_files_that_are_odd(tmp_path: Path, text: str | bytes, fault: str | None) -> None:
    assert faults(tmp_path, text) == ([fault] if fault else [])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = GOOD.encode()
    start = data.draw(st.integers(0, len(text)))
    junk = data.draw(
        st.binary(max_size=8) | st.text(alphabet="{}[]:-#&*!|>'\"%@`, \n\t0aé", max_size=8).map(str.encode)
    )
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text[:start] + junk + text[start + data.draw(st.integers(0, 8)) :])
    loaded = load(file)
    assert loaded.faults or loaded.documents
    for document in loaded.documents:
        assert validate(document) == []


def test_the_examples_are_valid() -> None:
    files = sorted((ROOT / "stream" / "campaigns" / "ready").glob("*.yaml"))
    documents = []
    for file in files:
        loaded = load(file, "EUR")
        assert loaded.faults == []
        documents += loaded.documents
    assert {document["policy"]["kind"] for document in documents} == {
        *("threshold", "frequency", "linear", "segment", "calendar", "profit")
    }
    _, refused = compile_campaigns({document["id"]: json.dumps(document).encode() for document in documents})
    assert refused == []


PERCENT = {"id": "ten", "kind": "percent", "percent": 10, "max_discount_minor": 900}
MONEY = {
    "id": "money",
    "name": "Money",
    "version": 1,
    "trigger": {"kinds": ["cart_add"]},
    "from": "2026-01-01",
    "until": "2026-02-01",
    "arms": [PERCENT],
    "policy": {"kind": "profit"},
    "valid_for": "1h",
    "currency": "EUR",
    "margin_rate": 0.3,
    "budget": {"total_minor": 10_000},
}


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"until": "2025-12-31"}, "until", "must be after `from`"),
        ({"until": None}, "", "the field 'until' is missing: a budget that is spread evenly"),
        ({"currency": None}, "", "the field 'currency' is missing"),
        ({"arms": [{**PERCENT, "max_discount_minor": 10_001}]}, "arms[0].max_discount_minor", "more than the whole"),
        ({"arms": [{"id": "ten", "kind": "percent", "percent": 10}]}, "arms[0]", "needs max_discount_minor"),
        ({"arms": [PERCENT, {"id": "ship", "kind": "free_shipping"}]}, "arms[1]", "needs cost_minor"),
        (
            {
                "arms": [{"id": "five", "kind": "coupon", "value_minor": 2**32, "min_spend_minor": 2**35}],
                "budget": {"total_minor": 2**33},
            },
            "arms[0].value_minor",
            "must be at most 4294967295",
        ),
        ({"margin_floor": 0.25}, "arms[0].percent", "6.67% off is the most"),  # (0.3 - 0.25) / (1 - 0.25)
        (
            {"margin_floor": 0.1, "arms": [{"id": "five", "kind": "coupon", "value_minor": 500}]},
            "arms[0]",
            "needs value_minor and min_spend_minor under a margin floor",
        ),
        (
            {
                "margin_floor": 0.1,
                "arms": [{"id": "t", "kind": "amount", "tiers": [{"min_spend_minor": 1000, "off_minor": 230}]}],
            },
            "arms[0].tiers",
            "22.22% off is the most",  # (0.3 - 0.1) / (1 - 0.1)
        ),
    ],
)
def test_one_mistake_with_money(change: dict[str, Any], where: str, message: str) -> None:
    assert validate(MONEY, "EUR") == []
    document = {name: value for name, value in {**MONEY, **change}.items() if value is not None}
    problems = validate(document, "EUR")
    assert [(show_path(p.path), message in p.message) for p in problems] == [(where, True)], problems


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"trigger": {"silent_for": "400d"}}, "trigger.silent_for", "must be at most 366d"),
        ({"trigger": {"silent_for": "30d", "repeat_every": "1 month"}}, "trigger.repeat_every", "must be a duration"),
        ({"policy": {"kind": "threshold", "probability": 0.5, "arm": "ten"}}, "policy.kind", "threshold needs a score"),
        ({"policy": LINEAR}, "policy.kind", "linear needs a score"),
        ({"eligibility": {"categories": ["c1"]}}, "eligibility.categories", "here none comes"),
    ],
)
def test_silence_has_no_score_and_no_product(changes: dict[str, Any], where: str, message: str) -> None:
    silent = {
        "id": "silent", "name": "Silent", "version": 1, "trigger": {"silent_for": "30d", "repeat_every": "30d"},
        "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
        "policy": {"kind": "segment", "arms": {"dormant": "ten"}}, "valid_for": "24h",
    }  # fmt: skip
    assert validate(silent) == []
    assert (where, True) in [(show_path(p.path), message in p.message) for p in validate(silent | changes)]
