"""An LSTM begins as the linear memory that was fitted for it."""

import numpy as np
import pytest

from stream.core.features import dequantise
from training.dataset import Dataset
from training.memory import DECAYS, Memory, _decayed, _fitted, begin_with_memory
from training.models.network import Network
from training.models.registry import BUILDERS
from training.prepare import standard
from training.windows import Windows, fill

T = 60


@pytest.fixture(scope="module")
def network(dataset: Dataset) -> Network:
    built = BUILDERS["lstm"](standard(dequantise(dataset.steps)), 1, 0.3)
    begin_with_memory(built, dataset, 1)
    return built


def of_histories(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of the first histories: x [B, T, F], and which of it is there [B, T]."""
    starts = dataset.starts[:20]
    ends = np.minimum(starts + T, dataset.starts[1:21])
    return fill(dataset, Windows(starts, starts, ends), T).x, np.arange(T) < (ends - starts)[:, None]


def by_a_loop(memory: Memory, history: np.ndarray) -> np.ndarray:
    """Logits [T, K] of prepared steps [T, P], each from all steps up to it."""
    said = []
    for t in range(len(history)):
        logit = memory.bias + history[t] @ memory.newest
        for decay, older in zip(DECAYS, memory.older, strict=True):
            for age in range(t + 1):
                logit = logit + (1 - decay) * decay**age * (history[t - age] - memory.centre) @ older
        said.append(logit)
    return np.array(said)


def logit(score: np.ndarray) -> np.ndarray:
    score = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(score / (1 - score))


def test_it_says_what_the_regression_says(network: Network, dataset: Dataset) -> None:
    memory = _fitted(network, dataset, 1)
    x, there = of_histories(dataset)
    z = network.sequence.get_layer("prepared")(x).numpy().astype(np.float64)
    expected = np.stack([by_a_loop(memory, history) for history in z])[there]
    found = logit(network.trained(x, training=False).numpy())[there]
    assert found.shape == expected.shape
    # tanh bends what is far from its middle: nearly the same, not the same.
    for answer in range(expected.shape[1]):
        assert np.std(expected[:, answer]) > 0.1
        assert np.corrcoef(found[:, answer], expected[:, answer])[0, 1] > 0.98
        assert abs(np.median(found[:, answer] - expected[:, answer])) < 0.2


def test_what_is_older_counts(network: Network, dataset: Dataset) -> None:
    x, there = of_histories(dataset)
    whole = logit(network.sequence(x, training=False).numpy())
    last = logit(network.sequence(x[:, 30:], training=False).numpy())
    assert np.abs(whole[:, 30:] - last)[there[:, 30:]].max() > 0.1


def test_decayed_means_are_those_of_a_loop() -> None:
    z = np.random.default_rng(0).normal(size=(2, 9, 3))
    for b in range(2):
        for t in range(9):
            expected = sum(0.2 * 0.8**age * z[b, t - age] for age in range(t + 1))
            np.testing.assert_allclose(_decayed(z, 0.8)[b, t], expected)


def test_one_class_alone_is_the_base_rate(dataset: Dataset) -> None:
    built = BUILDERS["lstm"](standard(dequantise(dataset.steps)), 1, 0.3)
    nobody = dataset._replace(label=np.zeros_like(dataset.label))
    begin_with_memory(built, nobody, 1)
    x, there = of_histories(dataset)
    assert built.sequence(x, training=False).numpy()[there].max() < 1e-3
