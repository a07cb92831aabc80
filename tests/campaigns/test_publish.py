"""What apply, pause and resume write."""

import json
from typing import Any

import pytest

from stream.campaigns.control import Shop, compile_campaigns
from stream.campaigns.learn import fit
from stream.campaigns.publish import ChangeError, learn, pause, plan_apply, resume
from stream.core.response import to_document
from tests.campaigns.test_learn import FEATURES, world

SHOP = Shop("UTC", "EUR")
LEARNED = to_document(fit(FEATURES, (), world(500, 5)[0], 1))
THEN_MS, NOW_MS = 1_790_000_000_000, 1_790_000_100_000


def document(**fields: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "name": "C",
        "version": 3,
        "trigger": {"kinds": ["search"]},
        "arms": [{"id": "ship", "kind": "free_shipping"}],
        "policy": {"kind": "threshold", "probability": 0.5, "arm": "ship"},
        "valid_for": "24h",
    } | fields


def apply(
    records: dict[str, bytes], *documents: dict[str, Any], now_ms: int = NOW_MS
) -> tuple[dict[str, bytes], list[str]]:
    """(records afterwards, what was said)."""
    changes, refusals = plan_apply(documents, records, SHOP, now_ms)
    if refusals:
        return records, [f"{id_}: {problem}" for id_, problem in refusals]
    written = {change.id: change.value for change in changes if change.value is not None}
    return records | written, [f"{change.id}: {change.what}" for change in changes]


@pytest.fixture
def records() -> dict[str, bytes]:
    return apply({}, document(), now_ms=THEN_MS)[0]


def test_a_new_one_is_the_document_and_the_time(records: dict[str, bytes]) -> None:
    assert json.loads(records["c"]) == document() | {"published_ms": THEN_MS}
    assert apply({}, document())[1] == ["c: version 3, active"]


def test_the_same_again_writes_nothing(records: dict[str, bytes]) -> None:
    assert apply(records, document()) == (records, ["c: version 3, unchanged"])


def test_other_content_needs_a_higher_version(records: dict[str, bytes]) -> None:
    text = "c: version: version 3 is published with other content; a change needs version 4"
    assert apply(records, document(name="D")) == (records, [text])
    text = "c: version: version 3 is published already, this is 2"
    assert apply(records, document(version=2)) == (records, [text])
    after, said = apply(records, document(name="D", version=4))
    assert (json.loads(after["c"])["name"], said) == ("D", ["c: version 4, active"])


def test_the_state_is_switched_without_a_version(records: dict[str, bytes]) -> None:
    after, said = apply(records, document(state="dry_run"))
    assert (json.loads(after["c"])["state"], said) == ("dry_run", ["c: version 3, dry_run"])


@pytest.mark.parametrize("state", ["active", "dry_run"])
def test_pause_and_resume_come_back_to_the_same_state(state: str) -> None:
    records = apply({}, document(state=state), now_ms=THEN_MS)[0]
    change = pause("c", records, NOW_MS)
    assert change.value is not None
    paused = {"c": change.value}
    assert compile_campaigns(paused, SHOP)[0].campaigns[0].paused
    assert pause("c", paused, NOW_MS).value is None
    back = resume("c", paused, NOW_MS)
    assert back.value is not None
    assert json.loads(back.value) == document(state=state) | {"published_ms": NOW_MS}
    assert resume("c", {"c": back.value}, NOW_MS).value is None


def test_apply_does_not_wake_what_was_paused_by_command(records: dict[str, bytes]) -> None:
    paused = {"c": pause("c", records, NOW_MS).value or b""}
    assert apply(paused, document())[1] == ["c: version 3, unchanged"]
    after, said = apply(paused, document(version=4, name="D", state="dry_run"))
    assert said == ["c: version 4, stays paused until `campaigns resume c`"]
    assert compile_campaigns(after, SHOP)[0].campaigns[0].paused
    resumed = json.loads(resume("c", after, NOW_MS).value or b"")
    assert (resumed["state"], resumed["version"]) == ("dry_run", 4)


def test_what_was_learned_has_a_version_of_its_own(records: dict[str, bytes]) -> None:
    """A version names one content for ever; the file keeps its own, and is applied as ever."""

    def published(records: dict[str, bytes]) -> tuple[int, int | None]:
        record = json.loads(records["c"])
        return record["version"], record.get("document_version")

    for version in (4, 5):
        change = learn("c", records, LEARNED | {"offset": version / 100}, NOW_MS)
        assert change.what == f"version {version}, learned"
        assert change.value is not None
        records = {"c": change.value}
        assert published(records) == (version, 3)
    assert apply(records, document()) == (records, ["c: version 5, unchanged"])
    paused = {"c": pause("c", records, NOW_MS).value or b""}
    assert published(paused) == (5, 3)
    text = "c: version: version 3 is published with other content; a change needs version 4"
    assert apply(records, document(name="D")) == (records, [text])
    text = "c: version: version 3 is published already, this is 2"
    assert apply(records, document(version=2)) == (records, [text])

    # A version of the file below the record's names something new all the same; one above it is taken as it is.
    changed, said = apply(records, document(name="D", version=4))
    assert (published(changed), said) == ((6, 4), ["c: version 6, active"])
    assert json.loads(changed["c"])["learned"]["offset"] == 0.05
    changed, said = apply(records, document(name="D", version=9))
    assert (published(changed), said) == ((9, None), ["c: version 9, active"])
    assert compile_campaigns(changed, SHOP)[0].campaigns[0].version == 9


def test_what_is_not_there_or_cannot_be_read(records: dict[str, bytes]) -> None:
    with pytest.raises(ChangeError, match=r"there is no campaign 'x'$"):
        pause("x", records, NOW_MS)
    with pytest.raises(ChangeError, match="there is no campaign 'cc'; did you mean 'c'"):
        resume("cc", records, NOW_MS)
    with pytest.raises(ChangeError, match="the record of 'c' cannot be read"):
        pause("c", {"c": b"junk"}, NOW_MS)
    with pytest.raises(ChangeError, match="paused by its document"):
        resume("c", apply({}, document(state="paused"))[0], NOW_MS)
    # A broken record is mended by applying, and by nobody else's campaign.
    after, said = apply({"c": b"junk", "other": b"junk"}, document())
    assert (after["other"], said) == (b"junk", ["c: version 3, active"])


def test_all_or_nothing(records: dict[str, bytes]) -> None:
    after, said = apply(records, document(id="new"), document(version=1), document(id="new"))
    assert after == records
    assert said == ["c: version: version 3 is published already, this is 1", "new: id: 'new' is given twice"]
