"""`python -m stream export`: all that is kept about a user, as JSON.

From the topics themselves, so no worker is asked: the row as the changelog has it, by the names of its fields, and each
record under the user's key in every topic that is keyed by user. Ids of products, sessions and events are kept as
hashes in a row, and come as such.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import click
import numpy as np

from stream.core.events import CONSENT_NO, CONSENT_YES, SOURCES, TIERS, Kind
from stream.core.features import FEATURES
from stream.core.row import N_STEPS, ROW, WINDOWS, unpack
from stream.kafka.admin import PLANS, settings_from, settings_options
from stream.kafka.codec import KEY_BYTES_MAX
from stream.kafka.partitioner import partitions
from stream.kafka.topics import Record, Topics
from stream.settings import Settings

_KINDS = tuple(kind.name.lower() for kind in Kind)
_HASHES = ("session", "recent_ids", "recent_products", "category", "brand", "open_offer", "open_campaign", "model")
_CONSENT = {CONSENT_NO: False, CONSENT_YES: True}


def export(settings: Settings, user: str) -> dict[str, Any]:
    """All that is kept about a user.

    All partitions are read, since a record in a wrong one is kept too.

    Returns:
        JSON: `user_id`, `partition`, `row` (None where there is none), and `topics`: records by name of the topic.

    Raises:
        SetupError: no broker answers, or a topic is missing.
    """
    key = user.encode()
    names = [settings.topic(name) for name, plan in PLANS.items() if plan.keyed_by_user]
    with Topics(settings.bootstrap) as topics:
        counts = topics.partitions([*names, settings.changelog])
        home = int(partitions([key], counts[settings.changelog])[0])
        packed: bytes | None = None
        for record in _of_user(topics, [(settings.changelog, home)], key):
            packed = record.value
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for record in _of_user(topics, topics.places(names), key):
            found[record.topic].append(_as_json(record))
    row = None if packed is None else row_as_json(unpack([packed])[0])
    return {"user_id": user, "partition": home, "row": row, "topics": found}


def _of_user(topics: Topics, places: Iterable[tuple[str, int]], key: bytes) -> Iterator[Record]:
    for _, records in topics.read(places):
        yield from (record for record in records if record.key == key)


def _as_json(record: Record) -> dict[str, Any]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "published": datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat(),
        "headers": {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers},
        **_value(record.value),
    }


def _value(value: bytes | None) -> dict[str, Any]:
    """As JSON where it is, else its bytes: nothing is left out."""
    try:
        return {"value": None if value is None else json.loads(value)}
    except (ValueError, RecursionError):
        return {"value_base64": base64.b64encode(value or b"").decode()}


def row_as_json(row: np.void) -> dict[str, Any]:
    """A row by the names of its fields (docs/row.md); rings from the oldest to the newest, hashes in hexadecimal."""
    return {name: _field(row, name) for name in ROW.names or ()}


def _field(row: np.void, name: str) -> Any:  # noqa: ANN401, PLR0911 a field's own form
    value = row[name]
    if name in _HASHES:
        return f"{int(value):x}" if value.ndim == 0 else [f"{n:x}" for n in value.tolist()]
    if name == "fence":
        return dict(zip(SOURCES, value.tolist(), strict=False))
    if name in ("kind_total", "kind_last_ms"):
        return dict(zip(_KINDS, value.tolist(), strict=True))
    if name in (f"count_{window}" for window in WINDOWS):
        return dict(zip(_KINDS, value.T.tolist(), strict=False))  # tiles in the order of the ring
    if name == "steps":
        held, at = int(row["step_count"]), int(row["step_pos"])
        places = [(at - held + i) % N_STEPS for i in range(held)]
        names = [feature.name for feature in FEATURES]
        return [dict(zip(names, value[place].tolist(), strict=True)) for place in places]
    if name == "tier":
        return TIERS[int(value)] or None
    if name == "consent":
        return _CONSENT.get(int(value))
    if name == "objection":
        return bool(value)
    if name == "birthday":
        return f"{int(value) >> 5:02}-{int(value) & 31:02}" if value else None
    return value.tolist()


@click.command(
    "export",
    epilog="""\b
Examples:
  python -m stream export user-17 > user-17.json
  python -m stream export user-17 | jq .row.spend_minor
""",
)
@click.argument("user")
@settings_options
def export_command(user: str, bootstrap: str | None, topic_prefix: str | None) -> None:
    """All that is kept about a user, as JSON: the row by the names of its fields, and the user's records in all topics.

    Reads the topics from their beginnings; what was committed within the last moments may not be in it. What retention
    or an erasure has removed is not there.
    """
    if not 0 < len(user.encode()) <= KEY_BYTES_MAX:
        raise click.UsageError(f"a user id has 1 to {KEY_BYTES_MAX} bytes")
    settings = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
    click.echo(json.dumps(export(settings, user), ensure_ascii=False, indent=2))
