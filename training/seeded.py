"""A model with drawn weights, made without TensorFlow in milliseconds: the same seed, the same bytes.

Its scores mean nothing, its cost is that of a trained model: tests and benchmarks of the worker use it. Needs onnx and
numpy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stream.core.features import FEATURES, dequantise
from stream.core.row import N_FEATURES, N_STEPS
from stream.scoring.artefact import KIND_RECURRENT, KIND_WINDOW, Metadata, features_hash
from stream.scoring.session import State
from training.artefact import golden_examples, with_metadata
from training.prepare import DEVIATION_MAX, FLAG_VALUES, FLAGGED, HOUR, KIND, hour_table, kind_table, standard

N_UNITS = 50
HORIZON_MS = 3_600_000  # what the metadata claim
Constants = dict[str, NDArray[Any]]
OPSET = 17
IR_VERSION = 8  # what came with opset 17: old runtimes read it too


def seeded_model(seed: int = 1, arms: Sequence[str] = ("none",), n_units: int = N_UNITS) -> bytes:
    """A single-step LSTM with a dense head, metadata and golden examples: passes `stream.scoring.model.load`.

    Args:
        seed: draws weights and golden examples.
        arms: names of the score's columns, the first is "none".
        n_units: of the LSTM; a row has room for 50.
    """
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, (8, 12, N_FEATURES), np.uint8)
    state = (("h", n_units), ("c", n_units))
    return _file(seed, _graph(rng, steps, len(arms), n_units), steps, arms, "lstm", state)


def seeded_window_model(seed: int = 1, n_units: int = 0) -> bytes:
    """A model of the window kind, which reads all of the last steps at every event: passes `stream.scoring.model.load`.

    Args:
        seed: draws weights and golden examples.
        n_units: of an LSTM with a dense head; 0 for a logistic regression on every feature of every step.
    """
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, (8, 2 * N_STEPS, N_FEATURES), np.uint8)
    graph = _window_graph(_lstm_over_window(rng, n_units) if n_units else _logistic(rng))
    return _file(seed, graph, steps, ("none",), "lstm" if n_units else "logistic", ())


def _file(
    seed: int,
    graph: Any,  # noqa: ANN401  onnx has no types
    steps: NDArray[np.uint8],
    arms: Sequence[str],
    architecture: str,
    state: State,
) -> bytes:
    """A graph with its metadata and golden examples."""
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(graph, strict_mode=True))
    bare = graph.SerializeToString()
    metadata = Metadata(
        kind=KIND_RECURRENT if state else KIND_WINDOW,
        architecture=architecture,
        arms=tuple(arms),
        horizon_ms=HORIZON_MS,
        state=state,
        golden=golden_examples(bare, steps, state),
        data={"seed": seed},
        metrics={},
        parent=None,
        commit="",
        features=tuple(feature.name for feature in FEATURES),
        features_hash=features_hash(),
    )
    return with_metadata(bare, metadata)


def _logistic(rng: np.random.Generator) -> tuple[Constants, list[Any]]:
    """Logit = sum over steps and features of w * value: constants and nodes."""
    constants: Constants = {
        "flat": np.array([-1, N_STEPS * N_FEATURES], np.int64),
        "w": rng.normal(0, 0.2 / N_FEATURES, (N_STEPS * N_FEATURES, 1)).astype(np.float32),
    }
    node = helper.make_node
    return constants, [node("Reshape", ["values", "flat"], ["row"]), node("MatMul", ["row", "w"], ["logit"])]


def _lstm_over_window(rng: np.random.Generator, n_units: int) -> tuple[Constants, list[Any]]:
    """Logit of an LSTM's last output: constants and nodes. Steps that are not there are zeros, before all others."""

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.2, shape).astype(np.float32)

    constants: Constants = {
        "r": drawn(1, 4 * n_units, n_units),
        "b": drawn(1, 8 * n_units),
        "w": drawn(1, 4 * n_units, N_FEATURES),
        "direction": np.array([0], np.int64),
        "head_w": drawn(n_units, 1),
        "head_b": drawn(1),
    }
    node = helper.make_node
    return constants, [
        node("Transpose", ["values"], ["by_step"], perm=[1, 0, 2]),
        node("LSTM", ["by_step", "w", "r", "b"], ["", "h_last"], hidden_size=n_units),
        node("Squeeze", ["h_last", "direction"], ["h"]),
        node("Gemm", ["h", "head_w", "head_b"], ["logit"]),
    ]


