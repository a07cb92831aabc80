"""Complaints about documents, and what the JSON Schema validator finds in plain words."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jsonschema import ValidationError

from stream.campaigns.schema import (
    ACTION_PATTERN,
    CURRENCY_PATTERN,
    DATE_PATTERN,
    DAY_PATTERN,
    DURATION_PATTERN,
    ID_PATTERN,
)
from stream.core.features import PROTECTED

Path = tuple[str | int, ...]
Document = Mapping[str, Any]
Sound = Callable[..., bool]
"""Whether a field, named by its path, is there and has no complaint yet."""


class Problem(NamedTuple):
    """One complaint about a document."""

    path: Path
    message: str

    def __str__(self) -> str:
        where = show_path(self.path)
        return f"{where}: {self.message}" if where else self.message


def show_path(path: Path) -> str:
    """A path as people write it: `arms[0].percent`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def suggest(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest, as half a sentence; "" where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Finding(NamedTuple):
    """What one keyword of the schema found."""

    path: Path
    keyword: str
    wanted: Any  # the keyword's value
    found: Any  # in the document
    schema: Any
    message: str


def explain(error: ValidationError) -> Iterator[Problem]:
    """The complaints behind one error of the validator."""
    path: Path = tuple(error.absolute_path)
    finding = _Finding(path, str(error.validator), error.validator_value, error.instance, error.schema, error.message)
    return _EXPLAIN[finding.keyword](finding)


def _unknown(f: _Finding) -> Iterator[Problem]:
    known = f.schema["properties"]
    for name in f.found:
        if name not in known:
            yield Problem((*f.path, str(name)), f"unknown field{suggest(str(name), known)}")


def _missing(f: _Finding) -> Iterator[Problem]:
    for name in f.wanted:
        if name not in f.found and f.message.startswith(repr(name)):
            yield Problem(f.path, f"the field {name!r} is missing")


def _not_one_of(f: _Finding) -> Iterator[Problem]:
    if f.path[-1:] in (("field",), ("by",)) and str(f.found).lower() in PROTECTED:
        yield Problem(f.path, f"{show(f.found)} is a protected attribute: no campaign may look at it")
        return
    known = [str(value) for value in f.wanted]
    shown = ", ".join(known) if len(known) <= 16 else f"the {len(known)} listed in docs/campaigns.md"
    near = suggest(f.found, known) if isinstance(f.found, str) else ""
    yield Problem(f.path, f"{show(f.found)} is not one of {shown}{near}")


def _wrong_type(f: _Finding) -> Iterator[Problem]:
    wanted = f.wanted if isinstance(f.wanted, list) else [f.wanted]
    names = " or ".join(_TYPE_NAMES[name] for name in wanted)
    yield Problem(f.path, f"must be {names}, this is {type_of(f.found)}")


def _out_of_range(f: _Finding) -> Iterator[Problem]:
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    yield Problem(f.path, f"must be {words[f.keyword]} {f.wanted}, this is {show(f.found)}")


_PATTERN_NAMES = {
    CURRENCY_PATTERN: "a currency such as EUR (ISO 4217)",
    DURATION_PATTERN: "a duration such as 90s, 30m, 24h or 7d",
    ACTION_PATTERN: "a name: 1 to 64 of a-z, 0-9 and '_', beginning with a letter",
    ID_PATTERN: "an id: 1 to 64 of a-z, 0-9, '_' and '-', not beginning with '_' or '-'",
    DAY_PATTERN: "a day such as 2026-11-11, or 11-11 each year, or 11 each month",
    DATE_PATTERN: "a date such as 2026-01-31, or with a time 2026-01-31T18:30",
}


def _wrong_pattern(f: _Finding) -> Iterator[Problem]:
    yield Problem(f.path, f"must be {_PATTERN_NAMES[f.wanted]}, this is {show(f.found)}")


def _wrong_length(f: _Finding) -> Iterator[Problem]:
    limit = f.wanted
    what = {
        "minItems": f"must have at least {limit} entry",
        "maxItems": f"must have at most {limit} entries, this has {len(f.found)}",
        "minLength": "must not be empty",
        "maxLength": f"must have at most {limit} characters, this has {len(f.found)}",
        "minProperties": f"must have at least {limit} field",
        "maxProperties": f"must have at most {limit} fields, this has {len(f.found)}",
    }
    yield Problem(f.path, what[f.keyword])


def _any_of(f: _Finding) -> Iterator[Problem]:
    yield Problem(f.path, f"must be a number (up to 10^15), a name, or a list of either, this is {type_of(f.found)}")


def _not_allowed(f: _Finding) -> Iterator[Problem]:
    yield Problem(f.path, f"{show(f.found)} is a kind of its own: write `kind: {f.found}`")


def _not_unique(f: _Finding) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, value in enumerate(f.found):
        if repr(value) in seen:
            yield Problem((*f.path, i), f"{show(value)} is in the list already")
        seen.add(repr(value))


_EXPLAIN: dict[str, Callable[[_Finding], Iterator[Problem]]] = {
    "additionalProperties": _unknown,
    "required": _missing,
    "enum": _not_one_of,
    "type": _wrong_type,
    "pattern": _wrong_pattern,
    "anyOf": _any_of,
    "uniqueItems": _not_unique,
    "not": _not_allowed,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _out_of_range),
    **dict.fromkeys(
        ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"), _wrong_length
    ),
}

_TYPE_NAMES = {
    "object": "a mapping of fields",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


def type_of(value: object) -> str:
    """What a value is, for people."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | Mapping):
        return "a list" if isinstance(value, list) else "a mapping of fields"
    return f"the {'text' if isinstance(value, str) else 'number'} {show(value)}"


def show(value: object) -> str:
    """A value as Python writes it, cut to what fits on a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
