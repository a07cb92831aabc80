"""Signatures of model files: ed25519 (Bernstein and others, "High-speed high-security signatures", CHES 2011)."""

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from stream.scoring.files import signed_bytes
from training.errors import TrainingError


def make_key(path: Path) -> str:
    """Write a new private key, readable by its owner alone; its public key as workers take it.

    Raises:
        FileExistsError: there is a file: a key that is overwritten is gone.
        OSError: the folder cannot be written to.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signature(path: Path, sha256_hex: str) -> bytes:
    """Sign a model file, by its SHA-256.

    Args:
        path: of the private key, PEM.
        sha256_hex: of the file.

    Raises:
        TrainingError: it is no such key.
        OSError: it cannot be read.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrainingError(f"{path}: no private key in PEM without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrainingError(f"{path}: {type(key).__name__}, not ed25519: `models keygen` makes one")
    return key.sign(signed_bytes(sha256_hex))
