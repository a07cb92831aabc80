"""Ctrl-C at any moment leaves no process behind, whatever make is doing."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = "MARK_OF_CTRL_C_TEST"  # children inherit it, whatever session, folder or parent they have
GONE_WITHIN_S = 20
TEST = ("make", "test", "PYTEST_ARGS=tests/broker tests/e2e tests/faults -p no:cacheprovider")  # in all processes

pytestmark = [pytest.mark.long, pytest.mark.needs_broker, pytest.mark.timeout(300)]


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.parametrize("after_s", [0.1, 0.5, 2, 5, 10, 20, 40, 80])
@pytest.mark.parametrize("command", [("make", "demo"), TEST], ids=["demo", "test"])
def test_ctrl_c(command: tuple[str, ...], after_s: float) -> None:
    mark = uuid.uuid4().hex
    # A session of its own, and the signal to all of its foreground group: what a terminal does.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(after_s)
        assert marked(mark), "it ended by itself before"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)
        deadline = time.monotonic() + GONE_WITHIN_S
        while (left := marked(mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left, [one.cmdline() for one in left]
        assert process.returncode != 0
    finally:
        for one in marked(mark):
            one.kill()
