"""A program under measurement: started, watched from outside, stopped in order, its resources read from the kernel."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.bench.load import PublishError

STOP_TIMEOUT_S = 60.0
BLOCK_BYTES = 512  # of ru_oublock
ROOT = Path(__file__).resolve().parent.parent.parent

MODULE = (sys.executable, "-m")
"""Before the name of a module and its arguments."""

STACKS_CHARS_MAX = 20_000


class ProgramError(RuntimeError):
    """A program ended by itself or did not do what it was started for; the message has the end of its log."""


class Program:
    """A command in the repository's root with an environment of its own; its output goes to a file.

    Args:
        command: and arguments.
        environment: added to this process' own, from which OFFERSTREAM_* and PEER_* are removed.
        log: where its output goes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OFFERSTREAM_", "PEER_", "KAFKA_"))}
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=inherited | dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._watched = psutil.Process(self._process.pid)
        self._ended = False
        self.rss_max_bytes = 0
        """The most that a look has found. Not the kernel's ru_maxrss: it begins with that of the process that forks."""
        self.disk_bytes = 0
        """Written to the file system over its whole life, known once it has stopped."""

    def check(self) -> None:
        """Look at it.

        Raises:
            ProgramError: it has ended.
        """
        if self._ended or self._watched.status() == psutil.STATUS_ZOMBIE:
            self.stop()
            raise ProgramError(f"it ended by itself:\n{self.log_tail()}")
        self.rss_max_bytes = max(self.rss_max_bytes, self._watched.memory_info().rss)

    def cpu_s(self) -> float:
        """Processor time so far, of user and kernel."""
        times = self._watched.cpu_times()
        return float(times.user + times.system)

    def disk_bytes_so_far(self) -> int:
        """Written to the file system so far."""
        return int(self._watched.io_counters().write_bytes)

    def log_tail(self) -> str:
        """The end of its output."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])

    def stacks(self) -> str:
        """Where every thread of a worker stands, behind the end of its output."""
        before = self.log_tail()
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(1)
        return f"{before}\n{self._log.read_text(errors='replace')[-STACKS_CHARS_MAX:]}"

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Ask it to stop, wait, and kill it where it does not."""
        if self._ended:
            return
        # Not Popen's send_signal and poll: they reap a program that has ended, and its resource usage is lost.
        os.kill(self._process.pid, sig)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        try:
            while True:
                pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > deadline_s:
                    os.kill(self._process.pid, signal.SIGKILL)
                    deadline_s += STOP_TIMEOUT_S
                time.sleep(0.02)
        except BaseException:  # a second Ctrl-C: it is not waited for, and not left behind
            with suppress(ProcessLookupError, ChildProcessError):  # it had ended just then
                os.kill(self._process.pid, signal.SIGKILL)
                os.wait4(self._process.pid, 0)
            self._process.returncode = -signal.SIGKILL
            self._ended = True
            raise
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._ended = True
        self.disk_bytes = usage.ru_oublock * BLOCK_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_tool(module: list[str], environment: Mapping[str, str]) -> None:
    """Run a command of the product to its end.

    Raises:
        PublishError: it failed.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OFFERSTREAM_")}
    done = subprocess.run(
        [*MODULE, *module],
        cwd=ROOT,
        env=inherited | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PublishError(f"python -m {' '.join(module)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
