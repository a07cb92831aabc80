"""The two kinds of networks that a worker runs: one carries a state from event to event, one looks at the last steps.

Both have a *memory*, all that they need to know of a user before an event: of the recurrent kind it is the hidden
state, float16 [n, S]; of the window kind the last steps, uint8 [n, 1 + T * F]. In a row both have their place already
(`state`, `steps`), and `score` uses it; `fresh` and `advance` are for whoever has no rows.
"""

import numpy as np
from numpy.typing import NDArray

from stream.core.features import dequantise
from stream.core.row import N_FEATURES, N_STEPS, Rows
from stream.scoring.artefact import HELD_INPUT, OUT_SUFFIX, SCORE_OUTPUT, STEP_INPUT, Metadata
from stream.scoring.session import Halves, Memory, Session, pushed


class Recurrent:
    """One step per event, its state carried in the row.

    The state in a row belongs to the model whose hash stands beside it. Where that is another one, or none, it is
    rebuilt first from the row's ring of steps, lazily, at the user's next event and in bulk over the batch.
    """

    def __init__(self, session: Session, metadata: Metadata, model_hash: int) -> None:
        self._session, self._hash, self._n_state = session, model_hash, metadata.n_state
        self._halves = Halves()
        self.replayed = 0
        self._outputs = [SCORE_OUTPUT, *(name + OUT_SUFFIX for name, _ in metadata.state)]
        ends = np.cumsum([width for _, width in metadata.state]).tolist()
        self._parts = [(name, slice(end - width, end)) for (name, width), end in zip(metadata.state, ends, strict=True)]

    def score(self, steps: NDArray[np.uint8], rows: Rows) -> NDArray[np.float32]:
        """See `stream.scoring.model.Model.score`."""
        self.replayed = 0
        foreign = rows["model"] != self._hash
        if foreign.any():
            self._rebuild(rows, np.flatnonzero(foreign))
        return self.advance(steps, rows["state"])

    def fresh(self, n: int) -> Memory:
        """float16 [n, S], the state before a first event: zero."""
        return np.zeros((n, self._n_state), np.float16)

    def drawn(self, n: int, rng: np.random.Generator) -> Memory:
        """As `fresh`, of users with some past."""
        return rng.uniform(-1, 1, (n, self._n_state)).astype(np.float16)

    def advance(self, steps: NDArray[np.uint8], memory: Memory) -> NDArray[np.float32]:
        """See `stream.scoring.model.Model.advance`; the state is rounded before it is kept."""
        feed = {name: self._halves.to_float(memory[:, part]) for name, part in self._parts}
        feed[STEP_INPUT] = dequantise(steps)
        scores: NDArray[np.float32]
        scores, *after = self._session.run(self._outputs, feed)
        for (_, part), values in zip(self._parts, after, strict=True):
            memory[:, part] = self._halves.to_half(values)
        return scores

    def _rebuild(self, rows: Rows, at: NDArray[np.int64]) -> None:
        """Make the hidden state of `rows[at]` ours: from zero over the steps in the ring but the newest, oldest first.

        The newest step is that of the event being scored: `score` takes it next.
        """
        before = np.maximum(rows["step_count"][at].astype(np.int64) - 1, 0)
        self.replayed = int(before.sum())
        longest_first = np.argsort(-before, kind="stable")
        at, before = at[longest_first], before[longest_first]
        state = np.zeros((len(at), rows["state"].shape[1]), np.float16)
        newest = rows["step_pos"][at].astype(np.int64) - 1
        ring = rows["steps"]
        for ago in range(int(before[0]), 0, -1):
            n = int(np.searchsorted(-before, -ago, side="right"))  # rows that hold a step of so long ago: the first n
            self.advance(ring[at[:n], (newest[:n] - ago) % N_STEPS], state[:n])
        rows["state"][at] = state
        rows["model"][at] = self._hash


class Windowed:
    """The last T steps at every event, out of the row's ring; nothing is carried."""

    replayed = 0

    def __init__(self, session: Session) -> None:
        self._session = session

    def score(self, steps: NDArray[np.uint8], rows: Rows) -> NDArray[np.float32]:
        """See `stream.scoring.model.Model.score`; `steps` are in the rings already.

        A state that another model left behind misses this event. It is dropped, so that nobody carries it on, and zeros
        cost nothing in the changelog.
        """
        del steps
        carried = np.flatnonzero(rows["model"])
        if len(carried):
            rows["state"][carried] = 0
            rows["model"][carried] = 0
        oldest = rows["step_pos"].astype(np.int64)[:, None]  # until it is full, empty places come first
        window = rows["steps"][np.arange(len(rows))[:, None], (oldest + np.arange(N_STEPS)) % N_STEPS]
        return self._look(window, rows["step_count"])

    def fresh(self, n: int) -> Memory:
        """uint8 [n, 1 + T * F]: no step yet."""
        return np.zeros((n, 1 + N_STEPS * N_FEATURES), np.uint8)

    def drawn(self, n: int, rng: np.random.Generator) -> Memory:
        """As `fresh`, of users with some past, from none to more than a ring holds."""
        memory = rng.integers(0, 256, (n, 1 + N_STEPS * N_FEATURES), np.uint8)
        memory[:, 0] %= N_STEPS + 1
        return memory

    def advance(self, steps: NDArray[np.uint8], memory: Memory) -> NDArray[np.float32]:
        """See `stream.scoring.model.Model.advance`."""
        memory[:, 1:] = pushed(memory[:, 1:].reshape(-1, N_STEPS, N_FEATURES), steps).reshape(len(steps), -1)
        memory[:, 0] = np.minimum(memory[:, 0] + 1, N_STEPS)
        return self._look(memory[:, 1:].reshape(-1, N_STEPS, N_FEATURES), memory[:, 0])

    def _look(self, window: NDArray[np.uint8], held: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of windows [n, T, F], oldest first, of which the last `held` [n] are there."""
        feed = {STEP_INPUT: dequantise(window), HELD_INPUT: held.astype(np.float32)[:, None]}
        scores: NDArray[np.float32]
        (scores,) = self._session.run([SCORE_OUTPUT], feed)
        return scores
