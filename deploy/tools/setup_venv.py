"""Make `.venv/` with every extra, from the lock file, by nothing but Python's own `venv` and `pip`.

Called by `make setup`. Does nothing, and needs no network, when the environment was already made from the same lock
file, the same project table, by the same Python, in the same folder.

1. Check the Python version, before anything is written: later messages would be about wheels, not about the cause.
2. Take a lock, so that two `make` side by side do not install into one folder at once.
3. Make the environment; start it anew if another Python made it.
4. Install what the lock names, by hash, wheels only: no compiler is ever needed.
5. Install the project itself, editable, without its own build environment: setuptools came with step 4.
6. Only now write the stamp: a run that was interrupted is repeated in whole.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "deploy" / "requirements" / "all.lock"
PYTHON_MIN, PYTHON_MAX = (3, 11), (3, 13)


def wanted_stamp() -> str:
    """What the environment must have been made from, as one hash."""
    import tomllib  # noqa: PLC0415 (missing before Python 3.11, whose users need the message of step 1)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [json.dumps(project, sort_keys=True), LOCK.read_text(encoding="utf-8"), sys.version, str(ROOT)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def pip(*arguments: str) -> None:
    # A user's own pip settings (another index, a certificate) hold; the warning about pip's age helps nobody here.
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-input", *arguments]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit(
            "setup: pip could not install the packages (its message is above). The first set-up needs the network, or "
            "a pip configured for a mirror; `make setup` goes on where it stopped."
        )


def main() -> None:
    # 1.
    if not PYTHON_MIN <= sys.version_info[:2] <= PYTHON_MAX:
        sys.exit(
            f"setup: this is Python {sys.version.split()[0]}; TensorFlow has wheels for "
            f"{'.'.join(map(str, PYTHON_MIN))} to {'.'.join(map(str, PYTHON_MAX))}. "
            "Name one of these: make setup PYTHON=python3.13"
        )
    stamp = VENV / ".installed-from"
    wanted = wanted_stamp()
    # 2.
    ROOT.joinpath("var").mkdir(exist_ok=True)
    with ROOT.joinpath("var", "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        # 3.
        stamp.unlink(missing_ok=True)
        version = (
            subprocess.run(
                [str(VENV / "bin" / "python"), "-c", "import sys; print(sys.version)"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            if (VENV / "bin" / "python").exists()
            else ""
        )
        if version != sys.version.strip() or not (VENV / "bin" / "pip").exists():
            print(f"setup: making {VENV} with Python {sys.version.split()[0]}", flush=True)
            made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
            if made.returncode:
                sys.exit(
                    "setup: Python's venv failed (its message is above). On Debian and Ubuntu it is a package of its "
                    "own, python3-venv; else name another Python: make setup PYTHON=/path/to/python3"
                )
        # 4.
        pip("--quiet", "--progress-bar", "on", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK))
        # 5.
        pip("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        # 6.
        stamp.write_text(wanted)
        print("setup: done", flush=True)


if __name__ == "__main__":
    main()
