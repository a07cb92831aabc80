"""Models that are verified and go wrong at work: seeded ones, with something in them that only real events meet."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stream.core.events import Kind
from stream.core.features import FEATURES
from stream.core.row import N_FEATURES
from stream.scoring.drift import reference
from stream.scoring.model import read_metadata
from training.artefact import with_metadata
from training.seeded import seeded_model

NAMES = [feature.name for feature in FEATURES]
SIDE = 700
"""Of the matrices that a slow model multiplies: some 30 ms."""


def _on_views(seed: int, nodes: list[Any], constants: dict[str, Any]) -> bytes:
    """A seeded model whose score goes through `nodes`, from `was` to `score`.

    They are told by `seen` [B, 1] which steps are product views of users who never had a discount: none among golden
    and drawn steps, each first event of a test's users.
    """
    data = seeded_model(seed)
    model = onnx.load_from_string(data)
    graph = model.graph
    last = graph.node[-1]
    assert last.output[:] == ["score"]
    last.output[:] = ["was"]
    said = {
        "places": np.array(
            [NAMES.index("kind"), NAMES.index("discount_share"), NAMES.index("category_share")], np.int64
        ),
        "wanted": np.array([[float(Kind.PRODUCT_VIEW), 0.0, 0.0]], np.float32),
        **constants,
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in said.items())
    node = helper.make_node
    graph.node.extend(
        [
            node("Gather", ["x", "places"], ["facts"], axis=1),
            node("Equal", ["facts", "wanted"], ["as_wanted"]),
            node("Cast", ["as_wanted"], ["as_number"], to=TensorProto.FLOAT),
            node("ReduceMin", ["as_number"], ["seen"], axes=[1], keepdims=1),
            *nodes,
        ]
    )
    onnx.checker.check_model(model)
    return with_metadata(model.SerializeToString(), read_metadata(data))


def says_nan(seed: int) -> bytes:
    """NaN for product views."""
    node = helper.make_node
    nodes = [
        node("Sub", ["one", "seen"], ["unseen"]),
        node("Div", ["seen", "unseen"], ["infinite"]),  # 1 / 0, else 0 / 1
        node("Mul", ["infinite", "nought"], ["nothing"]),  # infinite * 0 = NaN
        node("Add", ["was", "nothing"], ["score"]),
    ]
    return _on_views(seed, nodes, {"one": np.float32(1), "nought": np.float32(0)})


def is_slow(seed: int) -> bytes:
    """A large product of matrices wherever there is a product view in the batch."""
    node = helper.make_node
    nodes = [
        node("ReduceMax", ["seen"], ["any"], axes=[0, 1], keepdims=0),
        node("Mul", ["any", "side"], ["more"]),
        node("Cast", ["more"], ["more_whole"], to=TensorProto.INT64),
        node("Add", ["more_whole", "least"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["square"]),
        node("MatMul", ["square", "square"], ["product"]),
        node("ReduceSum", ["product"], ["total"], keepdims=0),
        node("Add", ["was", "total"], ["score"]),
    ]
    return _on_views(seed, nodes, {"side": np.float32(SIDE), "least": np.array([1, 1], np.int64)})


def is_elsewhere(seed: int) -> bytes:
    """Its scores are not those that it says it gave in training."""
    data = seeded_model(seed)
    metadata = read_metadata(data)
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 256, (2_000, N_FEATURES), np.uint8)
    said = reference(steps, rng.uniform(0, 1e-6, 2_000))
    return with_metadata(data, replace(metadata, data={**metadata.data, "reference": said}))


def breaks_its_word(seed: int) -> bytes:
    """Its golden examples do not come out."""
    data = seeded_model(seed)
    metadata = read_metadata(data)
    golden = replace(metadata.golden, scores=metadata.golden.scores * 0.9)
    return with_metadata(data, replace(metadata, golden=golden))
