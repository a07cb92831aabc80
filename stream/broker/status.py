"""Find and stop a broker by its data folder: `broker status` and `broker stop`, from another process than started it.

A broker runs in a folder if and only if the folder's lock is held (by its supervisor, for as long as it lives); pids
and addresses in files are believed only then, so a reused pid is never signalled.
"""

import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from stream.broker.errors import BrokerError
from stream.broker.jars import kafka_version
from stream.broker.supervisor import STOP_TIMEOUT_S

POLL_S = 0.1

WAIT_S = STOP_TIMEOUT_S + 5
"""For a broker that was told to stop."""


@dataclass(frozen=True)
class State:
    """What is known of the broker in a data folder. Without one running, only `running` and `data` say something."""

    running: bool
    data: str
    bootstrap: str | None = None
    pid: int | None = None
    kafka_version: str | None = None

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def is_running(data: Path) -> bool:
    """Whether a supervisor holds the folder's lock."""
    try:
        with (data / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def write_state(data: Path, bootstrap: str) -> None:
    """Note where the broker that has just become ready listens."""
    new = data / "broker.new"
    new.write_text(json.dumps({"bootstrap": bootstrap, "kafka_version": kafka_version()}), encoding="utf-8")
    new.replace(data / "broker.json")


def _pids(data: Path) -> dict[str, int]:
    with suppress(FileNotFoundError):
        pids: dict[str, int] = json.loads((data / "pids.json").read_text(encoding="utf-8"))
        return pids
    return {}


def jvm_pid(data: Path) -> int | None:
    """The process id of the JVM that runs in the folder; None if none does."""
    return _pids(data).get("jvm") if is_running(data) else None


def state(data: Path) -> State:
    """What runs in the folder."""
    if not is_running(data):
        return State(running=False, data=str(data))
    noted: dict[str, str] = {}
    with suppress(FileNotFoundError):
        noted = json.loads((data / "broker.json").read_text(encoding="utf-8"))
    return State(
        running=True,
        data=str(data),
        bootstrap=noted.get("bootstrap"),
        pid=_pids(data).get("jvm"),
        kafka_version=noted.get("kafka_version"),
    )


def stop(data: Path) -> bool:
    """Stop the broker in the folder, in order; False if none runs there.

    Raises:
        BrokerError: it belongs to another user, or did not end in time.
    """
    if not is_running(data):
        return False
    pid = _pids(data).get("supervisor")
    if pid is not None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it ended meanwhile
        except PermissionError as error:
            message = f"the broker in {data} belongs to another user (process {pid}); only they or root can stop it"
            raise BrokerError(message) from error
    deadline = time.monotonic() + WAIT_S
    while is_running(data):
        if time.monotonic() > deadline:
            message = f"the broker in {data} (process {pid}) did not end within {WAIT_S:g} s"
            raise BrokerError(message)
        time.sleep(POLL_S)
    return True
