"""Files that appear whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; its folder is made.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; it names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        # A disk that is full says so without a name, and the name of the part would tell nobody anything.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, said: dict[str, Any]) -> None:
    """Write a document without NaN.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_whole(path, json.dumps(said, indent=2, allow_nan=False).encode() + b"\n")
