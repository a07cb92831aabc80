"""The form of a campaign document as JSON Schema 2020-12, made from the same tables as the core that decides by it.

`schemas/campaign-document.json` is this schema written out, for editors and other tools; a test holds the two together.
"""

from typing import Any

from stream.core.campaign import N_ARMS_MAX, OPS, Objective, Occasion
from stream.core.caps import CAP_MAX
from stream.core.events import N_KINDS_WINDOWED, Kind
from stream.core.facts import FACTS
from stream.core.parity import GROUPS
from stream.core.row import WINDOWS
from stream.core.segments import Segment

Schema = dict[str, Any]

TRIGGER_KINDS = tuple(kind.name.lower() for kind in list(Kind)[:N_KINDS_WINDOWED])
"""Kinds of event that can trigger: all that a user does."""

SEGMENTS = tuple(segment.name.lower() for segment in Segment)

# Python lets `$` match before a line's end, ECMAScript does not: the last part makes both mean the end.
_END = r"$(?!\n)"
ID_PATTERN = "^[a-z0-9][a-z0-9_-]{0,63}" + _END
ACTION_PATTERN = "^[a-z][a-z0-9_]{0,63}" + _END
TERMS_MAX = 16
"""Fields that an arm of kind action can give to the reader of its offers."""

CURRENCY_PATTERN = "^[A-Z]{3}" + _END
DURATION_PATTERN = "^[1-9][0-9]{0,5}[smhd]" + _END
DATE_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?)?" + _END
DAY_PATTERN = "^([0-9]{4}-)?([0-9]{2}-)?[0-9]{2}" + _END

MONEY_MINOR_MAX = 10**12
NAMES_MAX = 10_000
"""Products, categories or brands that one campaign can list."""

CAP_DAYS = {"1d": 1, "7d": 7, "30d": 30}
"""Spans of caps, in days of the shop, today included."""


def _object(properties: Schema, required: list[str], **more: object) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        **more,
    }


def _array(items: Schema, length_max: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": length_max, "uniqueItems": True}


def _one_of(values: tuple[str, ...], description: str) -> Schema:
    return {"enum": list(values), "description": description}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _by_kind(definitions: dict[str, Schema]) -> Schema:
    """An object whose `kind` says which of the definitions it has to meet."""
    return {
        "type": "object",
        "properties": {"kind": {"enum": list(definitions)}},
        "required": ["kind"],
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": _object(
                    {"kind": {"const": kind}, **definition["properties"]},
                    ["kind", *definition["required"]],
                    description=definition["description"],
                ),
            }
            for kind, definition in definitions.items()
        ],
    }


def _policy() -> Schema:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    return _by_kind(
        {
            "threshold": {
                "description": "The arm where the model's P(purchase) is above `probability`.",
                "properties": {"probability": probability, "arm": _ref("id")},
                "required": ["probability", "arm"],
            },
            "frequency": {
                "description": "The arm where the user placed more than `more_than` orders in the window.",
                "properties": {
                    "window": _one_of(tuple(WINDOWS), "rolling window in event time"),
                    "more_than": {"type": "integer", "minimum": 0, "maximum": 65_534},
                    "arm": _ref("id"),
                },
                "required": ["window", "more_than", "arm"],
            },
            "linear": {
                "description": "A depth of a P + b, clipped to min and max (shares: 0.1 is 10 %); 0 is no offer.",
                "properties": {
                    "a": {"type": "number", "minimum": -1000, "maximum": 1000},
                    "b": {"type": "number", "minimum": -1000, "maximum": 1000},
                    "min": probability,
                    "max": probability,
                    "arm": _ref("id"),
                },
                "required": ["a", "b", "min", "max", "arm"],
            },
            "segment": {
                "description": "A fixed arm for each segment; a segment that is not named gets no offer.",
                "properties": {"arms": {**_object({s: _ref("id") for s in SEGMENTS}, []), "minProperties": 1}},
                "required": ["arms"],
            },
            "calendar": {
                "description": "The arm near the user's birthday, the day they registered, or the dates of a sale.",
                "properties": {
                    "on": _one_of(tuple(o.name.lower() for o in Occasion), "whose day it is"),
                    "dates": _array(
                        {
                            "type": "string",
                            "pattern": DAY_PATTERN,
                            "description": "2026-11-11, each year 11-11, or each month 11",
                        },
                        366,
                    ),
                    "days_before": {"type": "integer", "minimum": 0, "maximum": 30, "default": 0},
                    "days_after": {"type": "integer", "minimum": 0, "maximum": 30, "default": 0},
                    "arm": _ref("id"),
                },
                "required": ["on", "arm"],
            },
            "profit": {
                "description": "The arm of the largest uplift less the price of the budget it takes, as learned from "
                "randomised decisions; no offer where none gains.",
                "properties": {},
                "required": [],
            },
            "explore": {
                "description": "Each arm, none included, with the same probability.",
                "properties": {},
                "required": [],
            },
        }
    )


