"""The `models` topic from the publisher's side: files and the pointer to the one in force."""

import hashlib
import json
from typing import Any, NamedTuple

from stream.kafka.topics import publish_control, read_control
from stream.scoring.artefact import Metadata, ModelRefused, Refusal, metadata_json
from stream.scoring.control import CHAMPION_KEY, FILE_KEY_PREFIX, champion_sha256, file_key, pointer_json
from stream.scoring.model import read_metadata


class Published(NamedTuple):
    """A model file, and what it says of itself."""

    sha256: str
    size_bytes: int
    published_ms: int
    """Of the file's record; 0 where it is not from the topic."""
    champion: bool
    metadata: Metadata | None
    problem: str
    """Why the metadata cannot be read, or the file is not what its key says; "" where all is well."""

    def said(self) -> dict[str, Any]:
        """As JSON, without the golden examples."""
        metadata = None
        if self.metadata is not None:
            metadata = json.loads(metadata_json(self.metadata))
            del metadata["golden"]
        return {**self._asdict(), "metadata": metadata}


def publish_champion(bootstrap: str, topic: str, data: bytes, now_ms: int) -> None:
    """Publish a file that was verified, then point to it: in this order, so that no reader finds a pointer to nothing.

    Raises:
        SetupError: no broker answers, or the topic is not as it has to be.
        DeliveryError: a record was not confirmed.
    """
    sha256_hex = hashlib.sha256(data).hexdigest()
    publish_control(bootstrap, topic, {file_key(sha256_hex): data, CHAMPION_KEY: pointer_json(sha256_hex, now_ms)})


def published(bootstrap: str, topic: str) -> list[Published]:
    """Every model in the topic, in the order of publication.

    Raises:
        SetupError: no broker answers, or the topic is not as it has to be.
    """
    latest = read_control(bootstrap, topic)
    pointer = latest.get(CHAMPION_KEY)
    try:
        champion = "" if pointer is None or pointer.value is None else champion_sha256(pointer.value)
    except ModelRefused:
        champion = ""  # workers refuse it, so nothing is in force by it
    found = []
    for key, record in latest.items():
        if key.startswith(FILE_KEY_PREFIX) and record.value is not None:
            sha256_hex = key.removeprefix(FILE_KEY_PREFIX).decode("ascii", "replace")
            file = of_file(record.value)
            if file.sha256 != sha256_hex:
                problem = f"{Refusal.SHA256_DIFFERS}: the file's is {file.sha256}"
                file = file._replace(sha256=sha256_hex, problem=problem)
            found.append(file._replace(published_ms=record.timestamp, champion=sha256_hex == champion))
    return found


def of_file(data: bytes) -> Published:
    """A file by itself. Its graph is not run, so nothing is said of whether workers accept it."""
    metadata, problem = None, ""
    try:
        metadata = read_metadata(data)
    except ModelRefused as refused:
        problem = f"{refused.reason}: {refused.text}"
    return Published(hashlib.sha256(data).hexdigest(), len(data), 0, champion=False, metadata=metadata, problem=problem)