def _window_graph(body: tuple[Constants, list[Any]]) -> Any:  # noqa: ANN401  onnx has no types
    """Score = sigmoid of what a body makes of the values of the steps held, the others zero."""
    node = helper.make_node
    constants = {
        "places": np.arange(N_STEPS, dtype=np.float32)[None],
        "length": np.array(N_STEPS, np.float32),
        "axis": np.array([2], np.int64),
        **body[0],
    }
    nodes = [
        node("Sub", ["length", "held"], ["first"]),
        node("GreaterOrEqual", ["places", "first"], ["inside"]),
        node("Cast", ["inside"], ["there"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["there", "axis"], ["mask"]),
        node("Mul", ["x", "mask"], ["values"]),
        *body[1],
        node("Sigmoid", ["logit"], ["score"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "seeded_window",
        [
            info("x", TensorProto.FLOAT, ["B", N_STEPS, N_FEATURES]),
            info("held", TensorProto.FLOAT, ["B", 1]),
        ],
        [info("score", TensorProto.FLOAT, ["B", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _model(graph)


def _model(graph: Any) -> Any:  # noqa: ANN401
    return helper.make_model(
        graph, producer_name="offerstream", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )


def _graph(rng: np.random.Generator, steps: NDArray[np.uint8], n_arms: int, n_units: int) -> Any:  # noqa: ANN401  onnx has no types
    """The graph without metadata, an onnx.ModelProto."""
    mean, variance = standard(dequantise(steps.reshape(-1, N_FEATURES)))
    kinds, hours = kind_table(), hour_table()
    n_prepared = kinds.shape[1] + hours.shape[1] + len(FLAGGED) + N_FEATURES

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.2, shape).astype(np.float32)

    constants = {
        "kind_at": np.array(KIND, np.int64),
        "hour_at": np.array(HOUR, np.int64),
        "flagged_at": np.array(FLAGGED, np.int64),
        "kinds": kinds,
        "hours": hours,
        "flag_values": FLAG_VALUES,
        "mean": mean,
        "deviation": np.sqrt(variance),
        "lowest": np.array(-DEVIATION_MAX, np.float32),
        "highest": np.array(DEVIATION_MAX, np.float32),
        "time_axis": np.array([0], np.int64),
        "w": drawn(1, 4 * n_units, n_prepared),
        "r": drawn(1, 4 * n_units, n_units),
        "b": drawn(1, 8 * n_units),
        "head_w": drawn(n_units, n_arms) * 5,
        "head_b": drawn(n_arms),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["x", "kind_at"], ["kind"], axis=1),
        node("Cast", ["kind"], ["kind_code"], to=TensorProto.INT32),
        node("Gather", ["kinds", "kind_code"], ["kind_hot"]),
        node("Gather", ["x", "hour_at"], ["hour"], axis=1),
        node("Cast", ["hour"], ["hour_code"], to=TensorProto.INT32),
        node("Gather", ["hours", "hour_code"], ["hour_angle"]),
        node("Gather", ["x", "flagged_at"], ["flagged"], axis=1),
        node("Equal", ["flagged", "flag_values"], ["unknown"]),
        node("Cast", ["unknown"], ["flags"], to=TensorProto.FLOAT),
        node("Sub", ["x", "mean"], ["centred"]),
        node("Div", ["centred", "deviation"], ["deviations"]),
        node("Clip", ["deviations", "lowest", "highest"], ["standard"]),
        node("Concat", ["kind_hot", "hour_angle", "flags", "standard"], ["prepared"], axis=1),
        node("Unsqueeze", ["prepared", "time_axis"], ["sequence"]),
        node("Unsqueeze", ["h", "time_axis"], ["h_before"]),
        node("Unsqueeze", ["c", "time_axis"], ["c_before"]),
        node(
            "LSTM",
            ["sequence", "w", "r", "b", "", "h_before", "c_before"],
            ["", "h_after", "c_after"],
            hidden_size=n_units,
        ),
        node("Squeeze", ["h_after", "time_axis"], ["h_out"]),
        node("Squeeze", ["c_after", "time_axis"], ["c_out"]),
        node("Gemm", ["h_out", "head_w", "head_b"], ["logit"]),
        node("Sigmoid", ["logit"], ["score"]),
    ]

    def floats(name: str, width: int) -> Any:  # noqa: ANN401
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width])

    graph = helper.make_graph(
        nodes,
        "seeded",
        [floats("x", N_FEATURES), floats("h", n_units), floats("c", n_units)],
        [floats("score", n_arms), floats("h_out", n_units), floats("c_out", n_units)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _model(graph)
