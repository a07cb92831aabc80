"""Where model files come from, the topic itself or the place that it names, and whether they are signed."""

import base64
import binascii
import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping

from stream.errors import SetupError
from stream.scoring.artefact import MODEL_BYTES_MAX, ModelRefused, Refusal
from stream.scoring.control import SIGNATURE_KEY_PREFIX, URI_KEY_PREFIX, file_key, key_of

SCHEMES = ("file", "https", "http")
"""Of places that files are fetched from."""

FETCH_TIMEOUT_S = 20.0

_SIGNED = b"offerstream model\x00"
"""Before the digest in what is signed: a signature for anything else is none for a model."""

Verify = Callable[[str, bytes], bool]
"""(SHA-256, signature) to whether the signature is the key's."""


def file_of(records: Mapping[bytes, bytes], sha256_hex: str, verify: Verify | None = None) -> bytes:
    """The model file with this SHA-256, yet to be verified by `load`.

    1. The signature, before a byte of the file is looked at.
    2. The file: in the topic, else from where the topic says.
    3. It is the one that is named.

    Args:
        records: of the topic, latest value by key, deleted keys left out.
        sha256_hex: of the file.
        verify: checks signatures; None: they are not asked for.

    Raises:
        ModelRefused: not signed, not there, cannot be fetched, or not the one that is named.
    """
    # 1.
    if verify is not None:
        signature = records.get(key_of(SIGNATURE_KEY_PREFIX, sha256_hex))
        if signature is None:
            raise ModelRefused(Refusal.NOT_SIGNED, f"{sha256_hex} has no signature, and this worker asks for one")
        if not verify(sha256_hex, signature):
            raise ModelRefused(Refusal.SIGNATURE_INVALID, f"the signature of {sha256_hex} is not the key's")
    # 2.
    data = records.get(file_key(sha256_hex))
    if data is None:
        data = _fetched(records, sha256_hex)
    # 3.
    found = hashlib.sha256(data).hexdigest()
    if found != sha256_hex:
        raise ModelRefused(Refusal.SHA256_DIFFERS, f"the file under {sha256_hex} has the SHA-256 {found}")
    return data


def uri_json(uri: str, size_bytes: int) -> bytes:
    """The value of `uri:<sha256>`."""
    return json.dumps({"uri": uri, "size_bytes": size_bytes}).encode()


def _fetched(records: Mapping[bytes, bytes], sha256_hex: str) -> bytes:
    value = records.get(key_of(URI_KEY_PREFIX, sha256_hex))
    if value is None:
        raise ModelRefused(Refusal.FILE_MISSING, f"no record {file_key(sha256_hex).decode()!r} in the topic")
    try:
        said = json.loads(value)
        uri, size_bytes = str(said["uri"]), int(said["size_bytes"])
        scheme = urllib.parse.urlsplit(uri).scheme
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = f"the place of {sha256_hex} cannot be read: {type(error).__name__}: {error}"
        raise ModelRefused(Refusal.FILE_MISSING, text) from error
    if scheme not in SCHEMES:
        raise ModelRefused(Refusal.FILE_MISSING, f"{uri}: schemes are {', '.join(SCHEMES)}")
    if not 0 < size_bytes <= MODEL_BYTES_MAX:
        raise ModelRefused(Refusal.TOO_LARGE, f"{size_bytes} bytes; at most {MODEL_BYTES_MAX}")
    try:
        with urllib.request.urlopen(uri, timeout=FETCH_TIMEOUT_S) as response:  # noqa: S310 schemes are checked above
            return bytes(response.read(size_bytes + 1))  # a byte more: a longer file has another SHA-256
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ModelRefused(Refusal.FETCH_FAILED, f"{uri}: {error}") from error


def verifier(public_key: str) -> Verify | None:
    """What checks signatures against a key.

    Args:
        public_key: ed25519, 32 bytes in base64; "": signatures are not asked for.

    Raises:
        SetupError: it is no such key, or the package that checks is not installed.
    """
    if not public_key:
        return None
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 only workers that were given a key need it
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    except ModuleNotFoundError as error:
        text = "checking signatures of models needs the package 'cryptography': pip install '.[signing]'"
        raise SetupError(text) from error
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    except (ValueError, binascii.Error) as error:
        raise SetupError(f"OFFERSTREAM_MODEL_KEY={public_key!r} is no ed25519 public key in base64: {error}") from error

    def verify(sha256_hex: str, signature: bytes) -> bool:
        try:
            key.verify(signature, signed_bytes(sha256_hex))
        except InvalidSignature:
            return False
        return True

    return verify


def signed_bytes(sha256_hex: str) -> bytes:
    """What a signature is over."""
    return _SIGNED + bytes.fromhex(sha256_hex)
