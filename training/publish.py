"""The `models` topic from the publisher's side: files, and the pointers to those in force.

A file goes before the pointer to it, so that no reader finds a pointer to nothing. Files that no pointer names any more
are deleted: every worker holds the topic in memory.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stream.kafka.topics import publish_control, read_control
from stream.scoring.artefact import INLINE_BYTES_MAX, Metadata, ModelRefused, metadata_json
from stream.scoring.control import (
    BEFORE_MAX,
    CHALLENGER_KEY,
    CHAMPION_KEY,
    FILE_KEY_PREFIX,
    RETRAIN_KEY_PREFIX,
    SIGNATURE_KEY_PREFIX,
    URI_KEY_PREFIX,
    WITHDRAWN_KEY_PREFIX,
    Challenger,
    Champion,
    Mode,
    candidates,
    challenger_json,
    challenger_of,
    champion_of,
    file_key,
    is_withdrawn,
    key_of,
    pointer_json,
)
from stream.scoring.files import file_of, uri_json
from stream.scoring.model import read_metadata
from stream.scoring.watch import Fault
from training.errors import TrainingError

OF_A_FILE = (FILE_KEY_PREFIX, URI_KEY_PREFIX, SIGNATURE_KEY_PREFIX, WITHDRAWN_KEY_PREFIX, RETRAIN_KEY_PREFIX)
"""What is deleted with a file."""


class Published(NamedTuple):
    """A model file, and what it says of itself."""

    sha256: str
    size_bytes: int
    published_ms: int
    """Of the file's record; 0 where it is not from the topic."""
    role: str
    """`champion`, `shadow` or `canary`; "" for neither."""
    withdrawn: str
    """Why no pointer to it counts; "" where it may score."""
    metadata: Metadata | None
    problem: str
    """Why the metadata cannot be read, or the file is not what its key says; "" where all is well."""

    @property
    def champion(self) -> bool:
        """Whether it scores."""
        return self.role == "champion"

    def said(self) -> dict[str, Any]:
        """As JSON, without golden examples and reference bins."""
        metadata = None
        if self.metadata is not None:
            metadata = json.loads(metadata_json(self.metadata))
            del metadata["golden"]
            metadata["data"].pop("reference", None)
        return {**self._asdict(), "metadata": metadata}


