"""The models in force, as one value: who scores which row.

    scored = scorer.score(steps, users, rows)     scores f32[n, A], and which model said each

The champion scores every row but those of a canary's users. The model before it scores rows that are not its turn yet
after a swap, and whatever the champion cannot: nobody waits for a swap, and no score is lost to a fault.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.decide import holdout
from stream.core.row import Rows, gather, scatter
from stream.scoring.control import Mode
from stream.scoring.model import Model, unscored
from stream.scoring.watch import Watch

REBUILD_MAX = 256
"""Rows of one round that change to another model: a full ring is 31 steps, so more of them would hold up the batch."""


class Watched(NamedTuple):
    """A model, and what is known of it in this worker."""

    model: Model
    watch: Watch


class Trial(NamedTuple):
    """A challenger."""

    watched: Watched
    mode: Mode
    share: float
    """Of the users."""


class Scored(NamedTuple):
    """What was said of n rows."""

    scores: NDArray[np.float32]
    """[n, A]: column 0 is P(purchase within the horizon | no offer); NaN where no model can say."""
    model: NDArray[np.uint64]
    """[n]: hash of the model that said it; 0 = none."""


class Scorer:
    """See the module's text. Other models are another scorer; their watches go along."""

    def __init__(
        self, champion: Watched | None = None, before: Watched | None = None, trial: Trial | None = None
    ) -> None:
        """Name the models.

        Args:
            champion: scores; None: nobody does.
            before: a former champion.
            trial: a challenger, with the champion's arms.
        """
        self.champion = champion
        self.before = before
        self.trial = trial
        self.watched = [one for one in (champion, before, trial and trial.watched) if one is not None]
        self.names: Mapping[int, str] = {0: "", **{one.model.hash: one.model.hex for one in self.watched}}
        """SHA-256 in hexadecimal digits by hash."""

    @property
    def hex(self) -> str:
        """SHA-256 of the champion; "" where there is none."""
        return "" if self.champion is None else self.champion.model.hex

    def score(self, steps: NDArray[np.uint8], users: NDArray[np.uint64], rows: Rows) -> Scored:
        """Move each row's hidden state on by its event and say what its model thinks.

        Args:
            steps: uint8 [n, F], the events just absorbed; each is the newest step in its row's ring already.
            users: [n], hashes of their ids.
            rows: ROW [n], each user at most once; `state` and `model` are changed in place.
        """
        champion, before, trial = self.champion, self.before, self.trial
        if champion is None:
            return Scored(unscored(rows), np.zeros(len(rows), np.uint64))
        on_trial = self._canary(users)
        waiting = _waiting(champion.model, before.model, rows) if before else _NOBODY
        if not len(on_trial) and len(waiting) <= REBUILD_MAX:
            scored = _by(champion, before, steps, rows)
        else:
            scored = Scored(
                np.empty((len(rows), len(champion.model.metadata.arms)), np.float32), np.empty(len(rows), np.uint64)
            )
            waiting = np.setdiff1d(waiting, on_trial, assume_unique=True)[REBUILD_MAX:]
            mine = np.ones(len(rows), bool)
            mine[on_trial] = mine[waiting] = False
            parts = [(champion, before, np.flatnonzero(mine)), (before, champion, waiting)]
            parts += [(trial and trial.watched, champion, on_trial)]
            for one, other, at in parts:
                if one is not None and len(at):
                    block = gather(rows, at)
                    scored.scores[at], scored.model[at] = _by(one, other, steps[at], block)
                    scatter(rows, at, block)
        if trial is not None and trial.mode == Mode.SHADOW and not trial.watched.watch.unfit:
            _shadow(trial, steps, users, rows, scored.scores[:, 0])
        return scored

    def _canary(self, users: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places of the challenger's users: always the same ones, and more of them with a larger share."""
        trial = self.trial
        if trial is None or trial.mode != Mode.CANARY or trial.watched.watch.unfit:
            return _NOBODY
        return np.flatnonzero(holdout(users, trial.watched.model.hash, trial.share))


def scored_by(model: Model | None) -> Scorer:
    """One model alone, or none."""
    return Scorer() if model is None else Scorer(Watched(model, Watch(model.metadata)))


_NOBODY = np.zeros(0, np.int64)


def _waiting(champion: Model, before: Model, rows: Rows) -> NDArray[np.int64]:
    """Places of the rows that the champion would have to replay, and the model before it would not."""
    if not champion.metadata.n_state:
        return _NOBODY
    foreign = np.flatnonzero(rows["model"] != champion.hash)
    if not len(foreign):  # as almost always: the last swap was long ago
        return foreign
    waits = rows["step_count"][foreign] > 1
    return foreign[waits & (rows["model"][foreign] == before.hash) if before.metadata.n_state else waits]


def _by(one: Watched, other: Watched | None, steps: NDArray[np.uint8], rows: Rows) -> Scored:
    """Score by one model; where what it says is no probability, by the other."""
    model, watch = one
    if watch.unfit and other is not None:  # until the control thread has taken it out of force
        return _by(other, None, steps, rows)
    began_s = time.perf_counter()
    scores = model.score(steps, rows)
    watch.note_time(time.perf_counter() - began_s, len(rows) + model.replayed)
    scored = Scored(scores, np.full(len(rows), model.hash, np.uint64))
    if not len(rows) or (scores.min() >= 0 and scores.max() <= 1):  # of numbers that have a NaN both are NaN
        watch.note_scores(steps, scores[:, 0])
        return scored
    at = np.flatnonzero(~((scores >= 0) & (scores <= 1)).all(axis=1))
    watch.unfit += len(at)
    block = gather(rows, at)
    if other is None:
        scored.scores[at], scored.model[at] = unscored(block), 0
    else:
        scored.scores[at], scored.model[at] = _by(other, None, steps[at], block)
    scatter(rows, at, block)
    return scored


def _shadow(
    trial: Trial, steps: NDArray[np.uint8], users: NDArray[np.uint64], rows: Rows, scores: NDArray[np.float32]
) -> None:
    """Ask a challenger too: what it would say if it took over now, from the ring, on copies of the rows."""
    model, watch = trial.watched
    at = np.flatnonzero(holdout(users, model.hash, trial.share))[:REBUILD_MAX]
    if not len(at):
        return
    copies = gather(rows, at)
    copies["model"] = 0
    difference = np.abs(_by(trial.watched, None, steps[at], copies).scores[:, 0] - scores[at])
    watch.note_difference(difference[np.isfinite(difference)])
