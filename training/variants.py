"""Smaller files of the same network: weights in 16 or 8 bit, widened when the file is loaded.

Computing stays in float32, so a score does not depend on who else is in the batch. Dynamic quantisation, which rounds
activations by the range of the whole batch, would make it depend, and workers refuse that.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stream.scoring.artefact import METADATA_KEY
from stream.scoring.model import Model, load
from training.artefact import golden_examples, with_metadata
from training.dataset import Dataset
from training.gates import score_us
from training.metrics import auc, log_loss
from training.serve import carried

SIZE_MIN = 256
"""Numbers in a constant that is narrowed: tables of codes and thresholds stay exact."""

LOSS_MORE_MAX = 1e-3
"""Log loss that a smaller file may have more, as a share of the whole one's."""


class Variant(NamedTuple):
    """A file, and its figures on users never seen."""

    name: str
    data: bytes
    size_bytes: int
    score_us: float
    auc: float
    log_loss: float

    def said(self) -> dict[str, Any]:
        """As a row of the table."""
        return {name: value for name, value in self._asdict().items() if name != "data"}


def variants(data: bytes, test: Dataset) -> list[Variant]:
    """The file itself, in 16 bit and in 8 bit, each verified as by a worker.

    Args:
        data: a model file.
        test: users never seen.
    """
    files = {"float32": data, "float16": _narrowed(data, "float16"), "int8": _narrowed(data, "int8")}
    return [_judged(name, file, load(file), test) for name, file in files.items()]


def best(found: list[Variant]) -> Variant:
    """The smallest file whose log loss is as good as the whole one's: no timing decides, so it is always the same."""
    whole = found[0]
    as_good = [one for one in found if one.log_loss <= whole.log_loss * (1 + LOSS_MORE_MAX)]
    return min(as_good, key=lambda one: one.size_bytes)


def _judged(name: str, data: bytes, model: Model, test: Dataset) -> Variant:
    score = carried(model, test)[test.known, 0].astype(np.float64)
    label = test.label[test.known]
    return Variant(name, data, len(data), score_us(model), auc(label, score), log_loss(label, score))


def _narrowed(data: bytes, to: str) -> bytes:
    """The file with its large weights stored in fewer bits; golden examples are its own."""
    model = onnx.load_from_string(data)
    graph = model.graph
    nodes, constants = [], []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < SIZE_MIN:
            constants.append(constant)
            continue
        stored, name = f"{constant.name}_stored", constant.name
        if to == "float16":
            constants.append(numpy_helper.from_array(values.astype(np.float16), stored))
            nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
            continue
        scale = _scale(values)
        constants.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), stored))
        constants.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [stored], [f"{name}_whole"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name]))
    del graph.initializer[:]
    graph.initializer.extend(constants)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model)
    metadata = load(data).metadata
    bare = _without_metadata(model)
    golden = golden_examples(bare, metadata.golden.steps, metadata.state)
    metrics: Mapping[str, Any] = {**metadata.metrics, "weights": to}
    return with_metadata(bare, replace(metadata, golden=golden, metrics=metrics))


def _scale(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One for each row of the last axis, so that one large weight does not coarsen all: max |w| / 127."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    return np.where(largest > 0, largest / 127, 1).astype(np.float32)


def _without_metadata(model: Any) -> bytes:  # noqa: ANN401  onnx has no types
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    bare: bytes = model.SerializeToString(deterministic=True)
    return bare
