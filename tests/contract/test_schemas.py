"""The JSON Schemas say what the code accepts and sends, no more and no less."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiokafka.structs import ConsumerRecord
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from stream.campaigns.control import RECORD_FIELDS, Shop
from stream.campaigns.files import load
from stream.campaigns.publish import plan_apply
from stream.kafka import codec
from stream.kafka.admin import PLANS
from stream.kafka.decode import decode

ROOT = Path(__file__).resolve().parents[2]
Schema = dict[str, Any]
SCHEMAS: dict[str, Schema] = {path.stem: json.loads(path.read_text()) for path in (ROOT / "schemas").glob("*.json")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
TOPICS = sorted(PLANS)
STRUCTS: dict[str, type[msgspec.Struct]] = {
    **codec.SOURCE_VALUES,
    "identities": codec.Identity,
    "merges": codec.Merge,
    "erasures": codec.Erasure,
    "budgets": codec.BudgetMove,
    "models": codec.Champion,
}
NOW_MS = 1_763_700_000_000

patient = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def validator(topic: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[topic], registry=REGISTRY)


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_topic_has_a_schema_and_every_schema_a_topic() -> None:
    assert set(SCHEMAS) == {*TOPICS, "campaign-document"}


@pytest.mark.parametrize("topic", TOPICS)
def test_schemas_are_schemas_with_valid_examples(topic: str) -> None:
    schema = SCHEMAS[topic]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(f"/{topic}.json")
    assert schema["examples"]
    for example in schema["examples"]:
        validator(topic).validate(example)


def properties(schema: Schema, path: str = "$") -> dict[str, Schema]:
    """Every property of a schema, by path, those of its $defs and arrays too."""
    found = {}
    for name, inner in schema.get("properties", {}).items():
        found[f"{path}.{name}"] = inner
        found |= properties(inner, f"{path}.{name}")
    if "items" in schema:
        found |= properties(schema["items"], f"{path}[]")
    for name, inner in schema.get("$defs", {}).items():
        found |= properties(inner, f"#{name}")
    return found


@pytest.mark.parametrize("topic", TOPICS)
def test_every_field_is_described_with_its_unit(topic: str) -> None:
    assert SCHEMAS[topic]["description"]
    units = {"_ms": "milliseconds", "_minor": "minor units"}
    for path, field in properties(SCHEMAS[topic]).items():
        if set(field) == {"$ref"}:
            continue
        assert field["description"], path
        for suffix, unit in units.items():
            if path.endswith(suffix):
                assert unit in field["description"].lower(), path


def test_no_field_can_hold_a_person() -> None:
    forbidden = {"name", "first_name", "last_name", "email", "e_mail", "phone", "address", "street", "ip"}
    for topic in STRUCTS:
        assert not {path.rpartition(".")[2] for path in properties(SCHEMAS[topic])} & forbidden


# --- structs and schemas agree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", STRUCTS)
def test_fields_and_what_is_required_are_the_same(topic: str) -> None:
    struct, schema = STRUCTS[topic], SCHEMAS[topic]
    assert set(struct.__struct_fields__) == set(schema["properties"])
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    assert required == set(schema["required"])


def test_lines_of_orders_too() -> None:
    line = SCHEMAS["orders"]["$defs"]["line"]
    assert set(codec.OrderLine.__struct_fields__) == set(line["properties"])
    assert {f.name for f in msgspec.structs.fields(codec.OrderLine) if f.required} == set(line["required"])


def accepts(topic: str) -> Callable[[Any], bool]:
    """Whether the code takes a document: the whole of `decode` for sources, else the struct."""
    if topic not in codec.SOURCE_VALUES:
        decoder = msgspec.json.Decoder(STRUCTS[topic])

        def reads(document: Any) -> bool:
            try:
                decoder.decode(json.dumps(document))
            except msgspec.ValidationError:
                return False
            return True

        return reads

    def decodes(document: Any) -> bool:
        user = document.get("user_id") if isinstance(document, dict) else None
        key = user.encode() if isinstance(user, str) else b"u"
        record = ConsumerRecord(topic, 0, 0, NOW_MS, 0, key, json.dumps(document).encode(), 0, 0, 0, ())
        decoded = decode(topic, [record], 0, 1, "EUR", topic)
        return len(decoded.events) == 1

    return decodes


ascii_text = st.text(st.characters(codec="ascii"), max_size=20)


def instances(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    """Documents of a schema, as far as ours go: no more keywords than they use."""
    if "$ref" in schema:
        return instances(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of([_of_type(type_, schema, root) for type_ in types])


def _of_type(type_: str, schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    if type_ == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if type_ == "string" and "pattern" in schema:
        return st.from_regex(re.compile(schema["pattern"].replace("$", r"\Z")), fullmatch=True)
    if type_ == "string":
        alphabet = st.characters(codec="ascii")
        return st.text(alphabet, min_size=schema.get("minLength", 0), max_size=min(schema["maxLength"], 200))
    if type_ == "array":
        return st.lists(instances(schema["items"], root), max_size=min(schema["maxItems"], 20))
    if type_ == "object":
        every = {name: instances(inner, root) for name, inner in schema["properties"].items()}
        required = {name: every[name] for name in schema["required"]}
        return st.fixed_dictionaries(required, optional={n: s for n, s in every.items() if n not in required})
    return {"null": st.none(), "boolean": st.booleans()}[type_]


@st.composite
def documents(draw: st.DrawFn, topic: str) -> Schema:
    """Documents of the schema, but for rules across fields."""
    document: Schema = draw(instances(SCHEMAS[topic], SCHEMAS[topic]))
    return document


EDGES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, 1, -1, 5, 6, 10**6 + 1, 10**12, 10**12 + 1, 2**31, 2**32, 2**63, 2**64, NOW_MS, 946_684_799_999]
    ),
    st.floats().filter(lambda x: not x.is_integer() and abs(x) < 1e300),  # 1.0 is another test's
    ascii_text,
    st.sampled_from(
        ["", "x" * 128, "x" * 129, "x" * 64, "x" * 65, "x" * 8193, "rating", "02-30", "EUR", "eur", "EURO"]
    ),
    st.lists(ascii_text, max_size=18),
    st.lists(
        st.dictionaries(st.sampled_from(["product_id", "quantity", "unit_price_minor"]), st.integers(), max_size=3)
    ),
    st.dictionaries(ascii_text, st.integers(), max_size=2),
)


def depends_on_the_record(document: Any) -> bool:
    """What a schema cannot know: the reporting currency and the record's timestamp."""
    if not isinstance(document, dict):
        return False
    currency, time_ms = document.get("currency"), document.get("time_ms")
    is_other_currency = isinstance(currency, str) and currency != "EUR" and len(currency) == 3 and currency.isupper()
    return is_other_currency or (type(time_ms) is int and NOW_MS + 3_600_000 < time_ms <= codec.TIME_MAX_MS)


