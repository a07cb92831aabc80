"""ONNX Runtime, set up as a worker needs it, and the two casts between a row's float16 and the network's float32."""

from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stream.core.row import N_FEATURES, N_STEPS
from stream.scoring.artefact import HELD_INPUT, OUT_SUFFIX, SCORE_OUTPUT, STEP_INPUT, ModelRefused, Refusal

State = tuple[tuple[str, int], ...]
"""Names and widths of the carried state, in the order in which they stand in a row's `state`; the window kind has none.
"""

Memory = NDArray[Any]
"""All that a network needs to know of n users before an event: see `stream.scoring.network`."""

_FATAL = 4  # onnxruntime's severity: what goes wrong arrives as an exception, not a second time on the terminal

_CAST_ROWS_MIN = 64  # below it numpy's element by element cast costs less than a call of the runtime

# The ONNX file of one Cast node, float16 to float32 and back, x [n] to y [n], opset 17. The runtime uses the CPU's
# conversion instructions where numpy goes element by element: 0.015 against 0.2 us for the 100 halves of a row, and the
# same bits.
_TO_FLOAT = bytes.fromhex(
    "08083a400a170a01781201792204436173742a090a02746f1801a001021201675a100a0178120b0a09080a12050a0312"
    "016e62100a0179120b0a09080112050a0312016e42040a001011"
)
_TO_HALF = bytes.fromhex(
    "08083a400a170a01781201792204436173742a090a02746f180aa001021201675a100a0178120b0a09080112050a0312"
    "016e62100a0179120b0a09080a12050a0312016e42040a001011"
)


class Session(Protocol):
    """The part of onnxruntime.InferenceSession that is used here; onnxruntime has no types."""

    def run(self, output_names: list[str], input_feed: dict[str, Any]) -> list[Any]: ...  # noqa: D102
    def get_inputs(self) -> list[Any]: ...  # noqa: D102
    def get_outputs(self) -> list[Any]: ...  # noqa: D102
    def get_modelmeta(self) -> Any: ...  # noqa: ANN401, D102


def open_session(data: bytes) -> Session:
    """A session on one thread, without arena and pattern: replacing models does not grow the process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = _FATAL
    session: Session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session


def open_file(data: bytes, bytes_max: int) -> Session:
    """A session of a published file, whose size is looked at before anything is parsed.

    Raises:
        ModelRefused: it is too large, or the runtime does not accept the graph.
    """
    if len(data) > bytes_max:
        raise ModelRefused(Refusal.TOO_LARGE, f"{len(data)} bytes; at most {bytes_max}")
    try:
        return open_session(data)
    except Exception as error:  # the runtime's exceptions share no base class below this
        raise ModelRefused(Refusal.NOT_ONNX, f"the runtime does not accept {len(data)} bytes: {error}") from error


class Halves:
    """Casts between float16 and float32, rounding to nearest even: numpy's bits at a tenth of its cost."""

    def __init__(self) -> None:
        self._to_float = open_session(_TO_FLOAT)
        self._to_half = open_session(_TO_HALF)

    def to_float(self, halves: NDArray[np.float16]) -> NDArray[np.float32]:
        """float32 [n, w] from float16 [n, w], any strides."""
        if len(halves) < _CAST_ROWS_MIN:
            return halves.astype(np.float32)
        (floats,) = self._to_float.run(["y"], {"x": np.ascontiguousarray(halves).reshape(-1)})
        shaped: NDArray[np.float32] = floats.reshape(halves.shape)
        return shaped

    def to_half(self, floats: NDArray[np.float32]) -> NDArray[np.float16]:
        """float16 [n, w] from contiguous float32 [n, w]."""
        if len(floats) < _CAST_ROWS_MIN:
            return floats.astype(np.float16)
        (halves,) = self._to_half.run(["y"], {"x": floats.reshape(-1)})
        shaped: NDArray[np.float16] = halves.reshape(floats.shape)
        return shaped


def pushed(window: NDArray[Any], step: NDArray[Any]) -> NDArray[Any]:
    """Windows [n, T, F], oldest first, each with one more step [n, F] at its end and one less at its beginning."""
    return np.concatenate([window[:, 1:], step[:, None]], axis=1)


def run_sequence(session: Session, values: NDArray[np.float32], state: State) -> NDArray[np.float32]:
    """Go through histories from their first step, a state carried in float32 and not rounded.

    Args:
        session: a graph of one step, or of one window where there is no state.
        values: float32 [S, T, F], dequantised.
        state: names and widths of the carried state.

    Returns:
        scores float32 [S, T, A].
    """
    carried = {name: np.zeros((len(values), width), np.float32) for name, width in state}
    outputs = [SCORE_OUTPUT, *(name + OUT_SUFFIX for name in carried)]
    window = np.zeros((len(values), N_STEPS, N_FEATURES), np.float32)
    scores = []
    for t in range(values.shape[1]):
        if carried:
            feed = {STEP_INPUT: np.ascontiguousarray(values[:, t]), **carried}
        else:
            window = pushed(window, values[:, t])
            feed = {STEP_INPUT: window, HELD_INPUT: np.full((len(values), 1), min(t + 1, N_STEPS), np.float32)}
        score, *after = session.run(outputs, feed)
        carried = dict(zip(carried, after, strict=True))
        scores.append(score)
    return np.stack(scores, axis=1)
