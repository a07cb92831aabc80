"""From a log to what a network is trained on: the worker's own absorb makes the steps, the future makes the labels.

**Point in time.** A step depends on events applied before it and on its own; `fold` cannot see further. Only labels
look ahead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import is_step
from stream.core.events import Kind
from stream.core.fold import fold
from stream.core.rounds import turn_of
from stream.core.row import new_rows
from training.errors import TrainingError
from training.log import EventLog

FAR = (6, 24, 72)
"""Further horizons, in multiples of the one asked for: what a user does later says something about the user now, so a
network that must answer for them as well learns more from the same log. Their answers are not exported."""

_NEVER_MS = np.iinfo(np.int64).max


class Dataset(NamedTuple):
    """Every step of every user, users one after the other, each user's steps in their order of application."""

    steps: NDArray[np.uint8]
    """[N, F]."""
    label: NDArray[np.bool_]
    """[N]: the user placed an order within the horizon after this event."""
    known: NDArray[np.bool_]
    """[N]: the log goes on for a whole horizon after it, so the label is the truth. Others only carry the state on."""
    time_ms: NDArray[np.int64]
    """[N], event time."""
    far_label: NDArray[np.bool_]
    """[N, len(FAR)]: as `label`, within each further horizon."""
    far_known: NDArray[np.bool_]
    """[N, len(FAR)]: as `known`, for each further horizon."""
    depth: NDArray[np.float32]
    """[N]: what the user's next order within the horizon took off, as a share of its price; NaN where there is none."""
    shown: NDArray[np.float32]
    """[N, A]: how much this event counts for what is said of each arm. With one arm, 1; with more see
    `training.arms`."""
    starts: NDArray[np.int64]
    """[U + 1]: where each user's steps begin; the last is N."""
    user: NDArray[np.uint64]
    """[U]: hash of each user's id."""


class Built(NamedTuple):
    """A data set, and what it was made of."""

    dataset: Dataset
    horizon_ms: int
    events: int
    """In the log, those that make no step included."""
    users: int
    """In the log."""


def build(log: EventLog, horizon_ms: int) -> Dataset:
    """Steps and labels of a log.

    Args:
        log: all events, in the order in which they apply.
        horizon_ms: how far ahead a purchase counts.

    Raises:
        TrainingError: no event makes a step, or no label is known.
    """
    return whole([absorbed(log, horizon_ms)], horizon_ms)


def built(log: EventLog, horizon_ms: int) -> Built:
    """`build`, and what it was made of."""
    return Built(build(log, horizon_ms), horizon_ms, len(log.events), len(log.users))


def absorbed(log: EventLog, horizon_ms: int) -> Dataset:
    """The data set of some of the users, but for what hangs on where the whole log ends: nothing is known yet.

    Args:
        log: all events of these users, in the order in which they apply.
        horizon_ms: how far ahead a purchase counts.
    """
    events, row = log.events, log.row
    # Users do not see each other, so only each user's own order counts: everybody's first event, then everybody's
    # second, gives long rounds where a log that is grouped by user would give short ones.
    in_turn = np.argsort(turn_of(row), kind="stable")
    steps, applied = fold(events[in_turn], row[in_turn], new_rows(len(log.users)))
    kept = np.flatnonzero(applied & is_step(events[in_turn]))
    kept = kept[np.argsort(row[in_turn[kept]], kind="stable")]  # users one after the other, each in its own order still
    events, row = events[in_turn[kept]], row[in_turn[kept]]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    time_ms = events["time_ms"].astype(np.int64)
    horizons_ms = _horizons_ms(horizon_ms)
    until_ms, order = next_order(row, time_ms, events["kind"] == Kind.ORDER_PLACED)
    label = until_ms[:, None] <= horizons_ms
    bought = events[order]
    priced = label[:, 0] & (bought["price_minor"] > 0)
    depth = bought["discount_minor"] / np.maximum(bought["price_minor"], 1)
    return Dataset(
        steps=steps[kept],
        label=label[:, 0],
        known=np.zeros(len(row), bool),
        time_ms=time_ms,
        far_label=label[:, 1:],
        far_known=np.zeros((len(row), len(FAR)), bool),
        depth=np.where(priced, np.clip(depth, 0, 1), np.nan).astype(np.float32),
        shown=np.ones((len(row), 1), np.float32),
        starts=np.r_[first, len(row)],
        user=events["user"][first],
    )


