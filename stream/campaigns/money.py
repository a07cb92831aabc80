"""What can be wrong with a campaign's money: budgets, margins, what is learned from; and with its calendar."""

import datetime as dt
from collections.abc import Iterator, Mapping

from stream.campaigns.problems import Document, Problem, Sound
from stream.core.budget import COST_MAX_MINOR

EPSILON = 1e-9


def check_calendar(document: Document, sound: Sound) -> Iterator[Problem]:
    """Dates belong to the occasion `dates`, and exist."""
    if not sound("policy", "kind") or document["policy"]["kind"] != "calendar" or not sound("policy", "on"):
        return
    policy = document["policy"]
    if policy["on"] == "dates" and "dates" not in policy:
        yield Problem(("policy",), "the field 'dates' is missing: on which days?")
    elif policy["on"] != "dates" and "dates" in policy:
        yield Problem(("policy", "dates"), f"on {policy['on']} has no dates of its own, leave it out here")
    for i, text in enumerate(policy["dates"] if sound("policy", "dates") else ()):
        try:
            # Of days without a year those of a leap year, of days without a month those of January.
            dt.date.fromisoformat(f"{'2024-01-'[: 10 - len(text)]}{text}")
        except ValueError:
            yield Problem(("policy", "dates", i), f"there is no such day: {text}")


def check_learning(document: Document, sound: Sound) -> Iterator[Problem]:
    """The profit policy knows what it wants more of; random arms have a depth of their own."""
    if not sound("policy", "kind"):
        return
    kind = document["policy"]["kind"]
    objective = document.get("objective", "margin")
    if kind == "profit" and objective == "margin" and "margin_rate" not in document:
        text = "the field 'margin_rate' is missing: orders need not say what goods cost, and the objective is margin"
        yield Problem((), text)
    if kind != "profit" and "objective" in document:
        yield Problem(("objective",), f"is for the profit policy, this one is {kind}")
    if "exploration" in document and kind in ("linear", "explore"):
        why = "its arm has no depth of its own" if kind == "linear" else "it explores always"
        yield Problem(("exploration",), f"is not for the {kind} policy: {why}")


def check_margin(document: Document, sound: Sound) -> Iterator[Problem]:
    """No arm is deeper than the margin floor allows.

    A discount d of the price leaves (rate - d) / (1 - d) of what is paid.
    """
    if not sound("margin_floor"):
        return
    if "margin_rate" not in document:
        yield Problem((), "the field 'margin_rate' is missing: margin_floor needs it")
        return
    if not sound("margin_rate"):
        return
    rate, floor = document["margin_rate"], document["margin_floor"]
    deepest = max((rate - floor) / (1 - floor), 0.0)
    says = f"leaves less than the margin floor: {deepest:.2%} off is the most"
    if sound("policy", "max") and document["policy"]["max"] > deepest + EPSILON:
        yield Problem(("policy", "max"), says)
    for i, arm in enumerate(document["arms"] if isinstance(document.get("arms"), list) else ()):
        if not sound("arms", i, "kind"):
            continue
        field, depth = _depth_max(arm, i, sound)
        if depth is None:
            yield Problem(("arms", i), f"needs {field} under a margin floor")
        elif depth > deepest + EPSILON:
            yield Problem(("arms", i, field), says)


def _depth_max(arm: Document, i: int, sound: Sound) -> tuple[str, float | None]:
    """(the field that says it, the largest share of an order that an arm can take off); None = not said."""
    if arm["kind"] == "percent":
        return "percent", arm["percent"] / 100 if sound("arms", i, "percent") else 0.0
    if arm["kind"] == "amount":
        tiers = arm["tiers"] if sound("arms", i, "tiers") else []
        return "tiers", max((tier["off_minor"] / max(tier["min_spend_minor"], 1) for tier in tiers), default=0.0)
    field = "value_minor" if arm["kind"] == "coupon" else "cost_minor"
    if not sound("arms", i, field) or not sound("arms", i, "min_spend_minor"):
        return f"{field} and min_spend_minor", None
    return field, arm[field] / arm["min_spend_minor"]


def check_budget(document: Document, sound: Sound) -> Iterator[Problem]:
    """A budget that must hold knows the most that each offer can cost, and from when until when it is to be spent."""
    if not sound("budget"):
        return
    budget = document["budget"]
    if budget.get("pacing", "even") == "even":
        missing = [name for name in ("from", "until") if name not in document]
        if missing:
            text = f"the field {missing[0]!r} is missing: a budget that is spread evenly has a beginning and an end"
            yield Problem((), text)
    for i, arm in enumerate(document["arms"] if isinstance(document.get("arms"), list) else ()):
        if isinstance(arm, Mapping) and sound("arms", i, "kind"):
            yield from _check_cost(arm, i, sound, budget["total_minor"])


_COST_FIELDS = {"amount": "tiers", "coupon": "value_minor", "percent": "max_discount_minor"}


def _check_cost(arm: Document, i: int, sound: Sound, total_minor: int) -> Iterator[Problem]:
    field = _COST_FIELDS.get(arm["kind"], "cost_minor")
    if field not in arm:
        yield Problem(("arms", i), f"needs {field}: a budget must know the most that an offer can cost")
    elif sound("arms", i, field):
        most = arm["tiers"][-1]["off_minor"] if field == "tiers" else arm[field]
        if most > COST_MAX_MINOR:
            yield Problem(("arms", i, field), f"must be at most {COST_MAX_MINOR} under a budget, this is {most}")
        elif most > total_minor:
            yield Problem(("arms", i, field), f"is more than the whole budget, {total_minor}")
