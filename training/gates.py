"""What a model must pass before it is published, each with its figure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from stream.scoring.artefact import MODEL_BYTES_MAX
from training.metrics import Parity, Quality

PARITY_MAX = 1e-5


class Gate(NamedTuple):
    """One condition: passed when `figure` is at most `limit`."""

    name: str
    figure: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it holds; not a number never does."""
        return self.figure <= self.limit


def gates(parity: Parity, size_bytes: int, test: Quality) -> list[Gate]:
    """All gates. Golden examples and bits that depend on the batch are no gates: such a file is not made at all."""
    return [
        Gate("parity_one_step", parity.one_step, PARITY_MAX),
        Gate("parity_sequence", parity.sequence, PARITY_MAX),
        Gate("size_bytes", size_bytes, MODEL_BYTES_MAX),
        Gate("log_loss_below_base", test.log_loss, test.base_log_loss),
    ]


def gates_said(found: list[Gate]) -> list[dict[str, Any]]:
    """Gates as metadata and metrics.json hold them."""
    return [{**gate._asdict(), "passed": gate.passed} for gate in found]


def not_passed(metrics: Mapping[str, Any]) -> list[str]:
    """Which gates a file says it did not pass, in words; a file that says nothing about gates passed none."""
    said = metrics.get("gates")
    if not said:
        return ["its metadata say nothing about gates"]
    return [f"{gate['name']}: {gate['figure']:g}, limit {gate['limit']:g}" for gate in said if not gate["passed"]]