class Register:
    """The topic as it was when it was read, and what may be said next."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        """Read the topic.

        Raises:
            SetupError: no broker answers, or the topic is not as it has to be.
        """
        self._bootstrap, self._topic = bootstrap, topic
        self._read()

    def _read(self) -> None:
        latest = read_control(self._bootstrap, self._topic)
        self.records: dict[bytes, bytes] = {
            key: record.value for key, record in latest.items() if record.value is not None
        }
        self.times_ms = {key: record.timestamp for key, record in latest.items()}

    def champion(self) -> Champion | None:
        """Who is named; None also where that cannot be read: workers refuse it, so nothing is in force by it."""
        try:
            return champion_of(self.records)
        except ModelRefused:
            return None

    def challenger(self) -> Challenger | None:
        """Who is on trial; as `champion`."""
        try:
            return challenger_of(self.records)
        except ModelRefused:
            return None

    def in_force(self) -> str:
        """SHA-256 of the model that workers score with, as far as the topic tells; "" where there is none."""
        try:
            return next(iter(candidates(self.records)), "")
        except ModelRefused:
            return ""

    def file(self, sha256_hex: str) -> bytes:
        """A published file.

        Raises:
            ModelRefused: it is not there, or not the one that is named.
        """
        return file_of(self.records, sha256_hex)

    def find(self, name: str) -> str:
        """SHA-256 of the model of this name: its beginning, `champion` (who is in force) or `challenger`.

        Raises:
            TrainingError: there is none, or several.
        """
        trial = self.challenger()
        if name in {"champion", "challenger"}:
            found = [self.in_force()] if name == "champion" else [trial.sha256 if trial else ""]
        else:
            found = [sha for sha in self.known() if sha.startswith(name)]
        if found == [""]:
            raise TrainingError("no model is in force" if name == "champion" else "no model is on trial")
        if len(found) != 1:
            raise TrainingError(f"{name}: {len(found) or 'no'} published models begin with that; see `models list`")
        return found[0]

    def known(self) -> list[str]:
        """SHA-256 of each model that there is a file of, or a place, in the order of publication."""
        keys = [key for key in self.records if key.startswith((FILE_KEY_PREFIX, URI_KEY_PREFIX))]
        return list(dict.fromkeys(key.split(b":", 1)[1].decode("ascii", "replace") for key in keys))

    # --- what is said

    def put(self, data: bytes, signature: bytes | None = None, uri: str = "") -> str:
        """Publish a file that was verified; nothing points to it yet. Its SHA-256.

        Args:
            data: the file.
            signature: of it.
            uri: where workers find it: for files too large for the topic.

        Raises:
            TrainingError: it is too large, and there is no place where it lies.
            DeliveryError: a record was not confirmed.
        """
        sha256_hex = hashlib.sha256(data).hexdigest()
        said: dict[bytes, bytes | None] = {}
        if uri:
            said[key_of(URI_KEY_PREFIX, sha256_hex)] = uri_json(uri, len(data))
        elif len(data) <= INLINE_BYTES_MAX:
            said[file_key(sha256_hex)] = data
        else:
            raise TrainingError(
                f"{len(data)} bytes do not fit a record ({INLINE_BYTES_MAX}): put the file where workers can read it, "
                "and name that place by --uri"
            )
        if signature is not None:
            said[key_of(SIGNATURE_KEY_PREFIX, sha256_hex)] = signature
        self._say(said)
        return sha256_hex

    def promote(self, sha256_hex: str, now_ms: int) -> None:
        """Make a published model the champion: what was withdrawn before may be put in force again.

        Raises:
            DeliveryError: a record was not confirmed.
        """
        named = self.champion()
        older = () if named is None else tuple(one for one in (named.sha256, *named.before) if one != sha256_hex)
        said = self._pardon(sha256_hex)
        said[CHAMPION_KEY] = pointer_json(sha256_hex, now_ms, older[:BEFORE_MAX])
        trial = self.challenger()
        if trial is not None and trial.sha256 == sha256_hex:
            said[CHALLENGER_KEY] = None
        self._say(said)
        self._delete_what_nobody_names()

    def try_out(self, sha256_hex: str, mode: Mode, share: float, now_ms: int) -> None:
        """Make a published model the challenger.

        Raises:
            TrainingError: it is the champion.
            DeliveryError: a record was not confirmed.
        """
        if sha256_hex == self.in_force():
            raise TrainingError(f"{sha256_hex[:16]} is the champion: there is nothing to try out")
        said = self._pardon(sha256_hex)
        said[CHALLENGER_KEY] = challenger_json(sha256_hex, now_ms, mode, share)
        self._say(said)
        self._delete_what_nobody_names()

    def end_trial(self) -> None:
        """Nobody is on trial any more.

        Raises:
            DeliveryError: a record was not confirmed.
        """
        self._say({CHALLENGER_KEY: None})

    def roll_back(self, now_ms: int) -> str:
        """Withdraw the champion in force, so that the one before it scores again; that one's SHA-256.

        Raises:
            TrainingError: there is no one before it.
            DeliveryError: a record was not confirmed.
        """
        fit = candidates(self.records)
        if len(fit) < 2:
            raise TrainingError("there is no model before the champion to go back to; see `models list`")
        said = {"fault": Fault.OPERATOR.value, "text": "rolled back by hand", "at_ms": now_ms}
        self._say({key_of(WITHDRAWN_KEY_PREFIX, fit[0]): json.dumps(said).encode()})
        return fit[1]

    def _pardon(self, sha256_hex: str) -> dict[bytes, bytes | None]:
        """That it is withdrawn no more, where it is: it may be put in force again."""
        withdrawn = key_of(WITHDRAWN_KEY_PREFIX, sha256_hex)
        return {withdrawn: None} if withdrawn in self.records else {}

    def _say(self, said: Mapping[bytes, bytes | None]) -> None:
        publish_control(self._bootstrap, self._topic, said)
        self._read()

    def _delete_what_nobody_names(self) -> None:
        champion, trial = self.champion(), self.challenger()
        named = {*((champion.sha256, *champion.before) if champion else ()), *((trial.sha256,) if trial else ())}
        gone = [
            key_of(prefix, sha) for sha in self.known() if sha not in named and sha.isascii() for prefix in OF_A_FILE
        ]
        if said := {key: None for key in gone if key in self.records}:
            self._say(said)


def published(register: Register) -> list[Published]:
    """Every model in the topic, in the order of publication."""
    trial, in_force = register.challenger(), register.in_force()
    found = []
    for sha256_hex in register.known():
        role = "champion" if sha256_hex == in_force else ""
        if trial is not None and trial.sha256 == sha256_hex:
            role = trial.mode.value
        try:
            file = of_file(register.file(sha256_hex))
        except ModelRefused as refused:
            raw = register.records.get(file_key(sha256_hex), b"")
            file = of_file(raw)._replace(sha256=sha256_hex, problem=f"{refused.reason}: {refused.text}")
        times_ms = (
            register.times_ms.get(key_of(prefix, sha256_hex), 0) for prefix in (FILE_KEY_PREFIX, URI_KEY_PREFIX)
        )
        found.append(file._replace(published_ms=max(times_ms), role=role, withdrawn=_why(register, sha256_hex)))
    return found


def _why(register: Register, sha256_hex: str) -> str:
    if not is_withdrawn(register.records, sha256_hex):
        return ""
    try:
        said = json.loads(register.records[key_of(WITHDRAWN_KEY_PREFIX, sha256_hex)])
        return f"{said['fault']}: {said['text']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "not said"


def of_file(data: bytes) -> Published:
    """A file by itself. Its graph is not run, so nothing is said of whether workers accept it."""
    metadata, problem = None, ""
    try:
        metadata = read_metadata(data)
    except ModelRefused as refused:
        problem = f"{refused.reason}: {refused.text}"
    return Published(hashlib.sha256(data).hexdigest(), len(data), 0, "", "", metadata, problem)


def file_or_published(name: str, register: Register) -> bytes:
    """The bytes of a model: a file of that path, else a published one of that name.

    Raises:
        TrainingError: there is none, or several.
        ModelRefused: the published one is not there, or not the one that is named.
        OSError: the file cannot be read.
    """
    path = Path(name)
    return path.read_bytes() if path.is_file() else register.file(register.find(name))


class Asked(NamedTuple):
    """A worker asks for a successor of the champion."""

    psi: dict[str, float]
    """Of what has moved."""


def retrain_asked(register: Register) -> Asked | None:
    """What workers found of the champion in force; None: nothing."""
    value = register.records.get(key_of(RETRAIN_KEY_PREFIX, register.in_force()))
    if value is None:
        return None
    try:
        return Asked({str(name): float(psi) for name, psi in json.loads(value)["psi"].items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Asked({})
