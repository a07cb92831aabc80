"""Two processes that fit one network come to what one process comes to."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream.core.row import N_FEATURES
from tests.training import distributed_worker
from training.dataset import Dataset
from training.errors import TrainingError
from training.share import ALONE, Share, share_said
from training.windows import batches, cut

TOLERANCE = 2e-4
"""Of weights of about 0.1 to 1. Gradients are the same sums of floats in another order, and Adam divides each by its
own size: the last bit of one that is next to nothing moves its weight by a visible part of the learning rate."""


def config(ports: list[int], index: int) -> str:
    workers = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_two_workers_fit_what_one_fits(tmp_path: Path) -> None:
    ports = free_ports(2)
    command = [sys.executable, str(distributed_worker.__file__), str(tmp_path)]
    root = str(Path(__file__).parent.parent.parent)
    workers = []
    for index in range(2):
        env = {**os.environ, "TF_CONFIG": config(ports, index), "PYTHONPATH": root}
        with (tmp_path / f"log-{index}").open("wb") as log:
            workers.append(subprocess.Popen(command, env=env, stderr=log))
    try:
        alone = distributed_worker.fitted(ALONE)
        for index, worker in enumerate(workers):
            assert worker.wait(300) == 0, (tmp_path / f"log-{index}").read_text()[-2_000:]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    weights = []
    for index in range(2):
        with np.load(tmp_path / f"weights-{index}.npz") as stored:
            weights.append([stored[name] for name in stored.files])
    said = [json.loads((tmp_path / f"said-{index}.json").read_text()) for index in range(2)]
    # The workers agree to the bit, or they would not stop at the same epoch.
    assert said[0] == said[1]
    for one, other, of_one in zip(*weights, alone.network.trained.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
        np.testing.assert_allclose(one, of_one, atol=TOLERANCE)
    history = [[epoch.loss, epoch.valid_loss] for epoch in alone.history]
    np.testing.assert_allclose(said[0]["history"], history, atol=TOLERANCE)
    assert history[-1][0] < history[0][0] - 10 * TOLERANCE, "nothing was learnt, so nothing was compared"


def test_shares_are_the_batch(dataset: Dataset) -> None:
    """Together the windows of all, each in one share; shares are equally large."""
    windows = cut(dataset.starts, np.random.default_rng(1))
    whole = list(batches(dataset, windows, np.random.default_rng(2), 7))
    parts = [list(batches(dataset, windows, np.random.default_rng(2), 7, share=Share(at, 3))) for at in range(3)]
    assert len({len(part) for part in parts} | {len(whole)}) == 1
    for batch, *shares in zip(whole, *parts, strict=True):
        n = len(batch.x)
        assert {share.x.shape for share in shares} == {(-(-n // 3), batch.x.shape[1], N_FEATURES)}
        for at, share in enumerate(shares):
            mine = len(range(at, n, 3))
            np.testing.assert_array_equal(share.x[:mine], batch.x[at::3])
            np.testing.assert_array_equal(share.label[:mine], batch.label[at::3])
            np.testing.assert_array_equal(share.weight[:mine], batch.weight[at::3])
            assert not share.weight[mine:].any()


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_what_is_no_cluster_is_said(text: str) -> None:
    with pytest.raises(TrainingError, match="TF_CONFIG says no cluster of workers"):
        share_said(text)


def test_a_share_is_read() -> None:
    assert share_said("") == ALONE
    assert share_said(config([1, 2, 3], 2)) == Share(2, 3)
