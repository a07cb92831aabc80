"""`python -m tests.training.killed_loop TASK SPARED...`: a cycle whose process is killed at each of its steps.

A step is what the world sees at once: a file put in its place, or records published. Each life goes on where the last
one was killed, until it comes by a step in front of which none has died yet; the last one comes to the end. Nobody dies
in front of the steps SPARED. Lives are forked off a process that has imported TensorFlow already, and has done nothing
else with it; they are killed by SIGKILL.

On standard output: a line for each life that was killed, the step; then the outcome as JSON.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import training.publish
from stream.kafka.topics import publish_control
from training.fit import Plan
from training.loop import Task, cycle


def _step_by_step(task: Task, before: set[str], note: int) -> None:
    """Let this process die in front of the first step that is none of `before`; it writes its name to `note`."""
    replace, publish = Path.replace, publish_control

    def step(name: str) -> None:
        if name not in before:
            os.write(note, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def replaced(self: Path, target: str | os.PathLike[str]) -> Path:
        step(os.path.relpath(target, task.out.parent))
        return replace(self, target)

    def published(bootstrap: str, topic: str, records: Mapping[bytes, bytes | None]) -> None:
        step(f"publish {' '.join(sorted(key.decode().split(':')[0] for key in records))}".strip())
        publish(bootstrap, topic, records)

    vars(training.publish)["publish_control"] = published
    type.__setattr__(Path, "replace", replaced)


def main(said: dict[str, Any], spared: list[str]) -> None:
    """Live until the cycle is done."""
    paths = {name: Path(said[name]) for name in ("archive", "out")}
    task = Task(**{**said, **paths, "plan": Plan(**said["plan"])})
    died_at = set(spared)
    for _ in itertools.count():
        read, note = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _step_by_step(task, died_at, note)
            outcome = cycle(task, time.time_ns() // 1_000_000)
            sys.stdout.write(json.dumps(outcome._asdict()) + "\n")
            sys.stdout.flush()
            os._exit(0)
        os.close(note)
        _, status = os.waitpid(pid, 0)
        name = os.read(read, 1_000).decode()
        os.close(read)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        died_at.add(name)
        sys.stdout.write(name + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