@pytest.mark.parametrize("topic", STRUCTS)
@given(data=st.data())
@patient
def test_code_and_schema_take_the_same_documents(topic: str, data: st.DataObject) -> None:
    document = data.draw(documents(topic))
    if "currency" in document and topic != "budgets":
        document["currency"] = "EUR"
    if "time_ms" in document:
        document["time_ms"] = data.draw(st.integers(946_684_800_000, NOW_MS + 3_600_000))
    assert accepts(topic)(document) == validator(topic).is_valid(document)
    # And any step away from it.
    names = st.sampled_from([*SCHEMAS[topic]["properties"], "unknown_field"])
    for name in data.draw(st.lists(names, min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            document[name] = data.draw(EDGES)
        else:
            document.pop(name, None)
    assume(topic not in codec.SOURCE_VALUES or not depends_on_the_record(document))
    assert accepts(topic)(document) == validator(topic).is_valid(document)


@pytest.mark.parametrize("topic", STRUCTS)
def test_bounds_are_the_same_to_the_last_unit(topic: str) -> None:
    """At each bound and one beyond it, for every bounded field of the topic's examples."""
    tried = 0
    for example in SCHEMAS[topic]["examples"]:
        for name, field in SCHEMAS[topic]["properties"].items():
            edges = [field[k] + d for k in ("minimum", "maximum") if k in field for d in (-1, 0, 1)]
            edges += [
                "x" * (field[k] + d)
                for k in ("minLength", "maxLength")
                if k in field
                for d in (-1, 0, 1)
                if field[k] + d >= 0
            ]
            for edge in edges:
                document = example | {name: edge}
                if depends_on_the_record(document):
                    continue
                tried += 1
                assert accepts(topic)(document) == validator(topic).is_valid(document), (name, edge)
    assert tried


def test_integers_are_written_without_a_fraction() -> None:
    """The one place where the code is stricter: JSON Schema takes 1.0 for an integer. docs/topics.md says so."""
    example = SCHEMAS["clickstream"]["examples"][0] | {"price_minor": 1999.0}
    assert validator("clickstream").is_valid(example)
    assert not accepts("clickstream")(example)


@pytest.mark.parametrize("topic", STRUCTS)
def test_what_our_producers_encode_is_valid(topic: str) -> None:
    for example in SCHEMAS[topic]["examples"]:
        struct = msgspec.convert(example, STRUCTS[topic])
        written = json.loads(msgspec.json.encode(struct))
        validator(topic).validate(written)
        defaults = {name for name, value in example.items() if value in (None, False, "profile")}
        assert {n: v for n, v in example.items() if n not in defaults} == {
            n: v for n, v in written.items() if n not in defaults
        }


# --- campaigns --------------------------------------------------------------------------------------------------------


def test_campaign_records_are_documents_and_what_publishing_adds() -> None:
    record, document = SCHEMAS["campaigns"], SCHEMAS["campaign-document"]
    assert set(record["properties"]) == {*document["properties"], *RECORD_FIELDS}
    assert set(record["required"]) == {*document["required"], "published_ms"}
    assert record["additionalProperties"] is document["additionalProperties"] is False


def test_what_the_command_line_publishes_is_valid() -> None:
    paths = sorted((ROOT / "stream" / "campaigns" / "ready").glob("*.yaml"))
    assert paths
    documents_ = [document for path in paths for document in load(path).documents]
    changes, refusals = plan_apply(documents_, {}, Shop("UTC", "EUR"), NOW_MS)
    assert not refusals
    for change in changes:
        assert change.value is not None
        validator("campaigns").validate(json.loads(change.value))


# --- AsyncAPI ---------------------------------------------------------------------------------------------------------

ASYNCAPI: Schema = yaml.safe_load((ROOT / "schemas" / "asyncapi.yaml").read_text())


def test_asyncapi_has_every_topic_with_its_schema_and_cleanup() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    channels = {channel["address"]: channel for channel in ASYNCAPI["channels"].values()}
    assert set(channels) == set(PLANS)
    for topic, channel in channels.items():
        (name,) = channel["messages"]
        message = ASYNCAPI["components"]["messages"][name]
        described = message["headers"] if topic == "dead-letters" else message["payload"]
        refs = [described["schema"], *described["schema"].get("oneOf", [])]
        assert {"$ref": f"./{topic}.json"} in refs
        policies = channel["bindings"]["kafka"]["topicConfiguration"]["cleanup.policy"]
        assert policies == [PLANS[topic].config["cleanup.policy"]]


def test_asyncapi_says_who_writes() -> None:
    actions: dict[str, set[str]] = {}
    for operation in ASYNCAPI["operations"].values():
        actions.setdefault(operation["channel"]["$ref"].removeprefix("#/channels/"), set()).add(operation["action"])
    assert set(actions) == set(ASYNCAPI["channels"])
    assert {name for name, some in actions.items() if "send" in some} == {
        "offers",
        "decisions",
        "deadLetters",
        "budgets",
        "merges",
    }


def test_asyncapi_references_resolve() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                reference = node["$ref"]
                if reference.startswith("./"):
                    assert (ROOT / "schemas" / reference).is_file(), reference
                else:
                    target: Any = ASYNCAPI
                    for part in reference.removeprefix("#/").split("/"):
                        target = target[part]
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(ASYNCAPI)
