"""Programs that the demo starts, none of which outlives it, however it ends."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stream.broker import supervisor

LOG_TAIL_LINES = 15


class Child:
    """A program under the broker's supervisor: it dies with this process, also when that is killed.

    In a session of its own, so Ctrl-C is for this process to handle.
    """

    def __init__(
        self, name: str, command: Sequence[str], log_folder: Path, run_folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log_folder / f"{name}.log"
        home = run_folder / name
        home.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), str(home), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(environment),
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:])

    def stop(self) -> int:
        """Ask it to end, wait, and return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait()
