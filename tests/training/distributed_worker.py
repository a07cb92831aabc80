"""One of several workers that fit one network: `python distributed_worker.py SHARE OUT`, with TF_CONFIG."""

import os
import sys
from pathlib import Path

import numpy as np

from tests.training.conftest import HOUR_MS, make_log
from training.dataset import build, split_by_user
from training.files import write_json
from training.fit import Fitted, Plan, fit
from training.models.registry import BUILDERS
from training.share import Share, share_said

PLAN = Plan(epochs=3, batch=16, dropout=0.0, learning_rate=6e-3)
"""No dropout: what it leaves out is drawn by each worker for its own windows."""


def fitted(share: Share) -> Fitted:
    """A fit that takes seconds."""
    split = split_by_user(build(make_log(n_users=60, n_events=2_000), HOUR_MS))
    return fit(BUILDERS["lstm"], split.train, split.valid, PLAN, share=share)


def main() -> None:
    out = Path(sys.argv[1])
    share = share_said(os.environ["TF_CONFIG"])
    found = fitted(share)
    np.savez(out / f"weights-{share.at}.npz", *found.network.trained.get_weights())
    history = [[epoch.loss, epoch.valid_loss] for epoch in found.history]
    write_json(out / f"said-{share.at}.json", {"history": history, "scaling": found.scaling})


if __name__ == "__main__":
    main()
