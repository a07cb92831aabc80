"""The model file: one ONNX graph whose metadata say what it was trained on, what it answers, and how to check it.

The trainer writes what stands here, the worker reads it: names, limits and the golden examples' encoding have one
place.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FEATURES
from stream.core.row import N_FEATURES, N_STATE
from stream.errors import OfferstreamError

METADATA_KEY = "offerstream"
"""Where in the ONNX file's metadata map our JSON stands."""

FORMAT = 1
"""Of the metadata. A change that old workers cannot read takes a new number."""

KIND_RECURRENT = "recurrent"
"""One step per event, hidden state carried in the row."""

KIND_WINDOW = "window"
"""The last steps at every event, out of the row's ring; no state."""

KINDS = (KIND_RECURRENT, KIND_WINDOW)

PURCHASE = "purchase"
"""The score is P(purchase within the horizon), for each arm."""

DEPTH = "depth"
"""The score is the share of the price that must be taken off for the user to buy: for the linear policy."""

MODEL_BYTES_MAX = 64 << 20
"""A worker holds the file, and the network made from it, for each model in force."""

INLINE_BYTES_MAX = 900_000
"""Travels inside one Kafka record; brokers take 1 MiB by default, headers and key included. Larger files are fetched
from the place that the topic names."""

ARMS_MAX = 16

STEP_INPUT = "x"
HELD_INPUT = "held"
"""Of the window kind: how many of the steps are there, the newest ones; what stands before them means nothing."""
SCORE_OUTPUT = "score"
OUT_SUFFIX = "_out"
"""State `h` comes in as `h` and goes out as `h_out`."""


@unique
class Refusal(StrEnum):
    """Why a model is not taken over: the label of a metric, so append and never rename."""

    NOT_ONNX = "not_onnx"
    TOO_LARGE = "too_large"
    METADATA_MISSING = "metadata_missing"
    METADATA_INVALID = "metadata_invalid"
    KIND_UNKNOWN = "kind_unknown"
    FEATURES_DIFFER = "features_differ"
    IO_DIFFER = "io_differ"
    NAN = "nan"
    SCORE_RANGE = "score_range"
    GOLDEN_DIFFER = "golden_differ"
    BATCH_SIZE_DIFFER = "batch_size_differ"
    POINTER_INVALID = "pointer_invalid"
    FILE_MISSING = "file_missing"
    SHA256_DIFFERS = "sha256_differs"
    NOT_SIGNED = "not_signed"
    SIGNATURE_INVALID = "signature_invalid"
    FETCH_FAILED = "fetch_failed"
    ARMS_DIFFER = "arms_differ"


class ModelRefused(OfferstreamError):  # noqa: N818  the protocol's word: the old model goes on
    """A model must not be taken over; the one in force goes on.

    Attributes:
        reason: machine-readable.
    """

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(f"model refused ({reason}): {text}")
        self.reason = reason
        self.text = text


@dataclass(frozen=True)
class Golden:
    """Stored input and expected output: what the model said where it was made.

    The state is carried in float32 and not rounded between these steps. Rounding turns a difference in the last bit,
    which another CPU may well show, into one of 2^-11, so golden examples with rounding could not be held to 1e-5 on
    other machines.
    """

    steps: NDArray[np.uint8]
    """[S, T, F], S histories from their first step."""
    scores: NDArray[np.float32]
    """[S, T, A]."""


@dataclass(frozen=True)
class Metadata:
    """What a model file says of itself."""

    kind: str
    architecture: str
    arms: tuple[str, ...]
    horizon_ms: int
    state: tuple[tuple[str, int], ...]
    """Names and widths, in the order in which they stand in a row's `state`; empty for the window kind."""
    golden: Golden
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    parent: str | None
    commit: str
    features: tuple[str, ...]
    features_hash: str
    answers: str = PURCHASE
    """What the score is: PURCHASE or DEPTH."""

    @property
    def n_state(self) -> int:
        """Halves of a row's `state` that this model uses."""
        return sum(width for _, width in self.state)


