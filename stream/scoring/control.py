"""The `models` topic: which model is in force.

Compacted, one partition, read whole by every worker. Key `model:<sha256>` holds a file, key `champion` names the one in
force. A file is published before the pointer to it, so a reader that goes by offsets never finds a pointer to what is
yet to come.
"""

import hashlib
import json
from collections.abc import Mapping

from stream.scoring.artefact import ModelRefused, Refusal

CHAMPION_KEY = b"champion"
FILE_KEY_PREFIX = b"model:"


def file_key(sha256_hex: str) -> bytes:
    """Key of the record that holds the file with this SHA-256."""
    return FILE_KEY_PREFIX + sha256_hex.encode("ascii")


def champion(records: Mapping[bytes, bytes]) -> bytes | None:
    """The model file in force.

    Args:
        records: latest value by key, deleted keys left out.

    Returns:
        The ONNX file, yet to be verified by `load`; None where no champion is named.

    Raises:
        ModelRefused: the pointer cannot be read, or points to a file that is missing or is not the one it names.
    """
    pointer = records.get(CHAMPION_KEY)
    if pointer is None:
        return None
    sha256_hex = champion_sha256(pointer)
    data = records.get(file_key(sha256_hex))
    if data is None:
        raise ModelRefused(Refusal.FILE_MISSING, f"no record {file_key(sha256_hex).decode()!r} in the topic")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256_hex:
        raise ModelRefused(Refusal.SHA256_DIFFERS, f"the file under {sha256_hex} has the SHA-256 {found}")
    return data


def champion_sha256(pointer: bytes) -> str:
    """The SHA-256 that the value of `champion` names, 64 lower-case hexadecimal digits.

    Raises:
        ModelRefused: the value is not a pointer.
    """
    try:
        sha256_hex = json.loads(pointer)["sha256"]
        readable = len(bytes.fromhex(sha256_hex)) == 32 and sha256_hex == sha256_hex.lower()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = f"the value of the key {CHAMPION_KEY.decode()!r} names no model: {type(error).__name__}: {error}"
        raise ModelRefused(Refusal.POINTER_INVALID, text) from error
    if not readable:
        raise ModelRefused(Refusal.POINTER_INVALID, f"sha256 {sha256_hex!r} is not 64 lower-case hexadecimal digits")
    return str(sha256_hex)


def pointer_json(sha256_hex: str, published_ms: int) -> bytes:
    """The value of `champion`."""
    return json.dumps({"sha256": sha256_hex, "published_ms": published_ms}).encode()
