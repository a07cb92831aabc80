"""The embedded broker is a Kafka: it keeps what it acknowledged through kill -9, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stream.broker import embedded, ports, status
from stream.broker.embedded import EmbeddedBroker, broker_from_environment
from stream.broker.errors import BrokerError

pytestmark = pytest.mark.needs_broker
GONE_WITHIN_S = 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    server = EmbeddedBroker(tmp_path / "data")
    try:
        yield server
    finally:
        server.kill()


def create_topic(bootstrap: str, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(20)


def send(bootstrap: str, topic: str, values: list[bytes], **config: object) -> None:
    undelivered: list[object] = []

    def note(error: object, _: object) -> None:
        if error is not None:
            undelivered.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "message.max.bytes": 16_000_000, **config})
    for value in values:
        producer.produce(topic, value, on_delivery=note)
    assert producer.flush(30) == 0
    assert not undelivered


def receive(bootstrap: str, topic: str, count: int, timeout_s: float = 30) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "fetch.max.bytes": 60_000_000})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            values.append(message.value())
    consumer.close()
    return values


def processes_of(data: Path) -> list[psutil.Process]:
    """Whatever runs with the data folder on its command line: the supervisor and the JVM."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if any(str(data) in part for part in process.info["cmdline"] or ()) and process.info["status"] != "zombie"
    ]


def assert_gone(data: Path) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := processes_of(data)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_it_takes_large_records_and_every_compression(broker: str, topic_prefix: str) -> None:
    if "KAFKA_BOOTSTRAP" in os.environ:
        pytest.skip("a cluster of someone else's may take smaller records only")
    topic = topic_prefix + "events"
    create_topic(broker, topic, **{"max.message.bytes": str(16 * 1024 * 1024)})
    poison = os.urandom(10_000_000)
    send(broker, topic, [poison])
    for codec in ("none", "gzip", "lz4", "snappy", "zstd"):
        send(broker, topic, [codec.encode() * 500], **{"compression.type": codec})
    values = receive(broker, topic, 6)
    assert values[0] == poison
    assert values[1:] == [codec * 500 for codec in (b"none", b"gzip", b"lz4", b"snappy", b"zstd")]


def test_topics_are_not_made_by_accident(broker: str, topic_prefix: str) -> None:
    with pytest.raises(AssertionError):
        send(broker, topic_prefix + "typo", [b"x"], **{"message.timeout.ms": 3000})
    assert topic_prefix + "typo" not in AdminClient({"bootstrap.servers": broker}).list_topics(timeout=10).topics


