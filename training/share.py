"""Which share of every batch is this process's, where several train one model: said by TF_CONFIG, as is usual.

TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
"""

import json
from typing import Any, NamedTuple

from training.errors import TrainingError

TF_CONFIG = "TF_CONFIG"


class Share(NamedTuple):
    """Which part of every batch is this process's: windows `at`, `at + of`, ..."""

    at: int
    of: int


ALONE = Share(0, 1)


def share_said(text: str) -> Share:
    """The share that a TF_CONFIG gives to this process; "" is none but its own.

    Raises:
        TrainingError: it is no cluster of workers, or this process is none of them.
    """
    if not text:
        return ALONE
    try:
        said: Any = json.loads(text)
        workers, task = said["cluster"]["worker"], said["task"]
        index = int(task["index"])
        within = set(said["cluster"]) == {task["type"]} == {"worker"} and 0 <= index < len(workers)
        problem = "" if within else f"{', '.join(said['cluster'])}; task {task['type']} {index} of {len(workers)}"
    except (ValueError, KeyError, TypeError) as error:
        problem, index, workers = f"{type(error).__name__}: {error}", 0, []
    if problem:
        raise TrainingError(
            f"{TF_CONFIG} says no cluster of workers with this one in it: {problem}; wanted is "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        )
    return Share(index, len(workers))
