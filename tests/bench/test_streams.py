"""Kafka Streams as a peer: built where a JDK is there, doing the job that is stated; and what restores are read off."""

import json
import sys
import time
import zlib
from pathlib import Path
from subprocess import run
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from stream.broker.jars import kafka_version
from stream.core.row import new_rows, pack, unpack
from tests.bench import faust_peer, restore
from tests.bench.kafka import Kafka
from tests.bench.load import TRIGGER, clicks, publish, user_id, users_at_random
from tests.bench.measure import OutputError, check_streams
from tests.bench.peer_model import FEATURES, WINDOW, window_model
from tests.bench.program import ROOT, ProgramError
from tests.bench.streams.build import HERE, NoPeerError, java_command
from tests.bench.system import KafkaStreams

SEED = 3
END_MS = 1_750_000_000_000
TIMEOUT_S = 900


@pytest.fixture(scope="session")
def java() -> list[str]:
    try:
        return java_command()
    except NoPeerError as error:
        pytest.skip(str(error))


def test_the_peer_is_of_the_brokers_version_and_its_pom_names_no_address() -> None:
    pom = (HERE / "pom.xml").read_text()
    assert f"<kafka.version>{kafka_version()}</kafka.version>" in pom
    assert "epositor" not in pom
    assert pom.count("://") == 1  # the name of the format


def test_without_a_jdk_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPeerError, match="java, javac, mvn not found: Kafka Streams is not measured"):
        java_command(tmp_path)


