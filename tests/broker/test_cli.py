"""`python -m stream broker`, as a person uses it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stream.broker import ports

pytestmark = pytest.mark.needs_broker


def run(*arguments: str, data: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "stream", "broker", *arguments, "--data-dir", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_start_status_stop(tmp_path: Path) -> None:
    data = tmp_path / "a folder"
    assert run("status", data=data).returncode == 3
    started = run("start", "--port", "0", data=data)
    try:
        assert started.returncode == 0, started.stderr
        address = started.stdout.strip().removeprefix("KAFKA_BOOTSTRAP=")
        state = json.loads(run("status", "--json", data=data).stdout)
        assert state["running"] is True
        assert state["bootstrap"] == address
        assert state["kafka_version"].startswith("4.")
        assert psutil.Process(state["pid"]).name() == "java"
        again = run("start", "--port", "0", data=data)
        assert again.returncode == 1
        assert address in again.stderr
    finally:
        stopped = run("stop", data=data)
    assert stopped.returncode == 0
    assert stopped.stdout == "stopped\n"
    assert not psutil.pid_exists(state["pid"])
    assert json.loads(run("status", "--json", data=data).stdout)["running"] is False
    assert run("stop", data=data).stdout.startswith("no broker was running")


def test_a_busy_port_is_a_message_and_exit_code_1(broker: str, tmp_path: Path) -> None:
    port = broker.rpartition(":")[2]
    begun = time.monotonic()
    done = run("start", "--port", port, data=tmp_path / "data")
    assert done.returncode == 1
    assert time.monotonic() - begun < 15
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_whose_files_are_stale_is_not_running_and_starts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    # As a machine that lost power leaves it; the pid belongs to someone else by now.
    (data / "pids.json").write_text(json.dumps({"supervisor": 1, "jvm": 1}))
    (data / "broker.json").write_text(json.dumps({"bootstrap": "127.0.0.1:1", "kafka_version": "4"}))
    (data / "lock").touch()
    assert run("status", data=data).returncode == 3
    assert run("stop", data=data).stdout.startswith("no broker was running")
    done = run("start", "--port", str(ports.free_ports(None).broker), data=data)
    assert run("stop", data=data).stdout == "stopped\n"
    assert done.returncode == 0, done.stderr
