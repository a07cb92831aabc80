import hashlib
import json

import pytest

from stream.scoring.artefact import ModelRefused, Refusal
from stream.scoring.control import champion, file_key, pointer_json

FILE = b"a file"
SHA256 = hashlib.sha256(FILE).hexdigest()


def test_no_champion_is_none() -> None:
    assert champion({}) is None
    assert champion({file_key(SHA256): FILE}) is None


def test_the_file_that_the_pointer_names() -> None:
    records = {file_key(SHA256): FILE, b"model:other": b"other", b"champion": pointer_json(SHA256, 5)}
    assert champion(records) == FILE
    assert json.loads(records[b"champion"]) == {"sha256": SHA256, "published_ms": 5}
    assert file_key(SHA256) == b"model:" + SHA256.encode()


@pytest.mark.parametrize(
    "pointer",
    [
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
    ],
)
def test_a_broken_pointer_is_refused(pointer: bytes) -> None:
    with pytest.raises(ModelRefused) as refused:
        champion({file_key(SHA256): FILE, b"champion": pointer})
    assert refused.value.reason is Refusal.POINTER_INVALID


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ModelRefused) as refused:
        champion({b"champion": pointer_json(SHA256, 5)})
    assert refused.value.reason is Refusal.FILE_MISSING
    assert SHA256 in str(refused.value)


def test_another_file_under_the_name_is_refused() -> None:
    with pytest.raises(ModelRefused) as refused:
        champion({file_key(SHA256): FILE + b"!", b"champion": pointer_json(SHA256, 5)})
    assert refused.value.reason is Refusal.SHA256_DIFFERS
