import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stream.scoring.artefact import METADATA_KEY, MODEL_BYTES_MAX, ModelRefused, Refusal
from stream.scoring.model import Model, load
from training.artefact import golden_examples, with_metadata


def rename(model: Any, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in [*model.graph.input, *model.graph.output]:
        value.name = new if value.name == old else value.name


def replace_constant(model: Any, name: str, value: NDArray[Any]) -> None:
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def after_output(model: Any, output: str, *nodes: Any, **constants: NDArray[Any]) -> None:
    """Put nodes between what makes `output` and the output itself; they read `before` and write `output`."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


def edit_metadata(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
        said = json.loads(entry.value)
        change(said)
        entry.value = json.dumps(said)

    return edit


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def too_large(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(MODEL_BYTES_MAX // 4, np.float32), "ballast"))


def score_as_double(model: Any) -> None:
    after_output(model, "score", helper.make_node("Cast", ["before"], ["score"], to=TensorProto.DOUBLE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def breaks_when_run(model: Any) -> None:
    """A table too short for the codes that look it up: nothing that shapes tell."""
    after_output(
        model,
        "score",
        helper.make_node("Add", ["kind_code", "far"], ["far_code"]),
        helper.make_node("Gather", ["kinds", "far_code"], ["far_kind"]),
        helper.make_node("ReduceMean", ["far_kind"], ["mean_kind"], axes=[1], keepdims=1),
        helper.make_node("Min", ["before", "mean_kind"], ["score"]),
        far=np.array(1_000, np.int32),
    )


def looks_at_the_batch(model: Any) -> None:
    """A normalisation over the batch left in the graph: the golden examples, always together, do not show it."""
    after_output(
        model,
        "score",
        helper.make_node("ReduceMean", ["before"], ["mean_of_batch"], axes=[0], keepdims=1),
        helper.make_node("Add", ["before", "mean_of_batch"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["score"]),
        half=np.array(0.5, np.float32),
    )


def endless_state(model: Any) -> None:
    factor = np.array(1e6, np.float32)
    after_output(model, "c_out", helper.make_node("Mul", ["before", "factor"], ["c_out"]), factor=factor)


def nan_weights(model: Any) -> None:
    replace_constant(model, "head_b", np.array([np.nan], np.float32))


def nan_for_odd_steps(model: Any) -> None:
    """sqrt(17 - hour) is a number for every golden example of this file, and not for every step."""
    after_output(
        model,
        "score",
        helper.make_node("Sub", ["bound", "hour"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["zero"]),
        helper.make_node("Unsqueeze", ["zero", "column"], ["zeros"]),
        helper.make_node("Add", ["before", "zeros"], ["score"]),
        bound=np.array(250, np.float32),
        nothing=np.array(0, np.float32),
        column=np.array([1], np.int64),
    )


def logits(model: Any) -> None:
    model.graph.node[-1].CopyFrom(helper.make_node("Identity", ["logit"], ["score"]))


def other_weights(model: Any) -> None:
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "w"]
    weights = numpy_helper.to_array(tensor).copy()
    weights[0, 0, 0] += 0.01
    replace_constant(model, "w", weights)


def golden_garbled(said: dict[str, Any]) -> None:
    """numpy tries to read a header that is no literal as Python of old."""
    array = bytearray(base64.b64decode(said["golden"]["scores"]))
    array[array.index(b"}")] = ord("(")
    said["golden"]["scores"] = base64.b64encode(array).decode()


def golden_cut(said: dict[str, Any]) -> None:
    said["golden"]["scores"] = said["golden"]["scores"][:-40]


def without_metadata(model: Any) -> None:
    del model.metadata_props[:]


BAD = {
    "a large file": (too_large, Refusal.TOO_LARGE, "bytes"),
    "no metadata": (without_metadata, Refusal.METADATA_MISSING, "offerstream"),
    "a later format": (edit_metadata(lambda m: m.update(format=2)), Refusal.METADATA_INVALID, "format 2"),
    "no arms": (edit_metadata(lambda m: m.update(arms=[])), Refusal.METADATA_INVALID, "arms"),
    "arms without none": (edit_metadata(lambda m: m.update(arms=["ten"])), Refusal.METADATA_INVALID, "arms"),
    "no horizon": (edit_metadata(lambda m: m.update(horizon_ms=0)), Refusal.METADATA_INVALID, "horizon_ms"),
    "endless horizon": (
        edit_metadata(lambda m: m.update(horizon_ms=float("inf"))),
        Refusal.METADATA_INVALID,
        "Overflow",
    ),
    "a field short": (edit_metadata(lambda m: m.pop("commit")), Refusal.METADATA_INVALID, "commit"),
    "too wide a state": (
        edit_metadata(lambda m: m.update(state=[["h", 500]])),
        Refusal.METADATA_INVALID,
        "room for 100",
    ),
    "golden examples with a garbled header": (edit_metadata(golden_garbled), Refusal.METADATA_INVALID, "header"),
    "cut golden examples": (edit_metadata(golden_cut), Refusal.METADATA_INVALID, ""),
    "not an object": (edit_metadata(lambda m: m.update(golden=None)), Refusal.METADATA_INVALID, ""),
    "an unknown answer": (edit_metadata(lambda m: m.update(answers="luck")), Refusal.METADATA_INVALID, "luck"),
    "a depth for each arm": (
        edit_metadata(lambda m: m.update(answers="depth", arms=["none", "ten"])),
        Refusal.METADATA_INVALID,
        "for one arm",
    ),
    "an unknown kind": (edit_metadata(lambda m: m.update(kind="ensemble")), Refusal.KIND_UNKNOWN, "ensemble"),
    "a window with a state": (edit_metadata(lambda m: m.update(kind="window")), Refusal.METADATA_INVALID, "has none"),
    "a step that says it is a window": (
        edit_metadata(lambda m: m.update(kind="window", state=[])),
        Refusal.IO_DIFFER,
        "held",
    ),
    "a recurrent one without a state": (edit_metadata(lambda m: m.update(state=[])), Refusal.METADATA_INVALID, "one"),
    "other features": (
        edit_metadata(lambda m: m.update(features=["kind", "age"], features_hash="00")),
        Refusal.FEATURES_DIFFER,
        "age",
    ),
    "other scales": (edit_metadata(lambda m: m.update(features_hash="00")), Refusal.FEATURES_DIFFER, "scales"),
    "another input name": (lambda m: rename(m, "x", "input"), Refusal.IO_DIFFER, "input"),
    "another output name": (lambda m: rename(m, "h_out", "hidden"), Refusal.IO_DIFFER, "hidden"),
    "a fixed batch": (fixed_batch, Refusal.IO_DIFFER, "8"),
    "another type": (score_as_double, Refusal.IO_DIFFER, "double"),
    "one more arm than scores": (
        edit_metadata(lambda m: m.update(arms=["none", "ten"])),
        Refusal.METADATA_INVALID,
        "golden scores",
    ),
    "a graph that breaks when run": (breaks_when_run, Refusal.IO_DIFFER, "does not run"),
    "not a number": (nan_weights, Refusal.NAN, "score"),
    "not a number for odd steps": (nan_for_odd_steps, Refusal.NAN, "score"),
    "an endless state": (endless_state, Refusal.NAN, "state"),
    "logits": (logits, Refusal.SCORE_RANGE, "must lie"),
    "other weights than those of the golden examples": (other_weights, Refusal.GOLDEN_DIFFER, "differ by"),
    "scores that look at the batch": (looks_at_the_batch, Refusal.BATCH_SIZE_DIFFER, "batches of 1"),
}
GOLDEN_REMADE = {"not a number for odd steps", "logits", "scores that look at the batch", "an endless state"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_refused(seeded_bytes: bytes, model: Model, name: str) -> None:
    change, reason, text = BAD[name]
    bad = onnx.load_from_string(seeded_bytes)
    change(bad)
    data = bad.SerializeToString()
    if name in GOLDEN_REMADE:  # its maker wrote down what it says, so only what we look for is wrong with it
        metadata = model.metadata
        steps = metadata.golden.steps.copy()
        steps[..., 13] %= 24
        data = with_metadata(data, replace(metadata, golden=golden_examples(data, steps, metadata.state)))
    with pytest.raises(ModelRefused) as refused:
        load(data)
    assert refused.value.reason is reason, refused.value
    assert text in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model" * 100, b"PK\x03\x04"])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(ModelRefused) as refused:
        load(data)
    assert refused.value.reason is Refusal.NOT_ONNX


def test_a_cut_file_is_refused(seeded_bytes: bytes) -> None:
    for cut in (10, 1_000, len(seeded_bytes) // 2, len(seeded_bytes) - 1):
        with pytest.raises(ModelRefused) as refused:
            load(seeded_bytes[:cut])
        assert refused.value.reason in {Refusal.NOT_ONNX, Refusal.METADATA_MISSING, Refusal.IO_DIFFER}


def test_golden_tolerance_is_the_callers(seeded_bytes: bytes) -> None:
    bad = onnx.load_from_string(seeded_bytes)
    other_weights(bad)
    assert load(bad.SerializeToString(), golden_tolerance=0.5).hash != 0
