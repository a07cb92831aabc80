"""A network as an ONNX file of one step, and the proof that it is the same network."""

from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from stream.core.features import dequantise
from stream.core.row import N_FEATURES
from stream.scoring.artefact import OUT_SUFFIX, SCORE_OUTPUT, STEP_INPUT
from stream.scoring.session import open_session, run_sequence
from training.metrics import Parity
from training.models.network import Network
from training.seeded import OPSET


def export(network: Network) -> bytes:
    """The single step as ONNX, inputs x and the state, outputs score and the state; no metadata yet."""
    names = [name for name, _ in network.state]
    signature = [tf.TensorSpec((None, N_FEATURES), tf.float32, name=STEP_INPUT)]
    signature += [tf.TensorSpec((None, width), tf.float32, name=name) for name, width in network.state]
    step = tf.function(network.served, input_signature=signature)
    model, _ = tf2onnx.convert.from_function(step, input_signature=signature, opset=OPSET)
    _name(model, [SCORE_OUTPUT, *(name + OUT_SUFFIX for name in names)])
    onnx.checker.check_model(model)
    bare: bytes = model.SerializeToString(deterministic=True)
    return bare


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

    rng = np.random.default_rng(0)
    x = values.reshape(-1, N_FEATURES)
    state = [rng.uniform(-1, 1, (len(x), width)).astype(np.float32) for _, width in network.state]
    expected = [tensor.numpy() for tensor in network.served(tf.constant(x), *map(tf.constant, state))]
    names = [SCORE_OUTPUT, *(name + OUT_SUFFIX for name, _ in network.state)]
    given = dict(zip((name for name, _ in network.state), state, strict=True))
    found = session.run(names, {STEP_INPUT: x, **given})
    one_step = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    return Parity(one_step, float(np.abs(stepped - whole).max()))
