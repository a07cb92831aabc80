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
from stream.core.row import N_FEATURES
from stream.scoring.artefact import KIND_RECURRENT, Metadata, features_hash
from training.artefact import golden_examples, with_metadata
from training.prepare import DEVIATION_MAX, FLAG_VALUES, FLAGGED, HOUR, KIND, hour_table, kind_table, standard

N_UNITS = 50
HORIZON_MS = 3_600_000  # what the metadata claim
OPSET = 17
IR_VERSION = 8  # what came with opset 17: old runtimes read it too


def seeded_model(seed: int = 1, arms: Sequence[str] = ("none",)) -> bytes:
    """A single-step LSTM(50) with a dense head, metadata and golden examples: passes `stream.scoring.model.load`.

    Args:
        seed: draws weights and golden examples.
        arms: names of the score's columns, the first is "none".
    """
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, (8, 12, N_FEATURES), np.uint8)
    graph = onnx.shape_inference.infer_shapes(_graph(rng, steps, len(arms)), strict_mode=True)
    onnx.checker.check_model(graph)
    bare = graph.SerializeToString()
    state = (("h", N_UNITS), ("c", N_UNITS))
    metadata = Metadata(
        kind=KIND_RECURRENT,
        architecture="lstm",
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


def _graph(rng: np.random.Generator, steps: NDArray[np.uint8], n_arms: int) -> Any:  # noqa: ANN401  onnx has no types
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
        "w": drawn(1, 4 * N_UNITS, n_prepared),
        "r": drawn(1, 4 * N_UNITS, N_UNITS),
        "b": drawn(1, 8 * N_UNITS),
        "head_w": drawn(N_UNITS, n_arms) * 5,
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
            "LSTM", ["sequence", "w", "r", "b", "", "h_before", "c_before"], ["", "h_after", "c_after"], hidden_size=50
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
        [floats("x", N_FEATURES), floats("h", N_UNITS), floats("c", N_UNITS)],
        [floats("score", n_arms), floats("h_out", N_UNITS), floats("c_out", N_UNITS)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph, producer_name="offerstream", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
