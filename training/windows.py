"""Truncated back-propagation through time: histories cut into windows, anew in every epoch.

A worker's state is either carried since a user's first event, or rebuilt from zero over the ring of steps. So that both
give the same scores, no window but a history's first starts from its true state: each starts from zero, at a drawn
place, `BURN_IN` steps before the first step that is judged, as many as a rebuilding worker replays.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.core.row import N_FEATURES, N_STEPS
from stream.scoring.artefact import DEPTH, PURCHASE
from training.dataset import Dataset
from training.share import ALONE, Share

BURN_IN = N_STEPS - 1
JUDGED = 65
"""Most steps of a window that count; with the burn-in, 96 steps are unrolled at most."""
_GRAIN = 32  # windows are padded to a multiple: few different shapes, so that TensorFlow compiles few graphs


class Windows(NamedTuple):
    """W windows: where each begins, where judging begins, where it ends; places in the steps, int64 [W] each."""

    begin: NDArray[np.int64]
    judged: NDArray[np.int64]
    end: NDArray[np.int64]


class Batch(NamedTuple):
    """Windows side by side, padded at their end."""

    x: NDArray[np.float32]
    """[B, T, F], dequantised."""
    label: NDArray[np.float32]
    """[B, T, A + len(FAR)], the horizon asked for first, for each arm."""
    weight: NDArray[np.float32]
    """[B, T, A + len(FAR)]: above 0 where an answer is judged."""


def cut(starts: NDArray[np.int64], rng: np.random.Generator) -> Windows:
    """Cut every history at drawn places: each of its steps is judged in exactly one window.

    Args:
        starts: [U + 1], where histories begin; the last is their end.
        rng: draws, for each history, where its first window ends: after 1 to JUDGED steps.
    """
    lengths = np.diff(starts)
    first = rng.integers(1, JUDGED + 1, len(lengths))
    n_windows = 1 + np.maximum(-(-(lengths - first) // JUDGED), 0)
    of = np.repeat(np.arange(len(lengths)), n_windows)
    turn = np.arange(len(of)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    start, stop = starts[of], starts[of + 1]
    judged = start + np.where(turn > 0, first[of] + (turn - 1) * JUDGED, 0)
    end = np.minimum(np.where(turn > 0, judged + JUDGED, start + first[of]), stop)
    return Windows(np.maximum(judged - BURN_IN, start), judged, end)


def batches(
    dataset: Dataset,
    windows: Windows,
    rng: np.random.Generator,
    size: int,
    answers: str = PURCHASE,
    share: Share = ALONE,
) -> Iterator[Batch]:
    """All windows once, in drawn order, windows of like lengths together; of each batch this worker's share.

    Shares are equally large: where a batch has too few windows, some get one without weight.
    """
    lengths = -(-(windows.end - windows.begin) // _GRAIN) * _GRAIN
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    for at in rng.permutation(len(cuts)).tolist():
        chosen = cuts[at]
        mine = chosen[share.at :: share.of]
        part = Windows(*(places[mine] for places in windows))
        for _ in range(-(-len(chosen) // share.of) - len(mine)):
            part = Windows(*(np.append(places, places.dtype.type(0)) for places in part))
        yield fill(dataset, part, int(lengths[chosen].max()), answers)


def fill(dataset: Dataset, windows: Windows, length: int, answers: str = PURCHASE) -> Batch:
    """Windows as arrays of `length` steps, with what a network that `answers` so must say."""
    n = len(windows.begin)
    places = windows.begin[:, None] + np.arange(length)
    inside = places < windows.end[:, None]
    places = np.where(inside, places, 0)
    steps = np.where(inside[..., None], dataset.steps[places], np.uint8(0)).reshape(n, length, N_FEATURES)
    judged = inside & (places >= windows.judged[:, None])
    shown = dataset.shown[places] * dataset.known[places][..., None]
    label = np.broadcast_to(dataset.label[places][..., None], shown.shape).astype(np.float32)
    if answers == DEPTH:
        depth = dataset.depth[places][..., None]
        label, shown = np.nan_to_num(depth), shown * ~np.isnan(depth)
    label = np.concatenate([label, dataset.far_label[places]], axis=-1)
    weight = np.concatenate([shown, dataset.far_known[places]], axis=-1)
    return Batch(
        dequantise(steps),
        np.where(inside[..., None], label, 0).astype(np.float32),
        np.where(judged[..., None], weight, 0).astype(np.float32),
    )
