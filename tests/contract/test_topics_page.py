"""docs/topics.md says everything that the contract has."""

import json
import re
from pathlib import Path

import pytest

from stream.kafka.admin import PLANS
from stream.kafka.codec import SOURCE_VALUES, DeadReason

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "topics.md").read_text()
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE))


def test_every_topic_with_what_it_keeps() -> None:
    for name, plan in PLANS.items():
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        days = int(plan.config.get("retention.ms", "0")) // 86_400_000
        assert line.endswith(f"| {days} days |" if days else "| latest of each key |")


@pytest.mark.parametrize("source", [*SOURCE_VALUES, "identities", "erasures", "budgets"])
def test_every_field_and_kind_of_what_producers_write(source: str) -> None:
    schema = json.loads((ROOT / "schemas" / f"{source}.json").read_text())
    fields = set(schema["properties"]) | set(schema.get("$defs", {}).get("line", {}).get("properties", {}))
    assert fields - NAMED == set()
    assert set(schema["properties"].get("kind", {}).get("enum", ())) - NAMED == set()


def test_every_reason_in_the_order_of_the_code() -> None:
    listed = re.findall(r"^\| `([a-z_0-9]+)` \|", PAGE.partition("## Dead letters")[2], re.MULTILINE)
    assert [reason for reason in listed if reason in set(DeadReason)] == list(DeadReason)
