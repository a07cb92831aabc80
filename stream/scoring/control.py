"""The `models` topic: which models are in force, and how they got there.

Compacted, one partition, read whole by every worker.

| key | value |
|---|---|
| `model:<sha256>` | a file of up to `INLINE_BYTES_MAX` |
| `uri:<sha256>` | where a larger one lies |
| `signature:<sha256>` | ed25519 signature of a file, 64 bytes |
| `champion` | the model that scores, and those before it, which a rollback goes back to |
| `challenger` | a model on trial, in the shadow or for a share of the users |
| `withdrawn:<sha256>` | a worker or an operator found that model unfit, and why: no pointer to it counts any more |
| `retrain:<sha256>` | a worker found that the world has moved away from what that champion was trained on |

A file is published before a pointer to it, so a reader that goes by offsets never finds a pointer to what is yet to
come. A worker that finds fault says so in a record of its own and leaves the pointers to those who promote: two workers
that find the same, or an operator who promotes another model meanwhile, cannot undo each other's word.
"""

import json
from collections.abc import Mapping
from enum import StrEnum, unique
from typing import Any, NamedTuple

from stream.scoring.artefact import ModelRefused, Refusal

CHAMPION_KEY = b"champion"
CHALLENGER_KEY = b"challenger"
FILE_KEY_PREFIX = b"model:"
URI_KEY_PREFIX = b"uri:"
SIGNATURE_KEY_PREFIX = b"signature:"
WITHDRAWN_KEY_PREFIX = b"withdrawn:"
RETRAIN_KEY_PREFIX = b"retrain:"

BEFORE_MAX = 5
"""Former champions that a pointer names."""


@unique
class Mode(StrEnum):
    """How a challenger is tried."""

    SHADOW = "shadow"
    """It scores beside the champion; nothing is decided by it."""
    CANARY = "canary"
    """It scores a sticky share of the users alone, and decides about them."""


class Champion(NamedTuple):
    """The value of `champion`."""

    sha256: str
    published_ms: int
    before: tuple[str, ...] = ()
    """Former champions, latest first."""


class Challenger(NamedTuple):
    """The value of `challenger`."""

    sha256: str
    published_ms: int
    mode: Mode
    share: float
    """Of the users, by a hash of the user's id and the model's: those it scores."""


def key_of(prefix: bytes, sha256_hex: str) -> bytes:
    """Key of what is said of the model with this SHA-256."""
    return prefix + sha256_hex.encode("ascii")


def file_key(sha256_hex: str) -> bytes:
    """Key of the record that holds the file with this SHA-256."""
    return key_of(FILE_KEY_PREFIX, sha256_hex)


def champion_of(records: Mapping[bytes, bytes]) -> Champion | None:
    """The champion that is named, withdrawn or not.

    Args:
        records: latest value by key, deleted keys left out.

    Raises:
        ModelRefused: the pointer cannot be read.
    """
    said = _pointer(records, CHAMPION_KEY)
    if said is None:
        return None
    before = said.get("before", [])
    if not isinstance(before, list):
        raise _unreadable(CHAMPION_KEY, f"before {before!r} is no list")
    return Champion(
        _sha256(CHAMPION_KEY, said.get("sha256")),
        _moment(said),
        tuple(_sha256(CHAMPION_KEY, one) for one in before[:BEFORE_MAX]),
    )


def challenger_of(records: Mapping[bytes, bytes]) -> Challenger | None:
    """The challenger that is named, withdrawn or not.

    Raises:
        ModelRefused: the pointer cannot be read.
    """
    said = _pointer(records, CHALLENGER_KEY)
    if said is None:
        return None
    mode, share = said.get("mode"), said.get("share")
    if mode not in list(Mode):
        raise _unreadable(CHALLENGER_KEY, f"mode {mode!r} is none of {', '.join(Mode)}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise _unreadable(CHALLENGER_KEY, f"share {share!r} is not above 0 and at most 1")
    return Challenger(_sha256(CHALLENGER_KEY, said.get("sha256")), _moment(said), Mode(mode), float(share))


def candidates(records: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The champion and those before it that were not withdrawn, as SHA-256: the first that is fit is to score.

    Raises:
        ModelRefused: the pointer cannot be read.
    """
    named = champion_of(records)
    if named is None:
        return ()
    return tuple(one for one in dict.fromkeys((named.sha256, *named.before)) if not is_withdrawn(records, one))


def is_withdrawn(records: Mapping[bytes, bytes], sha256_hex: str) -> bool:
    """Whether a model was found unfit."""
    return key_of(WITHDRAWN_KEY_PREFIX, sha256_hex) in records


def pointer_json(sha256_hex: str, published_ms: int, before: tuple[str, ...] = ()) -> bytes:
    """The value of `champion`."""
    return json.dumps({"sha256": sha256_hex, "published_ms": published_ms, "before": list(before)}).encode()


def challenger_json(sha256_hex: str, published_ms: int, mode: Mode, share: float) -> bytes:
    """The value of `challenger`."""
    said = {"sha256": sha256_hex, "published_ms": published_ms, "mode": mode.value, "share": share}
    return json.dumps(said).encode()


def _pointer(records: Mapping[bytes, bytes], key: bytes) -> dict[str, Any] | None:
    value = records.get(key)
    if value is None:
        return None
    try:
        said = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _unreadable(key, f"{type(error).__name__}: {error}") from error
    if not isinstance(said, dict):
        raise _unreadable(key, f"{type(said).__name__}, not an object")
    return said


def _moment(said: Mapping[str, Any]) -> int:
    moment = said.get("published_ms", 0)
    return moment if isinstance(moment, int) else 0


def _sha256(key: bytes, said: object) -> str:
    try:
        fits = isinstance(said, str) and len(bytes.fromhex(said)) == 32 and said == said.lower()
    except ValueError:
        fits = False
    if not fits:
        raise _unreadable(key, f"sha256 {said!r} is not 64 lower-case hexadecimal digits")
    return str(said)


def _unreadable(key: bytes, text: str) -> ModelRefused:
    return ModelRefused(Refusal.POINTER_INVALID, f"the value of the key {key.decode()!r} names no model: {text}")
