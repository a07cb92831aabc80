"""Learned segments: a classifier in a file of its own, which says a segment's number from a row's newest step.

It is asked where a campaign's condition names the fact `learned_segment`, for all rows of a round at once, so it costs
nothing where no campaign does, and the row keeps nothing. The rules' segments (`stream.core.segments`) need no file:
workers work them out from columns.

The file is the value of the key `segments` in the `models` topic.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.core.row import N_FEATURES
from stream.scoring.artefact import INLINE_BYTES_MAX, ModelRefused, Refusal, features_hash
from stream.scoring.session import Session, open_file

SEGMENTS_KEY = b"segments"
SEGMENTS_METADATA_KEY = "offerstream_segments"
FORMAT = 1
INPUT, OUTPUT = "x", "segment"
NUMBER_MAX = 255
"""The number is one byte; 0 is nobody's."""

_BATCHES = (1, 7, 256)


class Segmenter:
    """A verified file; made by `load_segmenter`.

    Attributes:
        hex: the file's SHA-256.
        names: of the segments, by number.
        metadata: what the file says of itself.
    """

    def __init__(self, session: Session, metadata: Mapping[str, Any], sha256_hex: str) -> None:
        self.hex = sha256_hex
        self.metadata = metadata
        self.names: dict[int, str] = {int(number): str(name) for number, name in metadata["names"].items()}
        self._session = session

    def of(self, steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The segment's number after each step, uint8 [n].

        Args:
            steps: uint8 [n, F], n >= 1.
        """
        (numbers,) = self._session.run([OUTPUT], {INPUT: dequantise(steps)})
        return numbers.reshape(-1).astype(np.uint8)


def load_segmenter(data: bytes) -> Segmenter:
    """Verify a file and make it ready.

    1. Size; the runtime accepts the graph.
    2. Metadata: of this format, made for the step that this version makes, names within a byte.
    3. Stored steps get the segments that they got where the file was made, at any size of the batch, and every number
       that comes out has a name.

    Raises:
        ModelRefused: with the first reason found.
    """
    # 1.
    session = open_file(data, INLINE_BYTES_MAX)
    # 2.
    metadata = _metadata(session)
    segmenter = Segmenter(session, metadata, hashlib.sha256(data).hexdigest())
    # 3.
    try:
        steps = np.array(metadata["golden"]["steps"], np.uint8).reshape(-1, N_FEATURES)
        expected = np.array(metadata["golden"]["segments"], np.uint8)
        found = segmenter.of(steps)
        in_parts = [[segmenter.of(part) for part in _parts(steps, size)] for size in _BATCHES]
        drawn = segmenter.of(np.random.default_rng(0).integers(0, 256, (1_000, N_FEATURES), np.uint8))
    except Exception as error:  # the runtime's: shapes that only show when it runs
        raise ModelRefused(Refusal.IO_DIFFER, f"it does not run as segments of steps: {error}") from error
    if len(steps) < max(_BATCHES):
        raise ModelRefused(Refusal.METADATA_INVALID, f"{len(steps)} golden steps; at least {max(_BATCHES)}")
    if not np.array_equal(found, expected):
        raise ModelRefused(Refusal.GOLDEN_DIFFER, "stored steps get other segments than where the file was made")
    if any(not np.array_equal(np.concatenate(parts), expected) for parts in in_parts):
        raise ModelRefused(Refusal.BATCH_SIZE_DIFFER, "other segments in batches of another size")
    unnamed = sorted({*found.tolist(), *drawn.tolist()} - segmenter.names.keys())
    if unnamed:
        raise ModelRefused(Refusal.METADATA_INVALID, f"segments {unnamed} have no name")
    return segmenter


def segments_in(records: Mapping[bytes, bytes]) -> bytes | None:
    """The file in force, yet to be verified; None where there is none."""
    return records.get(SEGMENTS_KEY)


def _parts(steps: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def _metadata(session: Session) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(SEGMENTS_METADATA_KEY)
    if text is None:
        raise ModelRefused(Refusal.METADATA_MISSING, f"no metadata under the key {SEGMENTS_METADATA_KEY!r}")
    try:
        said: dict[str, Any] = json.loads(text)
        if said["format"] != FORMAT:
            raise ModelRefused(Refusal.METADATA_INVALID, f"format {said['format']!r}; this version reads {FORMAT}")
        if said["features_hash"] != features_hash():
            raise ModelRefused(Refusal.FEATURES_DIFFER, "it was made for other steps than this version makes")
        numbers = [int(number) for number in said["names"]]
        if not numbers or min(numbers) < 1 or max(numbers) > NUMBER_MAX:
            raise ModelRefused(Refusal.METADATA_INVALID, f"segments {numbers}: from 1 to {NUMBER_MAX}")
        _ = said["golden"]["steps"], said["golden"]["segments"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelRefused(Refusal.METADATA_INVALID, f"{type(error).__name__}: {error}") from error
    return said
