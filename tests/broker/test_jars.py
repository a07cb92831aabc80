"""Fetching the jars: against a real HTTP server on the loopback interface that plays the repository."""

import gc
import hashlib
import http.server
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.broker import jars
from stream.broker.errors import BrokerError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
CONTENTS = {f"part{number}": f"the jar {number}".encode() * 1000 for number in range(8)}


class Repository:
    """Serves `CONTENTS` as Maven does, and counts what was asked for."""

    def __init__(self) -> None:
        self.files = {f"/org/example/{name}/1.0/{name}-1.0.jar": content for name, content in CONTENTS.items()}
        self.asked: Counter[str] = Counter()
        repository = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                repository.asked[self.path] += 1
                content = repository.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def downloads(self) -> dict[str, int]:
        return {path: count for path, count in self.asked.items() if path.endswith(".jar")}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    repository = Repository()
    lines = [f"{hashlib.sha256(content).hexdigest()}  org.example:{name}:1.0" for name, content in CONTENTS.items()]
    manifest = tmp_path / "jars.sha256"
    manifest.write_text("# a comment\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(jars, "MANIFEST", manifest)
    monkeypatch.setattr(jars, "kafka_version", lambda: "0")
    configuration = tmp_path / "jgo.conf"
    configuration.write_text(f"[repositories]\nnearby = {repository.address}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(configuration))
    # A proxy of the machine's is not asked for what is on the machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield repository
    repository.server.shutdown()
    repository.server.server_close()
    # jgo leaves connections of unfinished answers to the garbage collector, which warns: here, not in another test.
    gc.collect()


def fetch(folder: Path) -> list[tuple[str, int, int]]:
    seen: list[tuple[str, int, int]] = []
    with jars.cache_lock(folder):
        jars.fetch_jars(folder, lambda *report: seen.append(report))
    return seen


def test_all_jars_arrive_whole_and_are_reported(repository: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    seen = fetch(folder)
    assert [done for _, done, _ in seen] == list(range(1, 9))
    assert {total for _, _, total in seen} == {8}
    assert {path.stem.removesuffix("-1.0"): path.read_bytes() for path in (folder / "jars").iterdir()} == CONTENTS
    assert not jars.missing_jars(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["jars", "lock"]
    assert set(repository.downloads().values()) == {1}


def test_nothing_is_asked_for_when_all_is_there(repository: Repository, tmp_path: Path) -> None:
    fetch(tmp_path)
    repository.asked.clear()
    assert fetch(tmp_path) == []
    assert not repository.asked


@pytest.mark.parametrize("damage", [b"", b"the jar", CONTENTS["part3"] + b"!"])
def test_a_damaged_jar_is_fetched_again_and_only_it(repository: Repository, tmp_path: Path, damage: bytes) -> None:
    fetch(tmp_path)
    (tmp_path / "jars" / "part3-1.0.jar").write_bytes(damage)
    repository.asked.clear()
    fetch(tmp_path)
    assert list(repository.downloads()) == ["/org/example/part3/1.0/part3-1.0.jar"]
    assert not jars.missing_jars(tmp_path)


def test_a_jar_that_is_not_the_pinned_one_is_refused(repository: Repository, tmp_path: Path) -> None:
    repository.files["/org/example/part5/1.0/part5-1.0.jar"] = b"something else"
    with pytest.raises(BrokerError, match=r"part5-1\.0\.jar is not the file that was pinned"):
        fetch(tmp_path)
    assert not (tmp_path / "jars" / "part5-1.0.jar").exists()


def test_what_arrived_before_a_failure_is_kept(repository: Repository, tmp_path: Path) -> None:
    path = "/org/example/part7/1.0/part7-1.0.jar"
    content = repository.files.pop(path)
    with pytest.raises(BrokerError, match=r"part7.*could not be fetched(.|\n)*KAFKA_BOOTSTRAP"):
        fetch(tmp_path)
    assert [jar.artifact for jar in jars.missing_jars(tmp_path)] == ["part7"]
    repository.files[path] = content
    repository.asked.clear()
    fetch(tmp_path)
    assert list(repository.downloads()) == [path]


def test_processes_that_start_together_fetch_once(repository: Repository, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from stream.broker import jars; jars.MANIFEST = pathlib.Path(sys.argv[1])\n"
        "jars.kafka_version = lambda: '0'; folder = pathlib.Path(sys.argv[2])\n"
        "with jars.cache_lock(folder): jars.fetch_jars(folder, lambda *_: None)"
    )
    command = [sys.executable, "-c", program, str(jars.MANIFEST), str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert not jars.missing_jars(tmp_path)
    assert set(repository.downloads().values()) == {1}


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match="XDG_CACHE_HOME"), jars.cache_lock(tmp_path / "file" / "cache"):
        pass


def test_the_real_manifest_is_complete_and_unambiguous() -> None:
    listed = jars.manifest()
    names = [jar.file_name for jar in listed]
    assert len(set(names)) == len(names)
    assert all(len(jar.sha256) == 64 and int(jar.sha256, 16) >= 0 for jar in listed)
    # One version of Kafka throughout: a dependency's parent pom once replaced the clients by another.
    kafka = {jar.version for jar in listed if jar.group == "org.apache.kafka"}
    assert kafka == {jars.kafka_version()}
    assert jars.kafka_version().startswith("4.")
    assert {"kafka-clients", "log4j-slf4j-impl", "zstd-jni", "lz4-java", "snappy-java"} <= {
        one.artifact for one in listed
    }
