"""Stands between the process that wants a broker and the JVM, so that no JVM is ever left behind.

Run as a program of its own (standard library only, no site packages: up in 20 ms):

    python -I -S supervisor.py PARENT_PID DATA_FOLDER java ...

1. Leave if the parent is gone already (PARENT_PID 0: a broker that is to outlive its starter has no parent).
2. Take the data folder's lock and hold it as long as we live: one broker a folder, and who finds the lock free knows
   that none runs, whatever the pid file says.
3. Start the JVM so that the kernel kills it when we die (Linux; elsewhere only a SIGKILL of this process leaves it).
4. Watch: the parent's death kills the JVM within 0.2 s. The parent is watched by `getppid`, not by a pipe or by the
   kernel's death signal: a pipe's end is inherited by forked children, and the signal comes when the *thread* that
   started us ends. SIGTERM and SIGINT stop the JVM in order, SIGUSR1 kills it.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

EXIT_FOLDER_IN_USE = 73
POLL_S = 0.1
LOCK_ATTEMPTS = 5
STOP_TIMEOUT_S = 60
PR_SET_PDEATHSIG = 1


def die_with_supervisor() -> None:
    """Between fork and exec of the JVM. This process has one thread, so Python code is safe here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take(lock: int) -> bool:
    """Take the folder's lock. Who only looks whether it is free holds it for an instant: ask more than once."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_S / 2)
        else:
            return True
    return False


def main() -> int:
    """Start and watch; the exit status is the JVM's, as a shell would give it."""
    parent, folder, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    wanted: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda received, _frame: wanted.append(received))
    # 1.
    if parent and os.getppid() != parent:
        return 1
    # 2.
    with (folder / "lock").open("a") as lock:
        if not take(lock.fileno()):
            return EXIT_FOLDER_IN_USE
        # 3.
        jvm = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_supervisor)  # noqa: PLW1509
        pids = folder / "pids.json"
        pids.with_suffix(".new").write_text(json.dumps({"supervisor": os.getpid(), "jvm": jvm.pid}))
        pids.with_suffix(".new").replace(pids)
        # 4.
        deadline = float("inf")
        while jvm.poll() is None:
            if (parent and os.getppid() != parent) or signal.SIGUSR1 in wanted or time.monotonic() > deadline:
                jvm.kill()
            elif wanted and deadline == float("inf"):
                jvm.terminate()
                deadline = time.monotonic() + STOP_TIMEOUT_S
            time.sleep(POLL_S)
        pids.unlink()
        return jvm.returncode if jvm.returncode >= 0 else 128 - jvm.returncode


if __name__ == "__main__":
    sys.exit(main())
