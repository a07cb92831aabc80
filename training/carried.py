"""How far a carried state goes its own way: the score after k carried steps against the score rebuilt from the last T.

Up to T steps both are the same bits. After that a rebuilt state has forgotten what came before the ring, and a carried
one has not; training with random starts and a burn-in is what keeps them together.
"""

from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.row import N_STEPS
from stream.scoring.model import Model
from training.dataset import Dataset
from training.errors import TrainingError
from training.serve import carried, rebuilt

MEDIAN_MAX = 0.02
"""What the median difference of longer histories must stay under."""

EDGES = (0, 8, 16, N_STEPS, 40, 50, 64, 80, 100, 130, 160, 200, 300, 400, 600, 1_000, 10_000)
"""Bins of the number of steps carried: each from one to below the next, the last with all above."""
PER_BIN = 2_000


class Compared(NamedTuple):
    """Steps drawn evenly from each bin, and what both ways say of them; [N] each."""

    steps_carried: NDArray[np.int64]
    """Steps of the user before this one."""
    carried: NDArray[np.float32]
    rebuilt: NDArray[np.float32]

    @property
    def difference(self) -> NDArray[np.float32]:
        """Absolute, [N]."""
        return np.abs(self.carried - self.rebuilt)


def compare(model: Model, dataset: Dataset) -> Compared:
    """Score every step carried, and up to PER_BIN of each bin rebuilt; of several arms, "none".

    Raises:
        TrainingError: no user has more steps than a ring holds: there is nothing to compare.
    """
    place = np.arange(len(dataset.steps)) - np.repeat(dataset.starts[:-1], np.diff(dataset.starts))
    if place.max() < N_STEPS:
        text = f"the longest history has {int(place.max()) + 1} steps, a ring {N_STEPS}: rebuilding forgets nothing"
        raise TrainingError(text)
    bins = np.searchsorted(EDGES, place, side="right")
    parts = [np.flatnonzero(bins == number) for number in np.unique(bins)]
    at = np.concatenate([part[:: -(-len(part) // PER_BIN)] for part in parts])
    scores = carried(model, dataset)[at, 0]
    return Compared(place[at], scores, rebuilt(model, dataset, at)[:, 0])


def said(model: Model, compared: Compared) -> dict[str, Any]:
    """As JSON: quantiles of the difference over histories longer than a ring, and by number of steps carried."""
    longer = compared.steps_carried >= N_STEPS
    bins = np.searchsorted(EDGES, compared.steps_carried, side="right")
    return {
        "model": {"sha256": model.hex, "architecture": model.metadata.architecture},
        "ring": N_STEPS,
        **_quantiles(compared.difference[longer]),
        "median_max": MEDIAN_MAX,
        "by_steps_carried": [
            {"from": EDGES[number - 1], **_quantiles(compared.difference[bins == number])} for number in np.unique(bins)
        ],
    }


def _quantiles(difference: NDArray[np.float32]) -> dict[str, Any]:
    median, p90, p99 = np.quantile(difference, [0.5, 0.9, 0.99]).tolist()
    return {"steps": len(difference), "median": median, "p90": p90, "p99": p99, "max": float(difference.max())}


def picture(compared: Compared, found: dict[str, Any]) -> bytes:
    """Left: the difference by number of steps carried. Right: both scores of every step drawn. PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415  takes a second, and only the picture needs it

    canvas = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = canvas.subplots(1, 2, width_ratios=(3, 2))
    bins = found["by_steps_carried"]
    at = [*(max(one["from"], 1) for one in bins), int(compared.steps_carried.max()) + 1]
    for name, colour in (("median", "#1f6fb4"), ("p90", "#d9822b"), ("p99", "#b4462f")):
        left.stairs([one[name] for one in bins], at, color=colour, label=name, linewidth=1.5)
    left.axhline(MEDIAN_MAX, color="black", linewidth=1, linestyle="--", label=f"bound of the median, {MEDIAN_MAX:g}")
    left.axvline(N_STEPS, color="#9aa5b1", linewidth=1)
    left.text(N_STEPS, 0.98, " the ring is full", transform=left.get_xaxis_transform(), va="top", color="#6b7785")
    left.set_xscale("log")
    left.set_ylim(bottom=0)
    left.set_xlabel("steps carried")
    left.set_ylabel("|carried - rebuilt|, of the score")
    left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.92))
    longer = compared.steps_carried >= N_STEPS
    right.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1)
    right.scatter(compared.carried[longer], compared.rebuilt[longer], s=4, alpha=0.3, linewidths=0, color="#1f6fb4")
    top = float(max(compared.carried[longer].max(), compared.rebuilt[longer].max())) * 1.05
    right.set(xlim=(0, top), ylim=(0, top), xlabel="carried", ylabel=f"rebuilt from the last {N_STEPS}")
    right.set_title(
        f"{int(longer.sum())} steps after the ring was full,\nmedian difference {found['median']:.4f}", fontsize=10
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    canvas.savefig(buffer, format="png", dpi=120, metadata={"Software": ""})
    return buffer.getvalue()
