"""The Java peer: built by Maven where a JDK is there, once for each state of its sources; a message where it cannot."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent.parent.parent / "var" / "bench-streams"
BUILD_TIMEOUT_S = 600.0  # the first one fetches Maven's plugins and 110 MB of jars
HEAP = "1g"
OPTIONS = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",)


class NoPeerError(RuntimeError):
    """Kafka Streams cannot be measured here; the message says why and what would help."""


def java_command(built: Path = BUILT) -> list[str]:
    """The command that runs the peer; it is built first where it is not yet.

    Args:
        built: where what is built goes, a folder of its own for each state of the sources.

    Raises:
        NoPeerError: no JDK or no Maven, or the build failed (without network at the first one, for instance).
    """
    programs = {name: shutil.which(name) for name in ("java", "javac", "mvn")}
    if missing := [name for name, path in programs.items() if path is None]:
        raise NoPeerError(
            f"{', '.join(missing)} not found: Kafka Streams is not measured. It takes a JDK 17 or newer and Maven"
        )
    folder = built / _sources_hash()
    built.mkdir(parents=True, exist_ok=True)
    with (built / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at it
        if not (folder / "done").exists():
            _build(str(programs["mvn"]), folder)
    class_path = f"{folder / 'peer.jar'}:{folder / 'lib'}/*"
    return [str(programs["java"]), f"-Xms{HEAP}", f"-Xmx{HEAP}", *OPTIONS, "-cp", class_path, "Peer"]


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted([HERE / "pom.xml", *HERE.glob("java/*.java")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _build(maven: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log = folder / "maven.log"
    command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), f"-Dbuilt={folder}", "package"]
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=BUILD_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NoPeerError(f"Maven took longer than {BUILD_TIMEOUT_S:g} s; its output is in {log}") from error
    if done.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("[ERROR]")]
        raise NoPeerError(f"Maven could not build Kafka Streams' peer ({log}):\n" + "\n".join(said[:5]))
    (folder / "done").touch()
