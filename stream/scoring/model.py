"""A model in force: verified once, then one step per event.

model = load(file_of(records, sha))   verified, or ModelRefused: the one in force goes on
scores = model.score(steps, rows)     f32[n, A], the rows' hidden state moved on by one event
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.core.row import N_FEATURES, N_STEPS, Rows
from stream.scoring.artefact import (
    HELD_INPUT,
    KIND_RECURRENT,
    METADATA_KEY,
    MODEL_BYTES_MAX,
    OUT_SUFFIX,
    SCORE_OUTPUT,
    STEP_INPUT,
    Metadata,
    ModelRefused,
    Refusal,
    parse_metadata,
)
from stream.scoring.network import Recurrent, Windowed
from stream.scoring.session import Memory, Session, open_file, run_sequence

GOLDEN_TOLERANCE = 1e-5
BATCH_SIZES = (1, 2, 7, 64, 1000)
"""A user's score must not depend on who else is in the batch: the same bits at each of these."""

BATCHES_MAX = 64
"""Of each size: a kernel that sums in another order shows in the first of them, and workers score meanwhile."""

_FLOAT = "tensor(float)"


class Model:
    """A verified model; made by `load`. Not for use by two threads at once on the same rows.

    Attributes:
        hash: first 8 bytes of the file's SHA-256, as a number: what stands in a row's `model`.
        hex: the file's SHA-256.
        metadata: what the file says of itself.
    """

    def __init__(self, session: Session, metadata: Metadata, sha256: bytes) -> None:
        self.hash = int.from_bytes(sha256[:8], "big")
        self.hex = sha256.hex()
        self.metadata = metadata
        self.session = session
        recurrent = metadata.kind == KIND_RECURRENT
        self._network = Recurrent(session, metadata, self.hash) if recurrent else Windowed(session)

    def score(self, steps: NDArray[np.uint8], rows: Rows) -> NDArray[np.float32]:
        """Say what the model thinks of each row after its event, and move its hidden state on.

        Args:
            steps: uint8 [n, F], the events just absorbed; each is the newest step in its row's ring already.
            rows: ROW [n], each user at most once; `state` and `model` are changed in place.

        Returns:
            float32 [n, A], column 0 is P(purchase within the horizon | no offer).
        """
        if not len(rows):
            return np.empty((0, len(self.metadata.arms)), np.float32)
        return self._network.score(steps, rows)

    @property
    def replayed(self) -> int:
        """Steps that the latest `score` replayed before those it was given, to rebuild what another model left."""
        return self._network.replayed

    def fresh(self, n: int) -> Memory:
        """What is known of n users before their first event, for `advance`; the first axis is the user."""
        return self._network.fresh(n)

    def drawn(self, n: int, rng: np.random.Generator) -> Memory:
        """As `fresh`, of users with some past: what `advance` must cope with."""
        return self._network.drawn(n, rng)

    def advance(self, steps: NDArray[np.uint8], memory: Memory) -> NDArray[np.float32]:
        """One step for each of n users that have no row, to the same scores.

        Args:
            steps: uint8 [n, F], n >= 1.
            memory: of `fresh`, changed in place, any strides.

        Returns:
            scores float32 [n, A].
        """
        return self._network.advance(steps, memory)


def unscored(rows: Rows) -> NDArray[np.float32]:
    """What stands in for scores while no model is in force: NaN, float32 [n, 1].

    The rows' hidden state misses these events from now on, so it is marked as no model's, and is rebuilt when there is
    one again.
    """
    rows["model"] = 0
    return np.full((len(rows), 1), np.nan, np.float32)


def load(data: bytes, golden_tolerance: float = GOLDEN_TOLERANCE) -> Model:
    """Verify a model file and make it ready to score.

    1. Size, before anything is parsed.
    2. The runtime accepts the graph.
    3. Metadata: there, of a known format and kind, made for the step that this version makes.
    4. Inputs and outputs are those of the kind: a single step with the state that the metadata name, or a window.
    5. The golden examples come out as they did where the model was made.
    6. Scores and states are numbers, scores lie in [0, 1], and bits do not depend on the batch size.

    Args:
        data: the ONNX file.
        golden_tolerance: largest absolute difference to the golden scores.

    Raises:
        ModelRefused: with the first reason found.
    """
    # 1., 2., 3.
    session, metadata = _open(data)
    # 4.
    _check_io(session, metadata)
    # 5., 6.
    model = Model(session, metadata, hashlib.sha256(data).digest())
    try:
        _check_golden(model, golden_tolerance)
        _check_bits(model)
    except ModelRefused:
        raise
    except Exception as error:  # the runtime's: shapes that only show when it runs
        raise ModelRefused(Refusal.IO_DIFFER, f"the graph does not run as its kind: {error}") from error
    return model


