"""What one model does while it scores, and when it has to go.

The compute thread notes, the control thread asks. Nothing is locked: what is read is single numbers, and a count that
is one batch old is as good.
"""

from enum import StrEnum, unique
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.scoring.artefact import Metadata, ModelRefused, Refusal
from stream.scoring.drift import SCORE, Seen, parse_reference

CALLS = 64
"""Latest calls that the time of scoring is judged by: more than half of them must be over their allowance."""

CALL_ALLOWANCE_S = 0.005
"""Of each call, before its steps are counted: threads take turns, and a small batch costs a call all the same."""

SAMPLE_STRIDE = 4
"""One event in so many is counted for drift."""

SAMPLE_MIN = 1_000
"""Events counted before anything is said about drift: with ten bins chance alone makes a PSI of some 0.01 then."""

SAMPLE_KEEP = 20_000
"""See `Seen`."""


@unique
class Fault(StrEnum):
    """Why a model has to go: the label of a metric, so append and never rename."""

    NAN = "nan"
    LATENCY = "latency"
    SCORE_DRIFT = "score_drift"
    GOLDEN = "golden"
    OPERATOR = "operator"
    """Somebody rolled it back."""


class Finding(NamedTuple):
    """A fault and its figure."""

    fault: Fault
    figure: float
    limit: float


class Limits(NamedTuple):
    """From where on a model has to go, or has to be trained anew."""

    step_us: float
    """Time of one step of one row, beside `CALL_ALLOWANCE_S` of each call."""
    psi_rollback: float
    """PSI of its scores, on probation."""
    psi_retrain: float
    """PSI of its scores or of a feature, at any time."""
    probation_ms: int
    """After promotion. Later it is the world that moves and not the model that is wrong."""


UNLIMITED = Limits(np.inf, np.inf, np.inf, 0)
"""Only what is no probability is a fault."""


class Watch:
    """See the module's text."""

    def __init__(self, metadata: Metadata, limits: Limits = UNLIMITED) -> None:
        """Nothing noted yet.

        Args:
            metadata: the file's; its reference bins are what drift is measured against.
            limits: see there.

        Raises:
            ModelRefused: the file's reference bins cannot be read.
        """
        said = metadata.data.get("reference")
        try:
            self._seen = None if said is None else Seen(parse_reference(said), SAMPLE_KEEP)
        except ValueError as error:
            raise ModelRefused(Refusal.METADATA_INVALID, str(error)) from error
        self._limits = limits
        self.scored = 0
        """Events."""
        self.compared = 0
        """Events scored in the shadow."""
        self.difference_sum = 0.0
        """Of absolute differences to the champion's scores, over events scored in the shadow."""
        self.difference_max = 0.0
        self.unfit = 0
        """Scores that were no probabilities: one is too many."""
        self._over = np.zeros(CALLS, bool)
        self._us = np.zeros(CALLS)
        self._calls = 0
        self._passed_over = 0

    def note_time(self, seconds: float, n_steps: int) -> None:
        """A call has ended.

        Args:
            seconds: that it took.
            n_steps: rows, and what was replayed for them.
        """
        at = self._calls % CALLS
        self._over[at] = seconds > CALL_ALLOWANCE_S + n_steps * self._limits.step_us / 1e6
        self._us[at] = seconds * 1e6 / max(n_steps, 1)
        self._calls += 1

    def note_scores(self, steps: NDArray[np.uint8], scores: NDArray[np.float32]) -> None:
        """What it said.

        Args:
            steps: uint8 [n, F].
            scores: float32 [n], probabilities.
        """
        self.scored += len(scores)
        if self._seen is not None:
            chosen = slice(-self._passed_over % SAMPLE_STRIDE, None, SAMPLE_STRIDE)
            self._passed_over = (self._passed_over + len(scores)) % SAMPLE_STRIDE
            self._seen.add(steps[chosen], scores[chosen])

    def note_difference(self, difference: NDArray[np.float32]) -> None:
        """How far its scores in the shadow were from the champion's: absolute values [n]."""
        if len(difference):
            self.compared += len(difference)
            self.difference_sum += float(difference.sum())
            self.difference_max = max(self.difference_max, float(difference.max()))

    def psi(self) -> dict[str, float]:
        """PSI by feature, and of the score; nothing while too few events were seen, or the file has no bins."""
        return self._seen.psi() if self._seen is not None and self._seen.n >= SAMPLE_MIN else {}

    def fault(self, promoted_ms: int, now_ms: int) -> Finding | None:
        """Why the model has to go; None: it need not.

        Args:
            promoted_ms: when it was put in force, or on trial.
            now_ms: present time.
        """
        limits = self._limits
        if self.unfit:
            return Finding(Fault.NAN, self.unfit, 0)
        if self._calls >= CALLS and self._over.mean() > 0.5:
            return Finding(Fault.LATENCY, float(np.median(self._us)), limits.step_us)
        psi = self.psi().get(SCORE, 0.0)
        if psi > limits.psi_rollback and now_ms - promoted_ms < limits.probation_ms:
            return Finding(Fault.SCORE_DRIFT, psi, limits.psi_rollback)
        return None

    def drifted(self) -> dict[str, float]:
        """PSI of what has moved so far that the model has to be trained anew."""
        return {name: psi for name, psi in self.psi().items() if psi > self._limits.psi_retrain}
