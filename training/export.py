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
    """Give every value a name of our own.

    tf2onnx calls the outputs of a function Identity, Identity_1 and so on, in order, and numbers the rest by what else
    the process has converted: the same network would give another file the second time.
    """
    graph = model.graph
    new = {given.name: given.name for given in graph.input}
    new |= {output.name: name for output, name in zip(graph.output, outputs, strict=True)}
    for node in graph.node:
        for name in (*node.input, *node.output):
            new.setdefault(name, f"v{len(new)}" if name else "")  # "" is an input left out
        node.input[:] = [new[name] for name in node.input]
        node.output[:] = [new[name] for name in node.output]
        node.name = ""
    for constant in graph.initializer:
        constant.name = new[constant.name]
    constants = sorted(graph.initializer, key=lambda constant: constant.name)
    del graph.initializer[:]
    graph.initializer.extend(constants)
    widths = [output.type.tensor_type.shape.dim[1].dim_value for output in graph.output]
    del graph.output[:], graph.value_info[:]
    for name, width in zip(outputs, widths, strict=True):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
    for given in graph.input:
        given.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.name = "step"
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "offerstream", "", "", ""


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
