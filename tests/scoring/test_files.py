import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream.errors import SetupError
from stream.scoring.artefact import MODEL_BYTES_MAX, ModelRefused, Refusal
from stream.scoring.control import file_key, key_of
from stream.scoring.files import Verify, file_of, signed_bytes, uri_json, verifier

FILE = b"a file"
SHA256 = hashlib.sha256(FILE).hexdigest()
SIGNATURE = key_of(b"signature:", SHA256)
URI = key_of(b"uri:", SHA256)


def refusal(records: dict[bytes, bytes], verify: Verify | None = None) -> Refusal:
    with pytest.raises(ModelRefused) as refused:
        file_of(records, SHA256, verify)
    return refused.value.reason


def public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def test_the_file_in_the_topic() -> None:
    assert file_of({file_key(SHA256): FILE}, SHA256) == FILE


def test_a_missing_file_is_refused() -> None:
    assert refusal({}) is Refusal.FILE_MISSING


def test_another_file_under_the_name_is_refused() -> None:
    assert refusal({file_key(SHA256): FILE + b"!"}) is Refusal.SHA256_DIFFERS


def test_a_large_file_is_fetched_from_where_the_topic_says(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FILE)
    records = {URI: uri_json(path.as_uri(), len(FILE))}
    assert file_of(records, SHA256) == FILE
    path.write_bytes(FILE + b"!")
    assert refusal(records) is Refusal.SHA256_DIFFERS
    path.unlink()
    assert refusal(records) is Refusal.FETCH_FAILED


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (b"{", Refusal.FILE_MISSING),
        (b"[]", Refusal.FILE_MISSING),
        (b'{"uri": "file:///x"}', Refusal.FILE_MISSING),
        (uri_json("gopher://127.0.0.1/x", 5), Refusal.FILE_MISSING),
        (uri_json("/etc/hostname", 5), Refusal.FILE_MISSING),
        (uri_json("file:///x", MODEL_BYTES_MAX + 1), Refusal.TOO_LARGE),
        (uri_json("file:///x", 0), Refusal.TOO_LARGE),
        (uri_json("http://127.0.0.1:1/x", 5), Refusal.FETCH_FAILED),
        (uri_json("http://[::1/x", 5), Refusal.FILE_MISSING),
    ],
)
def test_a_place_that_gives_no_file(place: bytes, reason: Refusal) -> None:
    assert refusal({URI: place}) is reason


def test_a_worker_with_a_key_takes_what_that_key_signed_alone() -> None:
    key, foreign = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    verify = verifier(public(key))
    records = {file_key(SHA256): FILE}
    assert refusal(records, verify) is Refusal.NOT_SIGNED
    for wrong in (
        foreign.sign(signed_bytes(SHA256)),
        key.sign(bytes.fromhex(SHA256)),
        key.sign(signed_bytes("0" * 64)),
        b"",
        b"x" * 64,
    ):
        assert refusal(records | {SIGNATURE: wrong}, verify) is Refusal.SIGNATURE_INVALID
    signed = records | {SIGNATURE: key.sign(signed_bytes(SHA256))}
    assert file_of(signed, SHA256, verify) == FILE
    assert refusal(signed | {file_key(SHA256): FILE + b"!"}, verify) is Refusal.SHA256_DIFFERS


@pytest.mark.parametrize("key", ["x", "AAAA", "%%%", base64.b64encode(b"k" * 33).decode(), "ü"])
def test_what_is_no_key_is_said_at_the_start(key: str) -> None:
    with pytest.raises(SetupError, match="OFFERSTREAM_MODEL_KEY"):
        verifier(key)


def test_no_key_asks_for_nothing() -> None:
    assert verifier("") is None
