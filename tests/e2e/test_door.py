"""A worker that cannot work says what to do, at once, and ends with a code that tells why."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from stream.kafka.admin import create_topics
from tests.conftest import ROOT
from tests.e2e import expect
from tests.e2e.harness import Site, Worker
from tests.e2e.logs import trigger
from tests.faults.crashing_worker import CrashingWorker, Orders

DOOR_S = 15.0


def refused(site: Site, code: int, *says: str, **settings: Any) -> None:
    """Start a worker that must refuse: in time, with this code, saying all of this, with no traceback."""
    began_s = time.monotonic()
    with Worker(("-m", "stream", "worker"), site.environment(**settings), site.folder) as worker:
        assert worker.wait(4 * DOOR_S) == code, worker.log()
    took_s = time.monotonic() - began_s
    for text in says:
        assert text in worker.log()
    assert "Traceback" not in worker.log()
    assert took_s < DOOR_S


def admin(site: Site) -> AdminClient:
    """To be kept until its futures are done."""
    return AdminClient({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})


def delete_topics(site: Site, *names: str) -> None:
    client = admin(site)
    for future in client.delete_topics(list(names), operation_timeout=30).values():
        future.result()


def test_bad_settings_are_all_named_at_once(tmp_path: Path) -> None:
    bad = {
        "BATCH_ROWS": "many",
        "DECISION_SAMPLE": "1.5",
        "GUARANTEE": "exactly_twice",
        "CURENCY": "EUR",
        "TIMEZONE": "Mars/Olympus",
        "ADMIN_PORT": "70000",
    }
    env = {f"OFFERSTREAM_{name}": value for name, value in bad.items()} | {"KAFKA_BOOTSTRAP": "nowhere"}
    with Worker(("-m", "stream", "worker"), env, tmp_path) as worker:
        assert worker.wait(DOOR_S) == 2
    for name, value in bad.items():
        assert f"OFFERSTREAM_{name}" in worker.log()
        assert name == "CURENCY" or value in worker.log()
    assert "did you mean OFFERSTREAM_CURRENCY?" in worker.log()
    assert "KAFKA_BOOTSTRAP='nowhere'" in worker.log()
    assert "Traceback" not in worker.log()


@contextmanager
def listening() -> Iterator[int]:
    """A port where somebody listens and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def test_a_busy_admin_port(site: Site) -> None:
    with listening() as port:
        refused(site, 1, f"127.0.0.1:{port}", "OFFERSTREAM_ADMIN_PORT", admin_port=port)


def test_no_broker(site: Site) -> None:
    address = f"127.0.0.1:{free_port()}"
    refused(site, 1, address, "Is it running there?", bootstrap=address)


def test_a_port_where_no_broker_answers(site: Site) -> None:
    with listening() as port:
        refused(site, 1, f"127.0.0.1:{port}", "Is it running there?", bootstrap=f"127.0.0.1:{port}")


def test_missing_topics_are_all_named(site: Site) -> None:
    missing = [site.settings.topic(name) for name in ("orders", "offers", "models")] + [site.settings.changelog]
    delete_topics(site, *missing)
    refused(site, 1, "python -m stream topics create", *missing)


def test_topics_with_other_partition_counts_are_all_named(site: Site) -> None:
    grown = [site.settings.topic(name) for name in ("feedback", "decisions", "campaigns")]
    client = admin(site)
    for future in client.create_partitions([NewPartitions(name, 3) for name in grown]).values():
        future.result()
    refused(site, 1, "3 partitions in", "must be 1", "OFFERSTREAM_PARTITIONS=3", *grown)


def test_partitions_setting_that_is_not_the_topics(site: Site) -> None:
    refused(site, 1, "2 partitions in", "OFFERSTREAM_PARTITIONS=2", partitions=4)


