"""Kafka's jars: fetched once into the user's cache, each verified against the SHA-256 pinned in `jars.sha256`.

Two processes may do it at once: one fetches, the other waits for the lock and finds everything there. A jar appears
under its name only when it is whole and verified (written elsewhere on the same file system, then renamed), so an
interrupted fetch goes on where it stopped. The jars are verified again at every start: 43 MB, some 50 ms.
"""

import fcntl
import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream.broker.errors import BrokerError

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

MANIFEST = Path(__file__).with_name("jars.sha256")
DOWNLOADS_AT_ONCE = 6
DOWNLOAD_TIMEOUT_S = 30
ATTEMPTS = 3

# Called with (what is being done, steps done, steps in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Jar:
    """One line of the manifest."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name of the file in the cache; artifact names do not clash in this list (a test)."""
        return f"{self.artifact}-{self.version}.jar"


def manifest() -> list[Jar]:
    """The jars, in class path order."""
    jars = []
    for line in MANIFEST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            sha256, coordinate = line.split()
            group, artifact, version = coordinate.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return jars


def kafka_version() -> str:
    """The version of Apache Kafka that the manifest pins."""
    return next(jar.version for jar in manifest() if jar.artifact == "kafka_2.13")


def cache_folder() -> Path:
    """The user's cache for this very list of jars; another list gets another folder, so versions live side by side."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(MANIFEST.read_bytes()).hexdigest()[:12]
    return base / "offerstream" / f"kafka-{kafka_version()}-{key}"


def is_intact(path: Path, jar: Jar) -> bool:
    """Whether the file is there and is the one that was pinned."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def missing_jars(folder: Path) -> list[Jar]:
    """The jars that are not in the folder, or are damaged there."""
    return [jar for jar in manifest() if not is_intact(folder / "jars" / jar.file_name, jar)]


@contextmanager
def cache_lock(folder: Path) -> Iterator[None]:
    """Hold the cache for this process alone; waits for another one. The lock ends with the process, however it ends.

    Raises:
        BrokerError: the cache cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        message = f"the cache {folder} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        raise BrokerError(message) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_jars(folder: Path, progress: Progress) -> bool:
    """Fetch what is missing, and say whether anything was. The caller holds `cache_lock`.

    Raises:
        BrokerError: a jar could not be fetched, or is not the one that was pinned.
    """
    wanted = missing_jars(folder)
    if not wanted:
        return False
    # Imported here: who has the jars needs no downloader.
    import truststore  # noqa: PLC0415
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    target = folder / "jars"
    target.mkdir(exist_ok=True)
    # A mirror that the user configured for jgo ([repositories] in jgo.conf) is used; without one, Maven Central.
    mirrors = GlobalSettings.load().repositories or None
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as scratch:
        maven = MavenContext(repo_cache=Path(scratch), local_repos=[], remote_repos=mirrors, timeout=DOWNLOAD_TIMEOUT_S)
        pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
        # Besides the certificates that requests brings, the system's are good: a company's proxy has one of its own.
        truststore.inject_into_ssl()
        try:
            futures = [pool.submit(_fetch_one, maven, jar, target) for jar in wanted]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                progress(f"fetching Apache Kafka {kafka_version()}", done, len(wanted))
        finally:
            # After an error or Ctrl-C: what has not begun does not begin.
            pool.shutdown(wait=True, cancel_futures=True)
            truststore.extract_from_ssl()
    return True


def _fetch_one(maven: "MavenContext", jar: Jar, target: Path) -> None:
    artifact = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    path = _resolve(artifact)
    if not is_intact(path, jar):
        message = (
            f"{jar.file_name} is not the file that was pinned: its SHA-256 differs from stream/broker/jars.sha256. "
            "Something between here and the repository changes files; it was not used."
        )
        raise BrokerError(message)
    path.replace(target / jar.file_name)


def _resolve(artifact: "Artifact") -> Path:
    for attempt in itertools.count(1):
        try:
            return artifact.resolve()
        # What requests raises are OSErrors; jgo raises RuntimeError for what no repository has.
        except (OSError, RuntimeError) as error:
            artifact.cached_path.unlink(missing_ok=True)
            if attempt == ATTEMPTS:
                message = (
                    f"{artifact} could not be fetched: {error}\nThe first start needs the network (43 MB from Maven "
                    "Central, or a mirror named under [repositories] in jgo.conf). To use a Kafka that is there, "
                    "set KAFKA_BOOTSTRAP=host:port."
                )
                raise BrokerError(message) from error
    raise AssertionError
