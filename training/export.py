"""A network as an ONNX file of what is served, and the proof that it is the same network."""

from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from stream.core.features import dequantise
from stream.core.row import N_FEATURES, N_STEPS
from stream.scoring.artefact import HELD_INPUT, OUT_SUFFIX, SCORE_OUTPUT, STEP_INPUT
from stream.scoring.session import open_session, run_sequence
from training.metrics import Parity
from training.models.network import Network
from training.seeded import OPSET


def export(network: Network) -> bytes:
    """What is served as ONNX: inputs x and the state or the number of steps held, outputs score and the state.

    It has no metadata yet.
    """
    names = [name for name, _ in network.state]
    signature = [tf.TensorSpec((None, *width), tf.float32, name=name) for name, width in _inputs(network).items()]
    step = tf.function(network.served, input_signature=signature)
    model, _ = tf2onnx.convert.from_function(step, input_signature=signature, opset=OPSET)
    _name(model, [SCORE_OUTPUT, *(name + OUT_SUFFIX for name in names)])
    onnx.checker.check_model(model)
    bare: bytes = model.SerializeToString(deterministic=True)
    return bare


def _inputs(network: Network) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs, without the batch."""
    if network.state:
        return {STEP_INPUT: (N_FEATURES,), **{name: (width,) for name, width in network.state}}
    return {STEP_INPUT: (N_STEPS, N_FEATURES), HELD_INPUT: (1,)}


def _name(model: Any, outputs: list[str]) -> None:  # noqa: ANN401  onnx has no types
    """Names and shapes of our own, for inputs and outputs that tf2onnx calls Identity, Identity_1 and so on."""
    graph = model.graph
    widths = [output.type.tensor_type.shape.dim[1].dim_value for output in graph.output]
    numbered = _put_in_order(graph)
    said = {numbered[output.name]: name for output, name in zip(graph.output, outputs, strict=True)}
    for node in graph.node:
        node.input[:] = [said.get(value, value) for value in node.input]
        node.output[:] = [said.get(value, value) for value in node.output]
    del graph.output[:], graph.value_info[:]
    for name, width in zip(outputs, widths, strict=True):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
    for given in graph.input:
        given.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.name = "step"
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "offerstream", "", "", ""


def _put_in_order(graph: Any) -> dict[str, str]:  # noqa: ANN401  onnx has no types
    """Constants and nodes in an order that the network alone decides, each once, values numbered: old to new names.

    tf2onnx orders and merges by names, and has numbers in them: of what the process has converted, and of the layers
    that Keras has made in it. The same network would give another file the second time.
    """
    makers = {value: node for node in graph.node for value in node.output}
    makers |= {constant.name: constant for constant in graph.initializer}
    new = {given.name: given.name for given in graph.input} | {"": ""}  # "" is an input left out
    values_of: dict[bytes, list[str]] = {}
    constants, nodes = [], []

    def reach(value: str) -> None:
        """What a value is made of, and then what makes it."""
        if value in new:
            return
        made = makers[value]
        made.name = ""
        if isinstance(made, TensorProto):
            old = [value]
        else:
            for given in made.input:
                reach(given)
            made.input[:] = [new[given] for given in made.input]
            old = list(made.output)
            made.output[:] = ["v" if output else "" for output in old]
            made.attribute.sort(key=lambda attribute: attribute.name)
        same = values_of.setdefault(made.SerializeToString(deterministic=True), [])
        if not same:
            same.extend(output and f"v{len(values_of)}_{at}" for at, output in enumerate(old))
            if isinstance(made, TensorProto):
                made.name = same[0]
                constants.append(made)
            else:
                made.output[:] = same
                nodes.append(made)
        new.update(zip(old, same, strict=True))

    for output in graph.output:
        reach(output.name)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    return new


def parity(network: Network, bare: bytes, steps: NDArray[np.uint8]) -> Parity:
    """Compare the network with its export.

    Args:
        network: as trained.
        bare: what `export` made of it.
        steps: uint8 [S, T, F], histories from their first step.
    """
    session = open_session(bare)
    values = dequantise(steps)
    stepped = run_sequence(session, values, network.state)
    whole = network.sequence(values, training=False).numpy()

    given = _drawn_inputs(network, values)
    expected = [tensor.numpy() for tensor in network.served(*map(tf.constant, given.values()))]
    names = [SCORE_OUTPUT, *(name + OUT_SUFFIX for name, _ in network.state)]
    found = session.run(names, given)
    one_step = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    return Parity(one_step, float(np.abs(stepped - whole).max()))


def _drawn_inputs(network: Network, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Every step with a state that no history leads to, or windows of which any number of steps is there."""
    rng = np.random.default_rng(0)
    x = values.reshape(-1, N_FEATURES)
    if network.state:
        state = {name: rng.uniform(-1, 1, (len(x), width)).astype(np.float32) for name, width in network.state}
        return {STEP_INPUT: x, **state}
    held = np.arange(2 * N_STEPS) % N_STEPS + 1
    x = x[rng.integers(0, len(x), (len(held), N_STEPS))]
    return {STEP_INPUT: x, HELD_INPUT: held.astype(np.float32)[:, None]}
