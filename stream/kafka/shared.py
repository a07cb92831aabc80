"""What all partitions of a worker share."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from stream.kafka.outside import Outside
from stream.metrics import Metrics
from stream.settings import Settings


@dataclass(frozen=True)
class Shared:
    """One a worker, made by the composition root."""

    settings: Settings
    metrics: Metrics
    compute: ThreadPoolExecutor
    """One thread: all changes of state."""
    process: Callable  # type: ignore[type-arg]
    """`stream.topology.process`."""
    answer: Callable  # type: ignore[type-arg]
    """`stream.topology.answer_silence`."""
    fatal: Callable[[BaseException], None]
    """Ends the process."""
    outside: Outside
    aborted: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    """How often a transaction that hung was aborted, by (topic, partition, first offset); see `settle_what_hangs`."""