def _arm() -> Schema:
    """One arm. Fields that an arm's kind does not have are refused."""
    id_, money = {"id": _ref("id")}, _ref("money")
    spend = {"min_spend_minor": _ref("money")}
    return _by_kind(
        {
            "percent": {
                "description": "Percent off. The linear policy says the depth itself, its arm has no `percent`.",
                "properties": {
                    **id_,
                    "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
                    **spend,
                    "max_discount_minor": money,
                },
                "required": ["id"],
            },
            "amount": {
                "description": "An amount off above a minimum spend, in tiers.",
                "properties": {
                    **id_,
                    "tiers": _array(
                        _object(
                            {"min_spend_minor": _ref("spend"), "off_minor": money}, ["min_spend_minor", "off_minor"]
                        ),
                        20,
                    ),
                },
                "required": ["id", "tiers"],
            },
            "coupon": {
                "description": "A coupon of a fixed worth.",
                "properties": {**id_, "value_minor": money, **spend},
                "required": ["id", "value_minor"],
            },
            "free_shipping": {
                "description": "Free shipping. `cost_minor` is what it costs the shop.",
                "properties": {**id_, "cost_minor": money, **spend},
                "required": ["id"],
            },
            "gift": {
                "description": "A product for nothing. `cost_minor` is what it costs the shop.",
                "properties": {**id_, "product": _ref("name"), "cost_minor": money, **spend},
                "required": ["id", "product"],
            },
            "action": {
                "description": "Something else, of another trade: a rate reduced by basis points, an ad with its bid. "
                "Offers are of the kind that `action` names, and carry `terms`. `cost_minor` is what it costs at most.",
                "properties": {
                    **id_,
                    "action": {
                        "type": "string",
                        "pattern": ACTION_PATTERN,
                        "not": {"enum": ["percent", "amount", "coupon", "free_shipping", "gift", "action"]},
                    },
                    "terms": {
                        "type": "object",
                        "propertyNames": {"pattern": ACTION_PATTERN},
                        "additionalProperties": {
                            "type": ["integer", "string"],
                            "minimum": -MONEY_MINOR_MAX,
                            "maximum": MONEY_MINOR_MAX,
                            "maxLength": 128,
                        },
                        "minProperties": 1,
                        "maxProperties": TERMS_MAX,
                    },
                    "cost_minor": money,
                    **spend,
                },
                "required": ["id", "action"],
            },
        }
    )