def test_a_transaction_is_seen_whole_or_not_at_all(broker: str, topic_prefix: str) -> None:
    topic = topic_prefix + "offers"
    create_topic(broker, topic)
    producer = Producer({"bootstrap.servers": broker, "transactional.id": topic_prefix + "t"})
    producer.init_transactions(30)
    for value, end in ((b"kept", producer.commit_transaction), (b"dropped", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(10)
        end(30)
    send(broker, topic, [b"last"])
    assert receive(broker, topic, 2) == [b"kept", b"last"]


def test_acknowledged_records_survive_kill_and_it_comes_back_on_its_port(server: EmbeddedBroker) -> None:
    server.start()
    address = server.bootstrap
    create_topic(address, "events")
    for round_number in range(2):
        send(address, "events", [b"%d-%d" % (round_number, number) for number in range(1000)])
        server.kill()
        assert_gone(server.data)
        server.start()
        assert server.bootstrap == address
    assert len(receive(address, "events", 2000)) == 2000
    server.restart()
    assert receive(address, "events", 2000)[-1] == b"1-999"


def test_clients_that_keep_dialling_do_not_take_the_port(server: EmbeddedBroker) -> None:
    """Within the kernel's own range a client dialling a dead port in time reaches itself (ports.py says how)."""
    server.start()
    quick = {"reconnect.backoff.ms": 1, "reconnect.backoff.max.ms": 10, "log_level": 0}
    client = AdminClient({"bootstrap.servers": server.bootstrap, **quick})
    server.kill()
    with pytest.raises(KafkaException):
        client.list_topics(timeout=3)
    server.start()
    assert client.list_topics(timeout=20).brokers


@pytest.mark.alone
def test_it_starts_within_five_seconds_when_cached(tmp_path: Path) -> None:
    seconds = []
    for attempt in range(3):
        server = EmbeddedBroker(tmp_path / str(attempt))
        begun = time.monotonic()
        server.start()
        seconds.append(time.monotonic() - begun)
        server.kill()
    # The best of three: other work on the machine is not what is tested.
    assert min(seconds) < 5, seconds


PARENT = """
import pathlib, sys, threading, time
from stream.broker.embedded import EmbeddedBroker
server = EmbeddedBroker(pathlib.Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.jvm_pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_dies_with_its_parent_but_not_with_the_thread_that_started_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "data")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    jvm = psutil.Process(int(parent.stdout.readline()))
    time.sleep(1)
    assert jvm.is_running()
    assert len(processes_of(tmp_path / "data")) >= 3  # the parent, the supervisor, the JVM
    parent.send_signal(number)
    parent.communicate(timeout=30)
    assert_gone(tmp_path / "data")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_the_jvm_dies_with_its_supervisor(server: EmbeddedBroker) -> None:
    server.start()
    supervisor = psutil.Process(server.jvm_pid).parent()
    assert supervisor is not None
    supervisor.kill()
    assert_gone(server.data)


@pytest.mark.parametrize("after_s", [0.1, 0.4, 0.8, 1.2, 1.6, 4])
def test_ctrl_c_at_any_moment_leaves_no_process(tmp_path: Path, after_s: float) -> None:
    command = [sys.executable, "-m", "stream", "broker", "start", "--foreground", "--port", "0"]
    # A process group of its own, and the signal to all of it: what a terminal does.
    process = subprocess.Popen(
        [*command, "--data-dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert_gone(tmp_path / "data")


def test_one_broker_a_folder(server: EmbeddedBroker) -> None:
    server.start()
    second = EmbeddedBroker(server.data)
    before = {path: path.read_bytes() for path in server.data.glob("*.*")}
    with pytest.raises(BrokerError, match=r"running in .* already"):
        second.start()
    assert {path: path.read_bytes() for path in server.data.glob("*.*")} == before
    assert status.state(server.data).bootstrap == server.bootstrap
    assert AdminClient({"bootstrap.servers": server.bootstrap}).list_topics(timeout=10).brokers


def test_two_brokers_side_by_side(server: EmbeddedBroker, tmp_path: Path) -> None:
    other = EmbeddedBroker(tmp_path / "other")
    failures: list[BaseException] = []

    def start(one: EmbeddedBroker) -> None:
        try:
            one.start()
        except BaseException as error:  # noqa: BLE001 (handed to the test below)
            failures.append(error)

    threads = [threading.Thread(target=start, args=(one,)) for one in (server, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert not failures
        create_topic(server.bootstrap, "mine")
        assert "mine" not in AdminClient({"bootstrap.servers": other.bootstrap}).list_topics(timeout=10).topics
    finally:
        other.kill()


def damage_nothing_but_be_a_file(data: Path) -> None:
    data.rename(data.with_name("aside"))
    data.write_text("not a folder")


def damage_meta(data: Path) -> None:
    (data / "kafka" / "meta.properties").write_bytes(b"\x00\xff garbage")


def remove_meta(data: Path) -> None:
    (data / "kafka" / "meta.properties").unlink()


def other_cluster(data: Path) -> None:
    path = data / "kafka" / "__cluster_metadata-0" / "quorum-state"
    path.write_text('{"clusterId":"x","leaderId":7,"leaderEpoch":-5,"votedId":-9,"data_version":99}')


DAMAGES = [damage_nothing_but_be_a_file, damage_meta, remove_meta, other_cluster]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_data_folder_gets_a_message_in_time(tmp_path: Path, damage: "object") -> None:
    data = tmp_path / "data"
    with EmbeddedBroker(data) as server:
        create_topic(server.bootstrap, "events")
    assert callable(damage)
    damage(data)
    begun = time.monotonic()
    command = [sys.executable, "-m", "stream", "broker", "start", "--port", "0", "--data-dir", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert time.monotonic() - begun < 15
    assert str(data) in done.stderr
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert_gone(data)


def test_the_environments_cluster_is_used_as_it_is(
    broker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", broker)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with broker_from_environment() as bootstrap:
        assert bootstrap == broker
        assert list(tmp_path.iterdir()) == []
    dead = f"127.0.0.1:{ports.free_ports(None).broker}"
    with pytest.raises(BrokerError, match="KAFKA_BOOTSTRAP"):
        embedded.check_reachable(dead, timeout_s=1)


def test_without_one_it_starts_its_own_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with broker_from_environment() as bootstrap:
        create_topic(bootstrap, "events")
        assert len(processes_of(tmp_path)) == 2
    assert_gone(tmp_path)
    assert list(tmp_path.iterdir()) == []
