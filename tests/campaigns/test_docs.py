"""docs/campaigns.md has every field, kind, policy, reason and command that exists, and no other."""

import re
from pathlib import Path

from stream.campaigns.cli import campaigns
from stream.campaigns.schema import TRIGGER_KINDS, document_schema
from stream.core.decide import Reason
from stream.core.facts import FACTS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "campaigns.md").read_text()


def rows(begin: str, end: str) -> list[list[str]]:
    """Cells of the table rows between two texts, heads left out."""
    part = TEXT.split(begin)[1].split(end)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line][1:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)`", cell)


def test_facts() -> None:
    table = rows("<!-- facts: begin -->", "<!-- facts: end -->")
    assert [name for row in table for name in names(row[0])] == list(FACTS)
    for cell, unit, meaning in table:
        for name in names(cell):
            fact = FACTS[name]
            assert fact.unit == unit
            assert meaning.replace("`", "").split(" in the last ")[0] == fact.meaning.split(" in the last ")[0]


def test_kinds() -> None:
    assert [names(row[0])[0] for row in rows("<!-- kinds: begin -->", "<!-- kinds: end -->")] == list(TRIGGER_KINDS)


def test_reasons() -> None:
    table = rows("## How a decision is made", "**Propensity**")
    assert {names(row[0])[0] for row in table} == {reason.name.lower() for reason in Reason}


def test_fields() -> None:
    schema = document_schema()
    documented = {name for row in rows("## Fields", "Durations are") for name in names(row[0])}
    assert documented == set(schema["properties"])
    required = {names(row[0])[0] for row in rows("## Fields", "Durations are") if row[1] == "required"}
    assert required == set(schema["required"])


def test_arms_and_policies() -> None:
    for title, end, schema in (
        ("### Arms", "### Policies", document_schema()["properties"]["arms"]["items"]),
        ("### Policies", "P is the model's", document_schema()["properties"]["policy"]),
    ):
        table = {names(row[0])[0]: set(names(row[1])) for row in rows(title, end)}
        for branch in schema["allOf"]:
            fields = branch["then"]["properties"]
            kind = fields["kind"]["const"]
            assert set(fields) - {"id", "kind"} <= table.pop(kind), kind
        assert table == {}


def test_commands() -> None:
    for name in campaigns.commands:
        assert re.search(rf"campaigns {name}\b|{name}, delete|and resume", TEXT), name
