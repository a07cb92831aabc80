"""A file of segments made by hand, which anybody can check by eye."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from stream.core.features import FEATURES
from stream.core.row import N_FEATURES
from stream.scoring.artefact import features_hash
from stream.scoring.segments import SEGMENTS_METADATA_KEY

TENURE = [feature.name for feature in FEATURES].index("tenure")


def segments_file(**changes: object) -> bytes:
    """Segment 1 for tenure up to 10 (log2 s), 2 beyond."""
    steps = np.random.default_rng(1).integers(0, 256, (256, N_FEATURES), np.uint8)
    said = {
        "format": 1,
        "features_hash": features_hash(),
        "names": {"1": "known briefly", "2": "known for long"},
        "golden": {"steps": steps.tolist(), "segments": np.where(steps[:, TENURE] > 80, 2, 1).tolist()},
        **changes,
    }
    constants = [
        numpy_helper.from_array(np.array(TENURE), "place"),
        numpy_helper.from_array(np.array(10, np.float32), "limit"),
        numpy_helper.from_array(np.array(1), "one"),
    ]
    nodes = [
        helper.make_node("Gather", ["x", "place"], ["tenure"], axis=1),
        helper.make_node("Greater", ["tenure", "limit"], ["above"]),
        helper.make_node("Cast", ["above"], ["added"], to=TensorProto.INT64),
        helper.make_node("Add", ["added", "one"], ["segment"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, N_FEATURES])
    out = helper.make_tensor_value_info("segment", TensorProto.INT64, [None])
    graph = helper.make_graph(nodes, "segments", [x], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {SEGMENTS_METADATA_KEY: json.dumps(said)})
    data: bytes = model.SerializeToString()
    return data
