from dataclasses import replace

import keras
import numpy as np
import onnx
import pytest
import tf2onnx

from stream.core.features import FEATURES, dequantise
from stream.core.row import N_FEATURES, N_STEPS
from stream.scoring.artefact import Metadata, ModelRefused, Refusal, features_hash
from stream.scoring.model import load
from stream.scoring.session import open_session, run_sequence
from training.artefact import golden_examples, with_metadata
from training.dataset import Split
from training.export import export, parity
from training.fit import Fitted
from training.models.head import Head
from training.models.network import Network
from training.models.registry import BUILDERS, DEPTH_BUILDERS
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
def test_the_same_network_is_the_same_file_whatever_the_process_has_converted(architecture: str, split: Split) -> None:
    """Names of nodes had decided in which order tf2onnx put them, and numbers in them on how many came before."""
    standardised = standard(dequantise(split.train.steps))
    n_arms = 1 if architecture in DEPTH_BUILDERS else 3

    def made(converted: int) -> bytes:
        keras.utils.set_random_seed(3)
        network = BUILDERS[architecture](standardised, n_arms, 0.3)
        tf2onnx.utils.INTERNAL_NAME = converted
        return export(network)

    first = made(0)
    assert [converted for converted in (13, 28, 55, 58, 70, 990, 9_960) if made(converted) != first] == []


@pytest.mark.parametrize("architecture", BUILDERS)
def test_every_network_is_its_export_and_fit_for_a_worker(architecture: str, split: Split) -> None:
    """Weights as drawn, a head that says something, three arms: the same gate as for a trained one."""
    keras.utils.set_random_seed(3)
    n_arms = 1 if architecture in DEPTH_BUILDERS else 3
    network = BUILDERS[architecture](standard(dequantise(split.train.steps)), n_arms, 0.3)
    head = network.sequence.get_layer("head")
    if architecture in DEPTH_BUILDERS:  # begins with the mean depth and nothing else
        kernel, _ = head.get_weights()
        head.set_weights([np.random.default_rng(6).normal(0, 0.02, kernel.shape), np.array([0.4])])
    else:
        head.rescale(0.5, 0.0)
    bare = export(network)
    found = parity(network, bare, histories(4, 20, 70))
    assert 0 <= found.one_step <= 1e-5
    assert 0 <= found.sequence <= 1e-5
    steps = histories(5, 8, 2 * N_STEPS)
    scores = run_sequence(open_session(bare), dequantise(steps), network.state)
    assert scores.shape == (8, 2 * N_STEPS, n_arms)
    assert scores.std(axis=(0, 1)).min() > 1e-2
    assert (np.diff(scores, axis=2) >= 0).all()
    # `load` runs the golden examples and compares the bits at batch sizes of 1, 2, 7, 64 and 1,000.
    model = load(with_metadata(bare, said_of(architecture, network, bare, steps)))
    assert model.metadata.kind == ("recurrent" if architecture in {"lstm", "gru", "rnn"} else "window")
    other = golden_examples(bare, steps, network.state)
    other.scores[-1, -1, -1] += 1e-4
    with pytest.raises(ModelRefused) as refused:
        load(with_metadata(bare, replace(model.metadata, golden=other)))
    assert refused.value.reason is Refusal.GOLDEN_DIFFER


def said_of(architecture: str, network: Network, bare: bytes, steps: np.ndarray) -> Metadata:
    return Metadata(
        kind=network.kind,
        architecture=architecture,
        arms=("none", "ten", "twenty") if architecture not in DEPTH_BUILDERS else ("none",),
        answers=network.answers,
        horizon_ms=3_600_000,
        state=network.state,
        golden=golden_examples(bare, steps, network.state),
        data={},
        metrics={},
        parent=None,
        commit="",
        features=tuple(feature.name for feature in FEATURES),
        features_hash=features_hash(),
    )


@pytest.mark.parametrize("slope", [1.0, 0.1, 2.0])
def test_deeper_arms_are_never_less_likely_whatever_was_learnt(slope: float) -> None:
    head = Head(5)
    seen = np.random.default_rng(1).normal(0, 3, (2_000, 7)).astype(np.float32)
    head(seen)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for weight in head.trainable_weights:
            weight.assign(rng.normal(0, 10, weight.shape))
        head.rescale(slope, 0.5)
        assert (np.diff(head(seen).numpy(), axis=1) >= 0).all()


def test_a_head_begins_with_the_rate_of_each_arm() -> None:
    head = Head(4)
    nothing = np.zeros((1, 7), np.float32)
    head(nothing)
    head.begin_at([0.1, 0.3, 0.25, 0.6])
    found = head(nothing).numpy()[0]
    assert found[[0, 1, 3]] == pytest.approx([0.1, 0.3, 0.62], abs=0.01)  # the third is worse than the second
    assert 0.3 < found[2] < 0.33


def test_a_head_of_one_arm_is_logistic() -> None:
    head = Head(1)
    seen = np.random.default_rng(1).normal(0, 1, (50, 7)).astype(np.float32)
    head(seen)
    head.rescale(2.0, 0.25)
    kernel, bias = head.get_weights()
    expected = 1 / (1 + np.exp(-(seen.astype(np.float64) @ kernel + bias)))
    np.testing.assert_allclose(head(seen).numpy(), expected, atol=1e-6)


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