def read_metadata(data: bytes) -> Metadata:
    """What a model file says of itself; whether it is true is not looked at.

    Raises:
        ModelRefused: the file is too large or not ONNX, or its metadata cannot be read.
    """
    return _open(data)[1]


def _open(data: bytes) -> tuple[Session, Metadata]:
    # 1., 2.
    session = open_file(data, MODEL_BYTES_MAX)
    # 3.
    return session, parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))


def _check_io(session: Session, metadata: Metadata) -> None:
    inputs: dict[str, list[int]] = {STEP_INPUT: [N_STEPS, N_FEATURES], HELD_INPUT: [1]}
    if metadata.kind == KIND_RECURRENT:
        inputs = {STEP_INPUT: [N_FEATURES], **{name: [width] for name, width in metadata.state}}
    outputs = {SCORE_OUTPUT: [len(metadata.arms)]}
    outputs |= {name + OUT_SUFFIX: [width] for name, width in metadata.state}
    for what, wanted, found in (("inputs", inputs, session.get_inputs()), ("outputs", outputs, session.get_outputs())):
        said = {node.name: (node.type, node.shape) for node in found}
        fits = said.keys() == wanted.keys() and all(
            kind == _FLOAT and shape and not isinstance(shape[0], int) and shape[1:] == wanted[name]
            for name, (kind, shape) in said.items()
        )
        if not fits:
            raise ModelRefused(Refusal.IO_DIFFER, f"{what} {said}; expected float [batch, ...] of {wanted}")


def golden_difference(model: Model) -> float:
    """Largest absolute difference between the golden scores and those of today; NaN where one is not a number."""
    golden = model.metadata.golden
    scores = run_sequence(model.session, dequantise(golden.steps), model.metadata.state)
    _check_scores(scores)
    return float(np.abs(scores - golden.scores).max())


def _check_golden(model: Model, tolerance: float) -> None:
    difference = golden_difference(model)
    if not difference <= tolerance:  # a NaN in the stored scores is a difference too
        raise ModelRefused(Refusal.GOLDEN_DIFFER, f"golden scores differ by {difference:g}; at most {tolerance:g}")


def _check_bits(model: Model) -> None:
    """Any bytes are a possible step: drawn ones reach more of the network than golden examples do."""
    rng = np.random.default_rng(0)
    n = max(BATCH_SIZES)
    steps = rng.integers(0, 256, (n, N_FEATURES), np.uint8)
    memory = model.drawn(n, rng)
    scores, after = _in_batches(model, steps, memory, n)
    _check_scores(scores)
    if not np.isfinite(after).all():
        raise ModelRefused(Refusal.NAN, "the state becomes infinite or not a number")
    for size in BATCH_SIZES:
        rows = min(n, size * BATCHES_MAX)
        found = _in_batches(model, steps[:rows], memory[:rows], size)
        if found[0].tobytes() != scores[:rows].tobytes() or found[1].tobytes() != after[:rows].tobytes():
            raise ModelRefused(Refusal.BATCH_SIZE_DIFFER, f"other bits in batches of {size} than in one of {n}")


def _in_batches(
    model: Model, steps: NDArray[np.uint8], memory: Memory, size: int
) -> tuple[NDArray[np.float32], Memory]:
    after = memory.copy()
    parts = [slice(start, start + size) for start in range(0, len(steps), size)]
    scores = np.concatenate([model.advance(steps[part], after[part]) for part in parts])
    return scores, after


def _check_scores(scores: NDArray[np.float32]) -> None:
    if not np.isfinite(scores).all():
        raise ModelRefused(Refusal.NAN, "a score is infinite or not a number")
    if scores.min() < 0 or scores.max() > 1:
        raise ModelRefused(Refusal.SCORE_RANGE, f"scores from {scores.min():g} to {scores.max():g}; must lie in [0, 1]")
