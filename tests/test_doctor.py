"""The doctor names what is missing and how to mend it, and fails only for what a worker needs."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream import doctor
from stream.broker import ports


def run(**environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OFFERSTREAM_", "KAFKA_"))}
    done = subprocess.run(
        [sys.executable, "-m", "stream", "doctor", "--json"],
        capture_output=True,
        text=True,
        env=inherited | environment,
        timeout=120,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    return done.returncode, {check["what"]: check for check in report["checks"]}


def by_name(found: Iterator[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {one.what: one for one in found}


def test_this_environment_can_run_a_worker() -> None:
    code, checks = run()
    assert code == 0
    assert checks["a worker's packages"]["level"] == "ok"
    assert checks["versions"]["level"] == "ok"
    assert checks["loopback"]["level"] == "ok"


@pytest.mark.slow
def test_a_kafka_that_is_not_there_is_bad() -> None:
    dead = f"127.0.0.1:{ports.free_ports(None).broker}"
    code, checks = run(KAFKA_BOOTSTRAP=dead)
    assert code == 1
    assert checks["KAFKA_BOOTSTRAP"]["level"] == "bad"
    assert dead in checks["KAFKA_BOOTSTRAP"]["mend"]


def test_bad_settings_are_bad() -> None:
    code, checks = run(OFFERSTREAM_PARTITIONS="many", OFFERSTREAM_NO_SUCH="1")
    assert code == 1
    assert checks["settings"]["level"] == "bad"
    assert "OFFERSTREAM_PARTITIONS" in checks["settings"]["found"]
    assert "OFFERSTREAM_NO_SUCH" in checks["settings"]["found"]


def test_a_broker_that_was_never_fetched_is_a_note(tmp_path: Path) -> None:
    code, checks = run(XDG_CACHE_HOME=str(tmp_path))
    assert code == 0
    kafka = next(check for what, check in checks.items() if what.startswith("Apache Kafka"))
    assert kafka["level"] == "note"
    assert "first start" in kafka["mend"]
    # Looking makes nothing. (onnxruntime makes a folder of its own when it is loaded.)
    assert not (tmp_path / "offerstream").exists()


def test_a_taken_admin_port_is_a_note() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, checks = run(OFFERSTREAM_ADMIN_PORT=str(taken.getsockname()[1]))
    assert code == 0
    assert checks["admin port"]["level"] == "note"


@pytest.mark.parametrize(
    ("requires", "what", "level", "named"),
    [
        (["no-such-package>=1"], "a worker's packages", "bad", "no-such-package"),
        (["numpy>=999"], "a worker's packages", "bad", "numpy"),
        (["no-such-package; python_version < '3'"], "a worker's packages", "ok", "all"),
        (["no-such-package; extra == 'training'"], "extra 'training'", "note", "no-such-package"),
        (["no-such-package; extra == 'training'"], "a worker's packages", "ok", "all"),
        (["no-such-package; extra == 'training'"], "extra 'demo'", "ok", "all"),
    ],
)
def test_missing_packages(
    monkeypatch: pytest.MonkeyPatch, requires: list[str], what: str, level: str, named: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requires)
    found = by_name(iter(doctor.check_packages()))[what]
    assert found.level == level
    assert named in found.found
    assert bool(found.mend) == (level != "ok")


def test_another_version_than_the_pinned_one_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = tmp_path / "all.lock"
    lock.write_text("click==0.0.1 \\\n    --hash=sha256:0\nno-such==1 \\\nnumpy==0.1 ; python_full_version < '3' \\\n")
    monkeypatch.setattr(doctor, "LOCK", lock)
    (found,) = doctor.check_lock()
    assert found.level == "note"
    assert "click==0.0.1" in found.found
    assert "no-such" not in found.found
    assert "numpy" not in found.found


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "bad"), (1 << 30, "note"), (1 << 40, "ok")])
def test_disk_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, level: str) -> None:
    class Usage:
        def __init__(self) -> None:
            self.free = free

    def usage(_: Any) -> Usage:
        return Usage()

    monkeypatch.setattr("shutil.disk_usage", usage)
    (space,) = doctor.check_space("a test", tmp_path / "not" / "yet" / "there")
    assert space.level == level
    monkeypatch.setattr(doctor, "memory_available_bytes", lambda: free)
    (memory,) = doctor.check_memory()
    assert memory.level == level


def test_the_table_keeps_what_is_to_be_typed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from stream.doctor import *; print_table([Finding('x', 'note', 'y', \"'.[demo]'\")])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "'.[demo]'" in done.stdout