def whole(parts: Sequence[Dataset], horizon_ms: int) -> Dataset:
    """The data set of a log out of its users' parts, one after the other: the same bytes however it was divided.

    Args:
        parts: of `absorbed`; no user is in two.
        horizon_ms: theirs.

    Raises:
        TrainingError: no event makes a step, or no label is known.
    """
    dataset = parts[0] if len(parts) == 1 else joined(*parts)
    time_ms = dataset.time_ms
    if not len(time_ms):
        raise TrainingError("the log has no event of the kinds that a model learns from")
    known = time_ms[:, None] <= time_ms.max() - _horizons_ms(horizon_ms)
    if not known[:, 0].any():
        span_s = int(time_ms.max() - time_ms.min()) // 1000
        text = f"the log spans {span_s} s, not more than the horizon of {horizon_ms // 1000} s: no label is known"
        raise TrainingError(text)
    return dataset._replace(known=known[:, 0], far_known=known[:, 1:])


def _horizons_ms(horizon_ms: int) -> NDArray[np.int64]:
    return horizon_ms * np.array([1, *FAR])


class Next(NamedTuple):
    """Of each event, its user's next order, strictly later in event time."""

    until_ms: NDArray[np.int64]
    """[N]; the largest int64 where none comes."""
    at: NDArray[np.int64]
    """[N], its place; the event's own where none comes."""


def next_order(row: NDArray[np.int64], time_ms: NDArray[np.int64], order: NDArray[np.bool_]) -> Next:
    """The next order of each event's user.

    Args:
        row: [N], whose event.
        time_ms: [N].
        order: [N], which events are orders.

    Raises:
        TrainingError: so many users over so long a time do not fit one line of time.
    """
    if not len(row):
        return Next(np.empty(0, np.int64), np.empty(0, np.int64))
    # Users side by side on one line of time: one search for all.
    since_ms = time_ms - time_ms.min()
    stride_ms = int(since_ms.max()) + 1
    if int(row.max()) >= np.iinfo(np.int64).max // stride_ms - 1:
        raise TrainingError(
            f"{int(row.max()) + 1} users over {stride_ms} ms do not fit one line of time; split the log"
        )
    line = row * stride_ms + since_ms
    places = np.flatnonzero(order)
    places = places[np.argsort(line[places], kind="stable")]
    following = np.searchsorted(line[places], line, side="right")
    found = np.flatnonzero(following < len(places))
    later = places[following[found]]
    mine = row[later] == row[found]
    until_ms, at = np.full(len(line), _NEVER_MS), np.arange(len(line))
    until_ms[found[mine]] = (line[later] - line[found])[mine]
    at[found[mine]] = later[mine]
    return Next(until_ms, at)


def of_users(dataset: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    """The same for some of the users.

    Args:
        dataset: of U users.
        chosen: bool [U].
    """
    lengths = np.diff(dataset.starts)
    keep = np.repeat(chosen, lengths)
    return Dataset(
        steps=dataset.steps[keep],
        label=dataset.label[keep],
        known=dataset.known[keep],
        time_ms=dataset.time_ms[keep],
        far_label=dataset.far_label[keep],
        far_known=dataset.far_known[keep],
        depth=dataset.depth[keep],
        shown=dataset.shown[keep],
        starts=np.r_[0, np.cumsum(lengths[chosen])],
        user=dataset.user[chosen],
    )


TEST_SHARE = 0.2
VALID_SHARE = 0.1
"""Of the users."""


def joined(*parts: Dataset) -> Dataset:
    """The users of all parts, one after the other."""
    fields = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Dataset._fields}
    ends = np.cumsum([part.starts[-1] for part in parts])
    starts = [part.starts[1:] + end - part.starts[-1] for part, end in zip(parts, ends, strict=True)]
    return Dataset(**fields | {"starts": np.concatenate([[0], *starts])})


class Split(NamedTuple):
    """Users, each on one side only."""

    train: Dataset
    valid: Dataset
    test: Dataset


def split_by_user(dataset: Dataset) -> Split:
    """By a hash of the user: the same user falls on the same side in every run, whatever else the log holds.

    Raises:
        TrainingError: a side is empty or, for training and test, has labels of one class only.
    """
    place = _mix(dataset.user).astype(np.float64) / 2.0**64
    sides = {
        "test": place < TEST_SHARE,
        "validation": (place >= TEST_SHARE) & (place < TEST_SHARE + VALID_SHARE),
        "training": place >= TEST_SHARE + VALID_SHARE,
    }
    parts = {name: of_users(dataset, chosen) for name, chosen in sides.items()}
    for name, part in parts.items():
        n, buys = int(part.known.sum()), int(part.label[part.known].sum())
        if n == 0 or (name != "validation" and buys in {0, n}):
            raise TrainingError(
                f"of {len(dataset.user)} users, the {name} part has {len(part.user)} with {n} decision points, {buys} "
                "of them with a purchase to come: both outcomes are needed. Give it more events, or another --horizon"
            )
    return Split(parts["training"], parts["validation"], parts["test"])


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
