import hashlib
import json

import pytest

from stream.scoring.artefact import ModelRefused, Refusal
from stream.scoring.control import (
    BEFORE_MAX,
    Challenger,
    Champion,
    Mode,
    candidates,
    challenger_json,
    challenger_of,
    champion_of,
    file_key,
    key_of,
    pointer_json,
)

SHA256 = hashlib.sha256(b"a file").hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
WITHDRAWN = b"withdrawn:"


def test_nobody_is_named() -> None:
    assert champion_of({}) is None
    assert challenger_of({}) is None
    assert candidates({file_key(SHA256): b"a file"}) == ()


def test_pointers_come_back_as_written() -> None:
    records = {
        b"champion": pointer_json(SHA256, 5, (OTHER,)),
        b"challenger": challenger_json(OTHER, 6, Mode.CANARY, 0.25),
    }
    assert champion_of(records) == Champion(SHA256, 5, (OTHER,))
    assert challenger_of(records) == Challenger(OTHER, 6, Mode.CANARY, 0.25)
    assert json.loads(records[b"champion"]) == {"sha256": SHA256, "published_ms": 5, "before": [OTHER]}
    assert file_key(SHA256) == b"model:" + SHA256.encode()


def test_a_pointer_of_before_rollbacks_is_read() -> None:
    said = json.dumps({"sha256": SHA256, "published_ms": 5}).encode()
    assert champion_of({b"champion": said}) == Champion(SHA256, 5, ())


def test_who_may_score_is_who_was_not_withdrawn_in_order() -> None:
    older = [hashlib.sha256(bytes([n])).hexdigest() for n in range(9)]
    pointer = pointer_json(SHA256, 5, (SHA256, OTHER, *older))
    records = {b"champion": pointer}
    assert candidates(records) == (SHA256, OTHER, *older[: BEFORE_MAX - 2])
    records[key_of(WITHDRAWN, SHA256)] = b"{}"
    records[key_of(WITHDRAWN, older[0])] = b""
    assert candidates(records) == (OTHER, *older[1 : BEFORE_MAX - 2])


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"5",
    b"{}",
    b'{"sha256": 5}',
    b'{"sha256": null}',
    b'{"sha256": "ab"}',
    b"\xff",
    b"[" * 100_000,
    json.dumps({"sha256": SHA256.upper()}).encode(),
    json.dumps({"sha256": "x" * 64}).encode(),
]


@pytest.mark.parametrize("pointer", [*BROKEN, json.dumps({"sha256": SHA256, "before": SHA256}).encode()])
def test_a_broken_pointer_to_the_champion_is_refused(pointer: bytes) -> None:
    with pytest.raises(ModelRefused) as refused:
        candidates({b"champion": pointer})
    assert refused.value.reason is Refusal.POINTER_INVALID


@pytest.mark.parametrize(
    "said",
    [
        *BROKEN,
        *(
            json.dumps({"sha256": SHA256, **more}).encode()
            for more in (
                {"mode": "canary"},
                {"mode": "canary", "share": 0},
                {"mode": "canary", "share": 1.5},
                {"mode": "canary", "share": True},
                {"mode": "canary", "share": "0.5"},
                {"mode": "canary", "share": float("nan")},
                {"mode": "both", "share": 0.5},
                {"mode": ["canary"], "share": 0.5},
                {"share": 0.5},
            )
        ),
    ],
)
def test_a_broken_pointer_to_the_challenger_is_refused(said: bytes) -> None:
    with pytest.raises(ModelRefused) as refused:
        challenger_of({b"challenger": said})
    assert refused.value.reason is Refusal.POINTER_INVALID