def document_schema() -> Schema:
    """JSON Schema of a campaign document. What it cannot say is in `stream.campaigns.validate`."""
    names = _array(_ref("name"), NAMES_MAX)
    share = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    number_or_name = {"type": ["number", "string"], "minimum": -(10**15), "maximum": 10**15}
    condition = _object(
        {
            "field": _one_of(tuple(FACTS), "what is compared; docs/campaigns.md lists the fields"),
            "op": _one_of(OPS, "a field that is not known meets no condition"),
            "value": {"anyOf": [number_or_name, _array(number_or_name, 100)]},
        },
        ["field", "op", "value"],
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://offerstream.invalid/schemas/campaign-document.json",
        "title": "Campaign",
        "description": "Who may get which offers, and which policy chooses. Money is in minor units of `currency`.",
        **_object(
            {
                "id": {**_ref("id"), "description": "names the campaign for ever; key of its record"},
                "name": {"type": "string", "minLength": 1, "maxLength": 200},
                "version": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 2**31 - 1,
                    "description": "raised with each change; decisions and offers name it",
                },
                "priority": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 1_000_000,
                    "default": 100,
                    "description": "lowest first; the first campaign that chooses an offer makes it",
                },
                "state": {"enum": ["active", "paused", "dry_run"], "default": "active"},
                "from": {**_ref("date"), "description": "first moment at which it decides, in the shop's time zone"},
                "until": {**_ref("date"), "description": "first moment at which it no longer does"},
                "trigger": _object(
                    {
                        "kinds": _array(_one_of(TRIGGER_KINDS, "kind of event"), N_KINDS_WINDOWED),
                        "silent_for": {**_ref("duration"), "description": "no event of the user for longer than this"},
                        "repeat_every": {
                            **_ref("duration"),
                            "description": "with `silent_for`: and then again each time so long has passed",
                        },
                    },
                    [],
                    minProperties=1,
                    description="events, by `kinds`, or that none comes, by `silent_for`",
                ),
                "eligibility": _object(
                    {
                        "segments": _array(_one_of(SEGMENTS, "the user's segment"), len(SEGMENTS)),
                        "products": names,
                        "categories": names,
                        "brands": names,
                        "conditions": {"type": "array", "items": condition, "minItems": 1, "maxItems": 32},
                    },
                    [],
                    description="all of it must hold; products, categories and brands are the trigger's",
                ),
                "arms": {"type": "array", "items": _arm(), "minItems": 1, "maxItems": N_ARMS_MAX},
                "policy": _policy(),
                "cool_down": _object(
                    {"after_offer": _ref("duration"), "after_redemption": _ref("duration")},
                    [],
                    description="no offer for so long after one by any campaign",
                ),
                "caps": {
                    **_object(
                        {
                            span: {"type": "integer", "minimum": 1, "maximum": CAP_MAX * days}
                            for span, days in CAP_DAYS.items()
                        },
                        [],
                        description="most offers by any campaign that a user may have had, this one included, in so "
                        "many days of the shop, today included",
                    ),
                    "minProperties": 1,
                },
                "exploration": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 1,
                    "description": "share of decisions drawn from all arms alike, none included, to learn from",
                },
                "objective": {
                    **_one_of(tuple(o.name.lower() for o in Objective), "what the profit policy wants more of"),
                    "default": "margin",
                },
                "margin_rate": {
                    **share,
                    "description": "margin of the goods, before discount, as a share of the price",
                },
                "margin_floor": {**share, "description": "least margin that an offer may leave; needs `margin_rate`"},
                "budget": _object(
                    {
                        "total_minor": _ref("money"),
                        "pacing": {
                            "enum": ["even", "asap"],
                            "default": "even",
                            "description": "spread from `from` to `until`, or first come, first served",
                        },
                    },
                    ["total_minor"],
                    description="the most that the campaign may cost, by whatever is redeemed; never more",
                ),
                "parity": _object(
                    {
                        "by": _one_of(GROUPS, "what users are grouped by"),
                        "ratio_min": {"type": "number", "minimum": 0.1, "maximum": 1},
                    },
                    ["by", "ratio_min"],
                    description="least ratio of one group's offers per decision to another's; offers beyond it are "
                    "withheld",
                ),
                "guard": _object(
                    {
                        "free": {"type": "integer", "minimum": 1, "maximum": 1_000},
                        "per_order": {"type": "number", "minimum": 0, "maximum": 100},
                    },
                    ["free", "per_order"],
                    description="against users who provoke offers: most offers that a user may have used, `free` and "
                    "`per_order` for each order at full price that was kept",
                ),
                "scope": {
                    **_object(
                        {"products": names, "categories": names, "brands": names},
                        [],
                        description="what an offer applies to; default: the whole order",
                    ),
                    "minProperties": 1,
                },
                "holdout": {
                    "type": "number",
                    "minimum": 0,
                    "exclusiveMaximum": 1,
                    "default": 0,
                    "description": "share of users who never get this campaign's offers, to measure against",
                },
                "valid_for": {**_ref("duration"), "description": "how long an offer can be redeemed"},
                "stacking_group": {"type": "string", "minLength": 1, "maxLength": 64, "default": "default"},
                "currency": {
                    "type": "string",
                    "pattern": CURRENCY_PATTERN,
                    "description": "ISO 4217; needed where money is",
                },
                "disclosure": {
                    "type": "boolean",
                    "default": True,
                    "description": "offers say that their price was personalised",
                },
            },
            ["id", "name", "version", "trigger", "arms", "policy", "valid_for"],
        ),
        "$defs": {
            "id": {"type": "string", "pattern": ID_PATTERN},
            "name": {"type": "string", "minLength": 1, "maxLength": 128},
            "money": {"type": "integer", "minimum": 1, "maximum": MONEY_MINOR_MAX},
            "spend": {"type": "integer", "minimum": 0, "maximum": MONEY_MINOR_MAX},
            "date": {"type": "string", "pattern": DATE_PATTERN},
            "duration": {
                "type": "string",
                "pattern": DURATION_PATTERN,
                "description": "such as 90s, 30m, 24h, 7d",
            },
        },
    }
