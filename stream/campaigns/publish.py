"""What `apply`, `pause` and `resume` do to the records of the `campaigns` topic, worked out before anything is sent."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stream.campaigns.control import Shop, compile_campaigns, document_of, parse_record
from stream.campaigns.problems import Problem, suggest

Record = dict[str, Any]


class ChangeError(ValueError):
    """A change that must not be made; the message says why."""


class Change(NamedTuple):
    """One record to write."""

    id: str
    what: str
    """For people: what is new."""
    value: bytes | None
    """To send; None where the record stays as it is."""


def plan_apply(
    documents: Sequence[Mapping[str, Any]], records: Mapping[str, bytes], shop: Shop, now_ms: int
) -> tuple[list[Change], list[tuple[str, Problem]]]:
    """What applying documents does.

    A version names a content for ever, since decisions and offers refer to it: other content needs a higher version.
    What was learned raises the record's, not the document's. A campaign that was paused by command stays paused.

    Args:
        documents: valid ones.
        records: the topic's, by id.
        shop: what workers compile for.
        now_ms: written into the records as `published_ms`.

    Returns:
        (changes, refusals by id): nothing must be sent if there are any.
    """
    changes: list[Change] = []
    refusals: list[tuple[str, Problem]] = []
    seen: set[str] = set()
    for document in documents:
        id_ = document["id"]
        if id_ in seen:
            refusals.append((id_, Problem(("id",), f"{id_!r} is given twice")))
            continue
        seen.add(id_)
        before = _record_or_empty(records.get(id_))
        problem = _version_problem(document, _as_written(before))
        if problem is not None:
            refusals.append((id_, problem))
            continue
        changes.append(_change(document, before, now_ms))
    after = dict(records) | {change.id: change.value for change in changes if change.value is not None}
    _, refused = compile_campaigns(after, shop)
    refusals += [(refusal.id, Problem((), refusal.message)) for refusal in refused if refusal.id in seen]
    return changes, refusals


def _record_or_empty(value: bytes | None) -> Record:
    """A record's fields; what cannot be read is as good as not there, and may be written over."""
    if value is None:
        return {}
    try:
        return parse_record(value)
    except ValueError:
        return {}


def _as_written(record: Record) -> Record:
    """The document in a record, with the version of its file: `learn` raises the record's above it."""
    return document_of(record) | {"version": record.get("document_version", record.get("version"))}


def _content(document: Mapping[str, Any]) -> Record:
    """What a version stands for: all but the state, which is switched without one."""
    return {name: value for name, value in document.items() if name != "state"}


def _raised(document: Mapping[str, Any], before: Record) -> Record:
    """The record's version, above all that named other content, and the document's, where learning parted them."""
    written, published = before.get("document_version"), before.get("version")
    if not isinstance(written, int) or not isinstance(published, int):
        return {}
    version = max(document["version"], published + (document["version"] > written))
    return {} if version == document["version"] else {"version": version, "document_version": document["version"]}


def _version_problem(document: Mapping[str, Any], before: Mapping[str, Any]) -> Problem | None:
    published = before.get("version")
    if not isinstance(published, int):
        return None
    if document["version"] < published:
        return Problem(("version",), f"version {published} is published already, this is {document['version']}")
    if document["version"] == published and _content(document) != _content(before):
        text = f"version {published} is published with other content; a change needs version {published + 1}"
        return Problem(("version",), text)
    return None


def _change(document: Mapping[str, Any], before: Record, now_ms: int) -> Change:
    id_, state = document["id"], document.get("state", "active")
    paused_by_command = "resume_state" in before
    new: Record = dict(document) | _raised(document, before)
    version = new["version"]
    if "learned" in before:
        new["learned"] = before["learned"]
    if paused_by_command:
        new |= {"state": "paused", "resume_state": state}
    if {**new, "published_ms": None} == {**before, "published_ms": None}:
        return Change(id_, f"version {version}, unchanged", None)
    what = f"version {version}, {state}"
    if paused_by_command:
        what = f"version {version}, stays paused until `campaigns resume {id_}`"
    return Change(id_, what, encode({**new, "published_ms": now_ms}))


def pause(id_: str, records: Mapping[str, bytes], now_ms: int) -> Change:
    """Pause a campaign; `resume` puts it back into the state that it had.

    Raises:
        ChangeError: there is none of that id, or its record cannot be read.
    """
    record = read_record(id_, records)
    state = record.get("state", "active")
    if "resume_state" in record:
        return Change(id_, "is paused already", None)
    return Change(id_, "paused", encode({**record, "state": "paused", "resume_state": state, "published_ms": now_ms}))


def resume(id_: str, records: Mapping[str, bytes], now_ms: int) -> Change:
    """Take back `pause`.

    Raises:
        ChangeError: as `pause`; or its document says that it is paused.
    """
    record = read_record(id_, records)
    if "resume_state" not in record:
        if record.get("state", "active") == "paused":
            raise ChangeError(f"{id_} is paused by its document; apply one whose state is active")
        return Change(id_, f"is {record.get('state', 'active')} already", None)
    state = record.pop("resume_state")
    return Change(id_, state, encode({**record, "state": state, "published_ms": now_ms}))


def learn(id_: str, records: Mapping[str, bytes], learned: Mapping[str, object], now_ms: int) -> Change:
    """Publish what was learned of how users respond, with the campaign, whose document stays as it is.

    It decides otherwise from then on, so the record's version is raised by 1; the document's own is kept beside it.

    Args:
        id_: of the campaign.
        records: the topic's, by id.
        learned: `stream.core.response.to_document`.
        now_ms: written into the record as `published_ms`.

    Raises:
        ChangeError: as `pause`.
    """
    record = read_record(id_, records)
    version = record["version"] + 1
    versions = {"version": version, "document_version": record.get("document_version", record["version"])}
    return Change(
        id_, f"version {version}, learned", encode({**record, **versions, "learned": learned, "published_ms": now_ms})
    )


def read_record(id_: str, records: Mapping[str, bytes]) -> Record:
    """A campaign's record.

    Raises:
        ChangeError: there is none of that id, or its record cannot be read.
    """
    if id_ not in records:
        raise ChangeError(f"there is no campaign {id_!r}{suggest(id_, records)}")
    try:
        return parse_record(records[id_])
    except ValueError as error:
        raise ChangeError(f"the record of {id_!r} cannot be read ({error}); apply or delete it") from error


def encode(record: Record) -> bytes:
    """A record's value."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
