"""A machine with python3, make and coreutils is enough; once that has worked, it works without the network too.

A new user without rights, a new HOME, a PATH of links to those programs alone, a copy of what git tracks in a folder
whose name has a space and a quote. Needs root, because it makes that user and a network namespace with loopback alone.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Debian's, not one of a version manager in someone's home that no other user can read.
PYTHON = "/usr/bin/python3"
TIMEOUT_S = 3000
PROGRAMS_NEEDED = ("useradd", "userdel", "unshare", "git", "make", "dpkg", PYTHON)

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(4 * TIMEOUT_S),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS_NEEDED)),
        reason="makes a user and a network namespace: needs root on Debian, with git",
    ),
]

# Gives up all rights and runs a program. In a network namespace of its own, the loopback interface is down at first.
AS_USER = """
import fcntl, os, socket, struct, sys
if sys.argv[1] == "offline":
    with socket.socket() as any_socket:
        SIOCSIFFLAGS, IFF_UP = 0x8914, 1
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
user = int(sys.argv[2])
os.setgroups([])
os.setgid(user)
os.setuid(user)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Machine:
    """The user, the home, the PATH and the copy."""

    def __init__(self, folder: Path, user: str) -> None:
        self.copy = folder / "it's a copy"
        self.uid = pwd.getpwnam(user).pw_uid
        self.home = folder / "home"
        self.environment = {
            "HOME": str(self.home),
            "USER": user,
            "PATH": str(folder / "bin"),
            "TMPDIR": str(folder / "tmp"),
            "LANG": "C.UTF-8",
        }
        programs = subprocess.run(["dpkg", "-L", "coreutils"], capture_output=True, text=True, check=True).stdout
        links = {Path(line).name: line for line in programs.splitlines() if "/bin/" in line}
        for name, target in {**links, "python3": PYTHON, "make": shutil.which("make"), "sh": "/bin/sh"}.items():
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).symlink_to(str(target))
        self.copy.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", self.copy], input=archive, check=True)
        for made in (self.home, folder / "tmp"):
            made.mkdir()
        subprocess.run(["chown", "-R", user, folder], check=True)

    def run(self, *command: str, network: bool) -> str:
        """Run as that user; what it printed. The exit status must be 0, and no process of the user may be left."""
        program = str(Path(self.environment["PATH"]) / command[0])
        prefix = [] if network else [str(shutil.which("unshare")), "--net"]
        as_user = [PYTHON, "-c", AS_USER, "online" if network else "offline", str(self.uid), program]
        done = subprocess.run(
            [*prefix, *as_user, *command[1:]],
            cwd=self.copy,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"left behind by {command}"
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["uids"]) if one.info["uids"] and one.info["uids"].real == self.uid]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # Not below pytest's own folder, which no other user can enter.
    folder = Path(tempfile.mkdtemp(prefix="offerstream-fresh-"))
    folder.chmod(0o755)
    user = f"fresh{os.getpid()}"
    command = ["useradd", "--home-dir", str(folder / "home"), "--no-create-home", "--user-group", user]
    subprocess.run(command, check=True)
    made: Machine | None = None
    try:
        made = Machine(folder, user)
        yield made
    finally:
        for process in made.processes() if made is not None else ():
            process.kill()
        subprocess.run(["userdel", user], check=True)
        shutil.rmtree(folder)


def test_make_does_all_the_set_up_and_again_without_the_network(machine: Machine) -> None:
    assert "passed" in machine.run("make", "test-fast", network=True).splitlines()[-1]
    broker = ("make", "test", "PYTEST_ARGS=tests/broker/test_cli.py")
    assert "passed" in machine.run(*broker, network=True).splitlines()[-1]
    # From here on with nothing but the loopback interface.
    assert machine.run("make", "setup", network=False) == ""
    assert "passed" in machine.run("make", "test-fast", network=False).splitlines()[-1]
    assert "passed" in machine.run(*broker, network=False).splitlines()[-1]
    assert "A worker can run here." in machine.run("sh", "-c", ".venv/bin/python -m stream doctor", network=False)


def test_make_demo_runs_twice_and_without_the_network(machine: Machine) -> None:
    for network in (True, True, False):
        machine.run("make", "demo", network=network)
        assert (machine.copy / "var" / "demo" / "summary.json").exists()
