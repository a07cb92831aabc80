"""What is wrong with a campaign document: everything, at once, each complaint with the path of the field."""

import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from jsonschema import Draft202012Validator

from stream.campaigns.money import check_budget, check_calendar, check_learning, check_margin
from stream.campaigns.problems import Document, Path, Problem, Sound, explain, show, suggest, type_of
from stream.campaigns.schema import document_schema
from stream.core.events import TIERS

DURATION_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_MAX_MS = 366 * 86_400_000


def validate(document: object, currency: str = "") -> list[Problem]:
    """Everything that is wrong with a document, in the order of its fields.

    Args:
        document: as read from YAML or JSON.
        currency: the shop's; "" = not known here, any will do.
    """
    if not isinstance(document, Mapping):
        return [Problem((), f"a campaign is a mapping of fields, this is {type_of(document)}")]
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return [Problem((), "holds half a surrogate pair, which no text can")]
    problems = [problem for error in _validator().iter_errors(document) for problem in explain(error)]
    problems += _check_numbers(document, ())
    broken = {problem.path for problem in problems}

    def sound(*path: str | int) -> bool:
        """Whether the schema has no complaint about the field, what it holds or what holds it, and it is there."""
        if any(
            broken_path[: len(path)] == path or path[: len(broken_path)] == broken_path != () for broken_path in broken
        ):
            return False
        at: Any = document
        for part in path:
            if isinstance(part, str) and part not in at:
                return False
            at = at[part]
        return True

    for check in (
        *(
            _check_trigger,
            _check_dates,
            _check_durations,
            _check_arms,
            _check_policy,
            _check_percent,
            _check_conditions,
        ),
        *(check_calendar, check_learning, check_margin, check_budget),
    ):
        problems += check(document, sound)
    problems += _check_currency(document, sound, currency)
    order = {name: i for i, name in enumerate(document)}
    return sorted(dict.fromkeys(problems), key=lambda p: order.get(str(p.path[0]), -1) if p.path else -1)


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as 24h."""
    return int(text[:-1]) * DURATION_MS[text[-1]]


def local_ms(text: str, zone: ZoneInfo) -> int:
    """UTC milliseconds of a date (its first moment) or time in a time zone.

    A time that the clocks pass twice is the first; one that they skip is as long after the skip began.

    Raises:
        ValueError: there is no such date.
    """
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1000


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(document_schema())


def _check_numbers(value: object, path: Path) -> Iterator[Problem]:
    """The schema lets a NaN through: it is not below any minimum, nor above any maximum."""
    if isinstance(value, float) and math.isnan(value):
        yield Problem(path, "must be a number, this is NaN")
    elif isinstance(value, Mapping):
        for name, below in value.items():
            yield from _check_numbers(below, (*path, name))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from _check_numbers(below, (*path, i))


def _check_trigger(document: Document, sound: Sound) -> Iterator[Problem]:
    """Events trigger, or that none comes: then there is nothing to score, and no product."""
    if not sound("trigger"):
        return
    trigger = document["trigger"]
    if "silent_for" not in trigger:
        if "kinds" not in trigger:
            yield Problem(("trigger",), "the field 'kinds' is missing, or 'silent_for'")
        elif "repeat_every" in trigger:
            yield Problem(("trigger", "repeat_every"), "is for `silent_for`: events repeat of themselves")
        return
    if "kinds" in trigger:
        yield Problem(("trigger", "silent_for"), "either events trigger or that none comes: leave it out, or `kinds`")
        return
    if sound("policy", "kind") and document["policy"]["kind"] in ("threshold", "linear"):
        why = "needs a score, and a model scores events: nothing comes that it could score"
        yield Problem(("policy", "kind"), f"{document['policy']['kind']} {why}")
    for field in ("products", "categories", "brands"):
        if sound("eligibility", field):
            yield Problem(("eligibility", field), "are those of the event that triggers, and here none comes")


def _check_dates(document: Document, sound: Sound) -> Iterator[Problem]:
    times: dict[str, dt.datetime] = {}
    for name in ("from", "until"):
        if sound(name):
            try:
                times[name] = dt.datetime.fromisoformat(document[name])
            except ValueError:
                yield Problem((name,), f"there is no such date: {document[name]}")
    if len(times) == 2 and times["until"] <= times["from"]:
        yield Problem(("until",), f"must be after `from`, {document['from']}")


def _check_durations(document: Document, sound: Sound) -> Iterator[Problem]:
    for path in (
        *(("valid_for",), ("cool_down", "after_offer"), ("cool_down", "after_redemption")),
        *(("trigger", "silent_for"), ("trigger", "repeat_every")),
    ):
        if sound(*path):
            value = document[path[0]] if len(path) == 1 else document[path[0]][path[1]]
            if duration_ms(value) > DURATION_MAX_MS:
                yield Problem(path, f"must be at most 366d, this is {value}")


def _check_arms(document: Document, sound: Sound) -> Iterator[Problem]:
    arms = document.get("arms")
    if not isinstance(arms, list):
        return
    seen: dict[str, int] = {}
    for i, arm in enumerate(arms):
        if not sound("arms", i, "kind"):
            continue  # the schema has not looked at the rest
        if sound("arms", i, "id"):
            if arm["id"] in seen:
                yield Problem(("arms", i, "id"), f"the id {arm['id']!r} is taken by arms[{seen[arm['id']]}]")
            elif arm["id"] == "none":
                yield Problem(("arms", i, "id"), "'none' is always an arm and means no offer")
            seen.setdefault(arm["id"], i)
        if sound("arms", i, "percent") and abs(arm["percent"] * 100 - round(arm["percent"] * 100)) > 1e-6:
            yield Problem(("arms", i, "percent"), f"must have at most two decimals, this is {arm['percent']}")
        if sound("arms", i, "tiers"):
            yield from _check_tiers(arm["tiers"], ("arms", i, "tiers"))


def _check_tiers(tiers: list[dict[str, int]], path: Path) -> Iterator[Problem]:
    for i, tier in enumerate(tiers):
        if tier["off_minor"] > tier["min_spend_minor"]:
            yield Problem((*path, i, "off_minor"), "takes off more than the minimum spend")
        if i and tier["min_spend_minor"] <= tiers[i - 1]["min_spend_minor"]:
            yield Problem((*path, i, "min_spend_minor"), "tiers overlap: must be above that of the tier before")
        elif i and tier["off_minor"] <= tiers[i - 1]["off_minor"]:
            yield Problem((*path, i, "off_minor"), "a higher tier must take off more than the tier before")


def _check_policy(document: Document, sound: Sound) -> Iterator[Problem]:
    if not sound("policy", "kind") or not isinstance(document.get("arms"), list) or not document["arms"]:
        return
    policy = document["policy"]
    # An arm with faults of its own is still one that can be named.
    arms = [str(arm["id"]) for arm in document["arms"] if isinstance(arm, Mapping) and "id" in arm]
    if policy["kind"] in ("profit", "explore"):
        return  # they choose among all
    by_segment = policy["arms"] if sound("policy", "arms") else {}
    uses = [("arm",)] if policy["kind"] != "segment" else [("arms", segment) for segment in by_segment]
    for use in uses:
        if not sound("policy", *use):
            continue
        wanted = policy["arm"] if len(use) == 1 else policy["arms"][use[1]]
        if wanted == "none":
            if len(use) == 1:
                yield Problem(("policy", *use), "a policy that only ever chooses 'none' decides nothing")
        elif wanted not in arms:
            yield Problem(("policy", *use), f"there is no arm {wanted!r}{suggest(wanted, arms)}")
    if sound("policy", "min") and sound("policy", "max") and policy["min"] > policy["max"]:
        yield Problem(("policy", "min"), f"must be at most max, {policy['max']}")


def _check_percent(document: Document, sound: Sound) -> Iterator[Problem]:
    """The linear policy says the depth of its arm; all other percent arms say theirs."""
    if not sound("policy", "kind") or not isinstance(document.get("arms"), list):
        return
    linear_arm = document["policy"].get("arm") if document["policy"]["kind"] == "linear" else None
    for i, arm in enumerate(document["arms"]):
        if not (sound("arms", i, "id") and sound("arms", i, "kind")):
            continue
        if arm["id"] == linear_arm and arm["kind"] != "percent":
            text = f"the linear policy says how many percent, {linear_arm!r} is of kind {arm['kind']}"
            yield Problem(("policy", "arm"), text)
        elif arm["id"] == linear_arm and "percent" in arm:
            yield Problem(("arms", i, "percent"), "the linear policy says how many percent, leave it out here")
        elif arm["id"] != linear_arm and arm["kind"] == "percent" and "percent" not in arm:
            yield Problem(("arms", i), "the field 'percent' is missing (only the linear policy's arm has none)")


def _check_conditions(document: Document, sound: Sound) -> Iterator[Problem]:
    eligibility = document.get("eligibility")
    conditions = eligibility.get("conditions") if isinstance(eligibility, Mapping) else None
    for i, condition in enumerate(conditions if isinstance(conditions, list) else ()):
        path = ("eligibility", "conditions", i)
        if not sound(*path):
            continue
        value, many = condition["value"], condition["op"] in ("in", "not_in")
        if isinstance(value, list) != many:
            yield Problem((*path, "value"), f"must be {'a list' if many else 'one value'} with {condition['op']}")
            continue
        for j, single in enumerate(value if many else [value]):
            at = (*path, "value", j) if many else (*path, "value")
            if condition["field"] == "tier":
                if single not in TIERS[1:]:
                    near = suggest(str(single), list(TIERS[1:]))
                    yield Problem(at, f"{show(single)} is not one of {', '.join(TIERS[1:])}{near}")
            elif isinstance(single, str):
                yield Problem(at, f"must be a number, this is the text {show(single)}")


def _check_currency(document: Document, sound: Sound, currency: str) -> Iterator[Problem]:
    arms = document.get("arms")
    money = re.compile(r"_minor$|^tiers$")
    if "currency" not in document:
        if "budget" in document:
            yield Problem((), "the field 'currency' is missing: the budget is money")
            return
        for i, arm in enumerate(arms if isinstance(arms, list) else ()):
            if isinstance(arm, Mapping) and any(money.search(str(name)) for name in arm):
                yield Problem((), f"the field 'currency' is missing: arms[{i}] speaks of money")
                return
    elif sound("currency") and currency and document["currency"] != currency:
        yield Problem(("currency",), f"the shop's currency is {currency}, this is {document['currency']}")
