"""Workers whose parts a test changes: forked off a process that has imported everything already."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.e2e.harness import LateError, Worker

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.faults.crashing_worker", "tests.faults.stalling_worker"])


def settle_in(log: str, environment: Mapping[str, str]) -> None:
    """In the fork: write to this log, see this environment."""
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log_file, 1)
    os.dup2(log_file, 2)
    os.environ.clear()
    os.environ.update(environment)


class ForkedWorker(Worker):
    """A worker that runs a function, which settles in first."""

    def __init__(self, log: Path, run: Callable[..., None], *args: object) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._fork = _FORKS.Process(target=run, args=args, daemon=True)
        self._fork.start()
        self.pid = self._fork.pid or 0

    def poll(self) -> int | None:
        return self._fork.exitcode

    def wait(self, timeout_s: float) -> int:
        self._fork.join(timeout_s)
        if self._fork.exitcode is None:
            raise LateError(f"the worker still runs after {timeout_s:.0f} s:\n{self.log()}")
        return self._fork.exitcode

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._fork.kill()
        self._fork.join()
