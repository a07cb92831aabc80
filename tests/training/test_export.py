import keras
import numpy as np
import onnx
import pytest

from stream.core.features import dequantise
from stream.core.row import N_FEATURES, N_STATE
from stream.scoring.session import open_session, run_sequence
from training.dataset import Split
from training.export import export, parity
from training.fit import Fitted
from training.models.registry import BUILDERS
from training.prepare import standard


@pytest.fixture(scope="module")
def bare(fitted: Fitted) -> bytes:
    return export(fitted.network)


def histories(seed: int, n: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, length, N_FEATURES), np.uint8)


def test_the_export_is_a_single_fused_lstm_step(bare: bytes) -> None:
    model = onnx.load_from_string(bare)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LSTM") == 1
    assert not {"Loop", "Scan", "If"} & set(operators)
    assert [given.name for given in model.graph.input] == ["x", "h", "c"]
    assert [given.name for given in model.graph.output] == ["score", "h_out", "c_out"]
    (opset,) = [one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}]
    assert opset >= 17


def test_tensorflow_and_onnx_agree(fitted: Fitted, bare: bytes) -> None:
    found = parity(fitted.network, bare, histories(1, 50, 80))
    assert 0 <= found.one_step <= 1e-5
    assert 0 <= found.sequence <= 1e-5


@pytest.mark.parametrize("architecture", BUILDERS)
def test_every_network_is_its_export(architecture: str, split: Split) -> None:
    """Weights as drawn, a head that says something: the same gate as for a trained one."""
    keras.utils.set_random_seed(3)
    network = BUILDERS[architecture](standard(dequantise(split.train.steps)), 2, 0.3)
    bare = export(network)
    found = parity(network, bare, histories(4, 20, 70))
    assert 0 <= found.one_step <= 1e-5
    assert 0 <= found.sequence <= 1e-5
    scores = run_sequence(open_session(bare), dequantise(histories(5, 20, 40)), network.state)
    assert scores.shape == (20, 40, 2)
    assert scores.std() > 1e-2
    assert sum(width for _, width in network.state) <= N_STATE


def test_stepping_is_running_the_sequence(fitted: Fitted, bare: bytes) -> None:
    """Looked at from outside `parity`, over a length that no window of training has."""
    values = dequantise(histories(2, 5, 300))
    whole = fitted.network.sequence.predict(values, verbose=0)
    stepped = run_sequence(open_session(bare), values, fitted.network.state)
    np.testing.assert_allclose(stepped, whole, atol=1e-5)
    assert whole.std() > 1e-3  # it does say something


def test_parity_sees_another_network(fitted: Fitted, bare: bytes) -> None:
    model = onnx.load_from_string(bare)
    (head,) = [tensor for tensor in model.graph.initializer if list(tensor.dims) in ([50 + 41, 1], [1, 91])]
    weights = onnx.numpy_helper.to_array(head) + 0.01
    head.CopyFrom(onnx.numpy_helper.from_array(weights, head.name))
    found = parity(fitted.network, model.SerializeToString(), histories(3, 10, 20))
    assert found.one_step > 1e-5
    assert found.sequence > 1e-5
