"""The peer's model: an LSTM(50) that reads a window of 30 steps of 10 features, weights drawn from a seed."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WINDOW, FEATURES, UNITS = 30, 10, 50


def window_model(seed: int) -> bytes:
    """An ONNX file: x float32 [B, WINDOW, FEATURES], oldest first, to score float32 [B, 1] in 0 to 1."""
    rng = np.random.default_rng(seed)

    def drawn(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(shape[-1])).astype("f4"), name)

    weights = [
        drawn("W", 1, 4 * UNITS, FEATURES),
        drawn("R", 1, 4 * UNITS, UNITS),
        drawn("B", 1, 8 * UNITS),
        drawn("dense", UNITS, 1),
        numpy_helper.from_array(np.array([0], "i8"), "direction"),
    ]
    nodes = [
        helper.make_node("Transpose", ["x"], ["by_step"], perm=[1, 0, 2]),  # ONNX' LSTM reads [T, B, F]
        helper.make_node("LSTM", ["by_step", "W", "R", "B"], ["", "h_last"], hidden_size=UNITS),
        helper.make_node("Squeeze", ["h_last", "direction"], ["h"]),
        helper.make_node("MatMul", ["h", "dense"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "window",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", WINDOW, FEATURES])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