def test_a_build_that_fails_says_why_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("java", "javac", "mvn"):
        (tmp_path / name).write_text("#!/bin/sh\necho '[ERROR] no such host'; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for _ in range(2):
        with pytest.raises(NoPeerError, match="no such host"):
            java_command(tmp_path / "built")


def test_a_restore_is_read_off_the_log_from_the_first_begin_to_the_last_end() -> None:
    said = "partition {}: {} changelog records restored in {} s, from offset 0 on"
    lines = [
        f"2026-01-01T00:00:{ends}Z INFO stream.kafka.partition: {said.format(p, n, took)}"
        for p, n, took, ends in ((0, 100, "1.50", "02.000"), (1, 50, "0.25", "02.250"))
    ]
    log = "\n".join(["2026-01-01T00:00:00.100Z INFO stream.app: starting", *lines])
    found = restore.restored(log)
    assert found.records == 150
    assert found.wall_s == pytest.approx(1.75)
    with pytest.raises(ProgramError, match="starting"):
        restore.restored(log.splitlines()[0])


def test_rows_for_other_topics_are_the_same_but_for_what_was_applied() -> None:
    rows = new_rows(3)
    rows["fence"] = [[7], [0], [9]]
    rows["spend_minor"] = [100, 200, 0]
    packed = restore.without_fences(pack(rows))
    rows["fence"] = 0
    assert unpack(packed).tobytes() == rows.tobytes()


def expected(kafka: Kafka, source: str, rows: dict[bytes, bytes]) -> dict[tuple[int, int], tuple[str, float]]:
    """Step and score of every trigger, by its place: the Python peer's functions, event by event."""
    session = onnxruntime.InferenceSession(window_model(SEED), providers=["CPUExecutionProvider"])
    found = {}
    for message in kafka.read(source, dict.fromkeys(range(kafka.partitions), 0)):
        event = msgspec.json.decode(message.value() or b"", type=faust_peer.Click)
        key = message.key() or b""
        window, counters = faust_peer.step_and_row(event, rows[key])
        x = np.frombuffer(window, "<f4").reshape(1, WINDOW, FEATURES)
        if event.kind == TRIGGER:
            place = int(message.partition() or 0), int(message.offset() or 0)
            found[place] = (window[-faust_peer.STEP.size :].hex(), float(session.run(None, {"x": x})[0][0, 0]))
            if zlib.crc32(key) % 100 >= faust_peer.HOLDOUT_PERCENT:
                counters[6] += 1
                counters[7] = event.time_ms
        rows[key] = window + faust_peer.COUNTERS.pack(*counters)
    return found


@pytest.mark.long
def test_kafka_streams_does_the_job_exactly_once_over_a_restart(
    broker: str, topic_prefix: str, tmp_path: Path, java: list[str]
) -> None:
    with Kafka(broker, 2, None) as kafka:
        does_the_job(kafka, topic_prefix, tmp_path, java)


def does_the_job(kafka: Kafka, topic_prefix: str, tmp_path: Path, java: list[str]) -> None:
    source, title = f"{topic_prefix}clickstream", f"{topic_prefix}peer"
    kafka.create(source)
    users, events = 200, 3_000
    peer = KafkaStreams(kafka, tmp_path, title, topic_prefix, SEED, java)
    peer.give_rows(users, SEED)
    rng = np.random.default_rng(SEED)
    drawn = users_at_random(rng, users, 2 * events)
    log = list(clicks(rng, drawn, END_MS, "log"))
    for piece in (log[:events], log[events:]):
        publish(kafka.bootstrap, piece, topic_prefix)
        with peer.start() as program:
            end = kafka.ends(source)
            while kafka.committed_offsets(peer.group, source) != end:
                program.check()
                time.sleep(0.05)
    first = {0: 0, 1: 0}
    check_streams(kafka, peer, first)
    decisions: list[dict[str, Any]] = list(kafka.read_json(peer.decisions, first))
    rows = dict(faust_peer.first_rows(users, SEED))
    oracle = expected(kafka, source, rows)
    assert len(decisions) == len(oracle) > 200
    for decision in decisions:
        step, score = oracle[decision["trigger"]["partition"], decision["trigger"]["offset"]]
        assert np.frombuffer(bytes.fromhex(str(decision["step"])), "<f4") == pytest.approx(
            np.frombuffer(bytes.fromhex(step), "<f4"), rel=1e-6
        )
        assert decision["score"] == pytest.approx(score, abs=1e-5)
    # The newest record of each user in its changelog is the row after all of its events.
    kept = {m.key(): m.value() for m in kafka.read(peer.changelog, first)}
    assert {user_id(int(n)).encode() for n in drawn} <= kept.keys()
    assert {key: np.frombuffer(row[-128:], "<i8").tolist() for key, row in kept.items()} == {
        key: np.frombuffer(row[-128:], "<i8").tolist() for key, row in rows.items()
    }
    # Of fewer events than it says it has done, it has written too much.
    kafka.commit(peer.group, source, dict.fromkeys(first, 5))
    with pytest.raises(OutputError, match="triggers were committed"):
        check_streams(kafka, peer, first)


@pytest.mark.long
@pytest.mark.timeout(2 * TIMEOUT_S)
def test_the_quick_run_measures_both_systems(tmp_path: Path, java: list[str]) -> None:
    assert java
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--jobs", "streams", "--out", str(out)]
    began_s = time.monotonic()
    done = run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{time.monotonic() - began_s:.0f} s: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    rows = json.loads(out.read_text())["rows"]
    ours, theirs = ([row for row in rows if row["system"] == name] for name in ("offerstream", "kafka-streams"))
    by_job = {row["job"]: row for row in ours}
    assert all(row["guarantee"] == "exactly_once" for row in rows)
    both = [row for row in theirs if row["job"] in by_job]
    for row in both:
        assert row.keys() - {"settings"} == by_job[row["job"]].keys()
        assert row.get("bytes") == by_job[row["job"]].get("bytes")
        assert row.get("settings", {}).get("commit.interval.ms", 100) == 100
    assert sum("us_per_event" in row for row in both) == 1
    assert sum("restore_s" in row for row in both) == 1
    assert sum("latency_ms" in row for row in both) == 1
    assert [row["settings"]["commit.interval.ms"] for row in theirs if "latency_ms" in row] == [100, 10]
    assert next(row["tail_rows"] for row in theirs if "tail_rows" in row) == 0
    tails = [row["tail_rows"] for row in ours if "tail_rows" in row]
    assert tails[0] == 0
    assert 0 < tails[1] <= 5_000
    assert ["over all 32 steps" in row["network"] for row in ours if "us_per_event" in row] == [False, True]