def test_a_data_folder_that_is_none(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(site, 1, str(tmp_path / "file"), "OFFERSTREAM_DATA_DIR", data_dir=tmp_path / "file" / "data")


def test_too_many_partitions_for_one_worker(broker: str, topic_prefix: str, tmp_path: Path) -> None:
    site = Site(broker, topic_prefix, tmp_path, partitions=17)
    refused(site, 1, "17 partitions", "at most 16", "start more workers")


def _applied_before(site: Site) -> None:
    now_ms = time.time_ns() // 1_000_000
    site.publish([trigger(f"u{i}", f"e{i}", now_ms) for i in range(40)])
    with site.worker() as worker:
        site.wait_applied([worker])


def test_a_source_that_was_made_anew(site: Site) -> None:
    """Its offsets mean other events: going on would fence new events as applied, or lose some."""
    _applied_before(site)
    delete_topics(site, site.settings.topic("clickstream"))
    create_topics(site.settings)
    refused(site, 1, f"{site.settings.topic('clickstream')}[", "deleted and made anew")


def test_events_that_retention_took_before_they_were_applied(site: Site) -> None:
    _applied_before(site)
    applied_ends = site.ends(site.settings.topic("clickstream"))
    now_ms = time.time_ns() // 1_000_000
    lost = site.publish([trigger(f"u{i}", f"lost{i}", now_ms) for i in range(40)])
    kept = site.publish([trigger(f"u{i}", f"kept{i}", now_ms) for i in range(40)])
    first = {p: min(offset for _, q, offset in kept if q == p) for p in applied_ends}
    delete = [TopicPartition(site.settings.topic("clickstream"), p, offset) for p, offset in first.items()]
    client = admin(site)
    for future in client.delete_records(delete).values():
        future.result()
    refused(site, 1, "deleted by retention before they were applied", "OFFERSTREAM_LOST_EVENTS=count")
    with site.worker(lost_events="count") as worker:
        site.wait_applied([worker])
        assert worker.metrics()["offerstream_events_lost_total"] == len(lost) == 40
    gone = set(lost)
    expect.check_all(site, [], [s for s in site.sent if s[1] not in gone])


@pytest.mark.parametrize("place", ["absorb", "decide"])
def test_a_bug_ends_the_process_without_committing(site: Site, place: str) -> None:
    """Faust would ack the batch and go on. Here the process ends with code 70, and the next one does it all."""
    _applied_before(site)
    before = site.applied()
    now_ms = time.time_ns() // 1_000_000
    site.publish([trigger(f"u{i}", f"later{i}", now_ms) for i in range(40)])
    with CrashingWorker(site, Orders(mutation=f"raise_in_{place}"), instance_id="one") as worker:
        assert worker.wait(30) == 70
        assert "ZeroDivisionError" in worker.log()
        assert "ending without committing" in worker.log()
    assert site.applied() == before
    with site.worker(instance_id="one") as worker:
        site.wait_applied([worker])
    expect.check_all(site, [])


def test_a_worker_tells_where_its_threads_stand_and_goes_on(site: Site) -> None:
    with site.worker() as worker:
        worker.wait_serving()
        worker.signal(signal.SIGUSR1)
        worker.wait_log("most recent call first")
        assert "control.py" in worker.log()  # the thread that follows models and campaigns
        worker.wait_log("in TakeOver._take_over")  # a task, which waits for the next assignment
        worker.wait_log("in Fetcher")  # the consumer's own, in its own loop
        now_ms = time.time_ns() // 1_000_000
        site.publish([trigger("u", "e", now_ms)])
        site.wait_applied([worker])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(site: Site, number: signal.Signals) -> None:
    now_ms = time.time_ns() // 1_000_000
    site.publish([trigger(f"u{i % 50}", f"e{i}", now_ms + i) for i in range(3_000)])
    with site.worker() as worker:
        worker.wait_serving()
        worker.signal(number)
        assert worker.wait(30) == 0, worker.log()
        assert worker.log().rstrip().endswith("stopped")
    with site.worker() as again:
        again.wait_log("0 changelog records restored", times=2)
        site.wait_applied([again])
    expect.check_all(site, [])


def test_brokers_that_go_away_while_it_starts() -> None:
    """Between its first look and the connections of Faust's clients, a tenth of a second: no bug of ours."""
    error = "aiokafka.errors.KafkaConnectionError('Unable to bootstrap from it')"
    code = f"import aiokafka.errors, logging, stream.app; logging.basicConfig(); stream.app.App.fatal({error})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "no answer from Kafka: KafkaConnectionError: Unable to bootstrap from it" in ended.stderr
    assert "Traceback" not in ended.stderr
