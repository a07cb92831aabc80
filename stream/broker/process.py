"""One run of Kafka's JVM in a data folder: start it, wait until it answers, stop it, explain why it ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.broker import supervisor
from stream.broker.errors import BrokerError, PortTakenError
from stream.broker.layout import HOST, Ports

READY_TIMEOUT_S = 90
READY_POLL_S = 0.05
STOP_TIMEOUT_S = supervisor.STOP_TIMEOUT_S + 5


@dataclass(frozen=True)
class Runtime:
    """What is needed to run Kafka: made once by `stream.broker.runtime`."""

    java: Path
    class_path: str
    template: Path  # a formatted folder to copy a new broker's identity from
    aot_cache: Path | None  # the JVM's ahead-of-time cache of loaded classes; None: it starts without, slower


def java_command(runtime: Runtime, data: Path, heap_mb: int, jvm_options: Sequence[str] = ()) -> list[str]:
    """The command line of the JVM.

    One small heap, the collector with the least overhead on two cores, no temporary files outside the data folder, no
    warnings about the JVM's internals that Kafka's jars still use.
    """
    aot = [f"-XX:AOTCache={runtime.aot_cache}", "-XX:AOTMode=auto", "-Xlog:aot=off", "-Xlog:cds=off"]
    return [
        str(runtime.java),
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-Djava.awt.headless=true",
        f"-Djava.io.tmpdir={data / 'tmp'}",
        f"-Dlog4j2.configurationFile={data}/log4j2.properties",
        *(aot if runtime.aot_cache else []),
        *jvm_options,
        "-cp",
        runtime.class_path,
        "kafka.Kafka",
        str(data / "server.properties"),
    ]


def start(command: Sequence[str], data: Path, *, outlive_parent: bool) -> "subprocess.Popen[bytes]":
    """Start the supervisor, which starts the JVM. In a session of its own: Ctrl-C is for us to handle, not for it."""
    parent = "0" if outlive_parent else str(os.getpid())
    with (data / "logs" / "jvm.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, parent, str(data), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=data,
        )


def wait_until_ready(process: "subprocess.Popen[bytes]", data: Path, ports: Ports, timeout_s: float) -> None:
    """Return when the broker answers a metadata request with itself in it: it is registered and takes requests.

    Raises:
        BrokerError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    while not _accepts(ports.broker):
        _check(process, data, ports, deadline)
        time.sleep(READY_POLL_S)
    while not count_brokers(f"{HOST}:{ports.broker}", timeout_s=1):
        _check(process, data, ports, deadline)
        time.sleep(READY_POLL_S)


def count_brokers(bootstrap: str, timeout_s: float) -> int:
    """How many brokers of a cluster answer at an address; 0 if none does in time."""
    quiet = {"log_level": 0, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
    try:
        return len(AdminClient({"bootstrap.servers": bootstrap, **quiet}).list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return 0


def _accepts(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex((HOST, port)) == 0


def _check(process: "subprocess.Popen[bytes]", data: Path, ports: Ports, deadline: float) -> None:
    status = process.poll()
    if status is not None:
        raise explain(data, ports, status)
    if time.monotonic() > deadline:
        message = f"Kafka did not answer on {HOST}:{ports.broker} in time; its log: {data}/logs/server.log"
        raise BrokerError(message)


# What Kafka or the JVM writes -> what to do. The first that is found counts.
EXPLANATIONS = (
    ("AccessDeniedException", "files in {data} belong to another user. Choose another folder with --data-dir."),
    (
        "No space left on device",
        "the disk of {data} is full. Make room there, or choose another folder with --data-dir.",
    ),
    ("insufficient memory", "the machine has too little free memory for the JVM. Close something and start again."),
    ("OutOfMemoryError", "the JVM's heap is too small for these topics. Give it more with --heap-mb."),
)


def folder_in_use(data: Path) -> BrokerError:
    """What is said to a second broker in one folder."""
    return BrokerError(f"a broker is running in {data} already. Stop it, or choose another folder with --data-dir.")


def explain(data: Path, ports: Ports, status: int) -> BrokerError:
    """Why the broker ended before it was ready, and what to do."""
    if status == supervisor.EXIT_FOLDER_IN_USE:
        return folder_in_use(data)
    logs = [data / "logs" / name for name in ("jvm.log", "server.log")]
    text = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs if log.exists())
    if "Address already in use" in text:
        return PortTakenError(
            f"port {ports.broker} or {ports.controller} was taken by another program meanwhile; start again"
        )
    for pattern, advice in EXPLANATIONS:
        if pattern in text:
            return BrokerError("Kafka ended while starting: " + advice.format(data=data))
    causes = [
        line
        for line in text.splitlines()
        if "ERROR" in line or "FATAL" in line or "Exception" in line or "Error" in line
    ]
    return BrokerError(
        f"Kafka ended while starting (exit status {status}): the folder {data} seems damaged. If what is in it can "
        f"be lost, delete it; else choose another one with --data-dir. Its log, {data}/logs/server.log, says:\n"
        + "\n".join(f"  {line[:300]}" for line in causes[-5:])
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop in order: Kafka writes what it holds and ends; killed if that takes too long."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    finally:
        # Also when Ctrl-C cuts the wait short.
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """`kill -9` the JVM; returns when it and its supervisor are gone. Nothing happens if they are."""
    if process.poll() is None:
        process.send_signal(signal.SIGUSR1)
    process.wait()