def features_hash() -> str:
    """Fingerprint of the step: names, order and scales. A model trained on another step must not be fed this one."""
    said = json.dumps([[feature.name, feature.scale] for feature in FEATURES], separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def metadata_json(metadata: Metadata) -> str:
    """The JSON that stands under `METADATA_KEY`."""
    return json.dumps(
        {
            "format": FORMAT,
            "kind": metadata.kind,
            "architecture": metadata.architecture,
            "features": list(metadata.features),
            "features_hash": metadata.features_hash,
            "answers": metadata.answers,
            "arms": list(metadata.arms),
            "horizon_ms": metadata.horizon_ms,
            "state": [list(part) for part in metadata.state],
            "data": dict(metadata.data),
            "metrics": dict(metadata.metrics),
            "parent": metadata.parent,
            "commit": metadata.commit,
            "golden": {"steps": _array_text(metadata.golden.steps), "scores": _array_text(metadata.golden.scores)},
        },
        allow_nan=False,
    )


def parse_metadata(text: str | None) -> Metadata:
    """Read and check the JSON under `METADATA_KEY`.

    Raises:
        ModelRefused: missing; not the JSON of this format; of a kind this version cannot run; trained on another step.
    """
    if text is None:
        raise ModelRefused(Refusal.METADATA_MISSING, f"the file has no metadata under the key {METADATA_KEY!r}")
    try:
        said = json.loads(text)
        if said["format"] != FORMAT:
            raise _invalid(f"format {said['format']!r}; this version reads format {FORMAT}")
        if said["kind"] not in KINDS:
            raise ModelRefused(Refusal.KIND_UNKNOWN, f"kind {said['kind']!r}; this version runs {', '.join(KINDS)}")
        metadata = Metadata(
            kind=said["kind"],
            architecture=str(said["architecture"]),
            arms=tuple(str(arm) for arm in said["arms"]),
            horizon_ms=int(said["horizon_ms"]),
            state=tuple((str(name), int(width)) for name, width in said["state"]),
            golden=Golden(_array(said["golden"]["steps"]), _array(said["golden"]["scores"])),
            data=dict(said["data"]),
            metrics=dict(said["metrics"]),
            parent=None if said["parent"] is None else str(said["parent"]),
            commit=str(said["commit"]),
            features=tuple(str(name) for name in said["features"]),
            features_hash=str(said["features_hash"]),
            answers=str(said.get("answers", PURCHASE)),  # files made before there was more than one answer
        )
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MemoryError) as error:
        raise _invalid(f"{type(error).__name__}: {error}") from error
    _check(metadata)
    return metadata


def _check(metadata: Metadata) -> None:
    if metadata.features_hash != features_hash():
        ours, theirs = [feature.name for feature in FEATURES], list(metadata.features)
        what = f"it wants {theirs}, this version makes {ours}" if ours != theirs else "same names, other scales"
        raise ModelRefused(Refusal.FEATURES_DIFFER, what)
    arms = metadata.arms
    if not 1 <= len(arms) <= ARMS_MAX or arms[0] != "none" or len(set(arms)) != len(arms):
        raise _invalid(f'arms {list(arms)}: 1 to {ARMS_MAX} different names, the first of them "none"')
    if metadata.answers not in {PURCHASE, DEPTH} or (metadata.answers == DEPTH and len(arms) > 1):
        raise _invalid(f"answers {metadata.answers!r} for {len(arms)} arms: {PURCHASE!r}, or {DEPTH!r} for one arm")
    if metadata.horizon_ms <= 0:
        raise _invalid(f"horizon_ms {metadata.horizon_ms}: must be positive")
    names = [name for name, _ in metadata.state]
    if len(set(names)) != len(names) or any(width <= 0 for _, width in metadata.state):
        raise _invalid(f"state {metadata.state}: different names with positive widths")
    if bool(names) != (metadata.kind == KIND_RECURRENT):
        raise _invalid(f"state {metadata.state}: {KIND_RECURRENT!r} has one, {KIND_WINDOW!r} has none")
    if metadata.n_state > N_STATE:
        raise _invalid(f"a state of {metadata.n_state}; a row has room for {N_STATE}")
    steps, scores = metadata.golden.steps, metadata.golden.scores
    if steps.dtype != np.uint8 or steps.ndim != 3 or steps.size == 0 or steps.shape[2] != N_FEATURES:
        raise _invalid(f"golden steps {steps.dtype} {list(steps.shape)}: expected uint8 [S, T, {N_FEATURES}]")
    if scores.dtype != np.float32 or scores.shape != (*steps.shape[:2], len(arms)):
        raise _invalid(f"golden scores {scores.dtype} {list(scores.shape)}: expected float32 [S, T, {len(arms)}]")


def _invalid(text: str) -> ModelRefused:
    return ModelRefused(Refusal.METADATA_INVALID, text)


def _array_text(array: NDArray[Any]) -> str:
    stored = io.BytesIO()
    np.save(stored, array, allow_pickle=False)
    return base64.b64encode(stored.getvalue()).decode("ascii")


def _array(text: str) -> NDArray[Any]:
    stored = io.BytesIO(base64.b64decode(text, validate=True))
    try:
        loaded: NDArray[Any] = np.lib.format.read_array(stored, allow_pickle=False)
    except (SyntaxError, TokenError) as error:  # numpy reads an odd header as Python
        raise ValueError(f"an array's header: {error}") from error
    return loaded
