"""The harness on a real broker: what it reads is what was written, and outputs that are not right are refused."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from tests.bench import faust_peer, report
from tests.bench.kafka import Kafka
from tests.bench.load import Record, publish
from tests.bench.measure import Marks, OutputError, check_outputs
from tests.bench.peer_model import FEATURES, UNITS, WINDOW, window_model
from tests.bench.program import MODULE, Program, ProgramError


class Outputs(NamedTuple):
    """What `check_outputs` needs of a system."""

    name: str
    offers: str
    decisions: str
    changelog: str

    @property
    def written_topics(self) -> tuple[str, ...]:
        return (self.offers, self.decisions, self.changelog)


@pytest.fixture
def kafka(broker: str) -> Iterator[Kafka]:
    with Kafka(broker, 2, None) as kafka:
        yield kafka


@pytest.fixture
def outputs(kafka: Kafka, topic_prefix: str) -> Outputs:
    made = Outputs("made-up", *(f"{topic_prefix}{name}" for name in ("offers", "decisions", "changelog")))
    kafka.create(*made.written_topics)
    return made


def decision(n: int, arm: str) -> dict[str, Any]:
    return {"decision_id": f"d{n}", "arm": arm, "eligible": ["ten"], "holdout": arm == "none"}


def records(outputs: Outputs, decisions: list[dict[str, Any]], offers: list[str], rows: int) -> Iterator[Record]:
    for value in decisions:
        yield Record(outputs.decisions, b"u", json.dumps(value).encode())
    for offer in offers:
        yield Record(outputs.offers, b"u", json.dumps({"offer_id": offer}).encode())
    for row in range(rows):
        yield Record(outputs.changelog, f"u{row}".encode(), b"row")


GOOD = [decision(1, "ten"), decision(2, "ten"), decision(3, "none")]
SAMPLED = {"decision_id": "s", "arm": "none", "eligible": [], "holdout": False}


@pytest.mark.parametrize(
    ("decisions", "offers", "rows", "complaint"),
    [
        ([*GOOD, SAMPLED], ["d1", "d2"], 5, ""),
        (GOOD[1:], ["d2"], 5, "2 decisions on 3 triggers"),
        ([*GOOD, GOOD[0]], ["d1", "d2"], 5, "4 decisions on 3 triggers"),
        (GOOD, ["d1"], 5, "1 offers, 2 decisions"),
        (GOOD, ["d1", "d2", "d2"], 5, "3 offers, 2 decisions"),
        (GOOD, ["d1", "d9"], 5, "2 offers, 2 decisions"),
        (GOOD, ["d1", "d2"], 3, "3 rows"),
        (GOOD, ["d1", "d2"], 9, "9 rows"),
    ],
)
def test_outputs_that_are_not_right_are_refused(
    kafka: Kafka, outputs: Outputs, decisions: list[dict[str, Any]], offers: list[str], rows: int, complaint: str
) -> None:
    publish(kafka.bootstrap, records(outputs, [decision(0, "ten")], ["d0"], 1))  # of the job before
    marks = Marks.take(kafka, outputs)  # type: ignore[arg-type]
    publish(kafka.bootstrap, records(outputs, decisions, offers, rows))

    def check() -> dict[str, int]:
        return check_outputs(kafka, outputs, marks, triggers=3, users=4, rows=8)  # type: ignore[arg-type]

    if not complaint:
        assert check() == {"decisions": 4, "offers": 2, "rows": 5}
        return
    with pytest.raises(OutputError, match=complaint):
        check()


def test_offsets_of_a_group_can_be_set_and_read(kafka: Kafka, outputs: Outputs) -> None:
    publish(kafka.bootstrap, [Record(outputs.offers, f"u{n}".encode(), b"1") for n in range(20)])
    assert kafka.end(outputs.offers) == 20
    group = outputs.offers
    assert kafka.committed(group, outputs.offers) == 0
    kafka.commit(group, outputs.offers, kafka.ends(outputs.offers))
    assert kafka.committed(group, outputs.offers) == 20
    assert not kafka.is_stable(group)


def test_a_program_that_ends_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Program([*MODULE, "no_such_module"], {}, log) as program:
        while not log.read_text():
            time.sleep(0.05)
        time.sleep(0.5)  # it has said what is wrong and ends
        with pytest.raises(ProgramError, match="No module named no_such_module"):
            program.check()


def test_a_program_is_stopped_and_its_resources_are_known(tmp_path: Path) -> None:
    command = [*MODULE, "timeit", "-n", "1", "-r", "1", "import time; x = bytearray(64 << 20); time.sleep(60)"]
    with Program(command, {}, tmp_path / "log") as program:
        deadline_s = time.monotonic() + 20
        while program.rss_max_bytes < 64 << 20 and time.monotonic() < deadline_s:
            program.check()
            time.sleep(0.05)
        pid = program._process.pid
        program.stop(signal.SIGINT)
    assert program.rss_max_bytes >= 64 << 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_second_ctrl_c_leaves_no_program_behind(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    program = Program([sys.executable, "-c", code], {}, log)
    while "up" not in log.read_text():
        program.check()
        time.sleep(0.05)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            program.stop()
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(program._process.pid, 0)


@pytest.mark.alone
def test_the_load_beside_is_published_at_its_rate_with_times_of_now(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    topic = f"{topic_prefix}clickstream"
    kafka.create(topic)
    given = {"BOOTSTRAP": kafka.bootstrap, "PREFIX": topic_prefix, "USERS": "50", "RATE_PER_S": "2000", "SEED": "1"}
    began_ms = time.time_ns() // 1_000_000
    with Program([*MODULE, "tests.bench.beside"], {f"PEER_{k}": v for k, v in given.items()}, tmp_path / "log") as load:
        while kafka.end(topic) == 0:
            load.check()
            time.sleep(0.02)
        at, from_s = kafka.end(topic), time.monotonic()
        time.sleep(2)
        rate = (kafka.end(topic) - at) / (time.monotonic() - from_s)
        load.check()
    assert rate == pytest.approx(2000, rel=0.2)
    events = list(kafka.read_json(topic, {0: 0, 1: 0}))
    assert len({str(event["event_id"]) for event in events}) == len(events)
    times = [int(str(event["time_ms"])) for event in events]
    assert began_ms - 100 <= min(times)
    assert max(times) <= time.time_ns() // 1_000_000


def lstm_by_hand(x: np.ndarray[Any, Any], weights: dict[str, np.ndarray[Any, Any]]) -> float:
    """The peer's model, gate by gate (ONNX' order: input, output, forget, cell)."""

    def sigmoid(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return 1 / (1 + np.exp(-a))

    h = c = np.zeros(UNITS)
    bias = weights["B"][0][: 4 * UNITS] + weights["B"][0][4 * UNITS :]
    for step in x:
        i, o, f, g = np.split(weights["W"][0] @ step + weights["R"][0] @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return float(sigmoid(h @ weights["dense"])[0])


def test_the_peers_model_is_an_lstm_over_its_window() -> None:
    import onnx

    data = window_model(4)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load_from_string(data).graph.initializer}
    x = np.random.default_rng(4).standard_normal((WINDOW, FEATURES)).astype("f4")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (score,) = session.run(None, {"x": x[None]})
    assert score.shape == (1, 1)
    assert float(score[0, 0]) == pytest.approx(lstm_by_hand(x, weights), abs=1e-5)


def test_the_peers_row_keeps_the_window_and_counts() -> None:
    row, counters = faust_peer.NEW_ROW, list[int]()
    for n in range(40):
        event = faust_peer.Click(
            f"e{n}", "u", 1000 * (n + 1), "cart_add" if n % 4 == 0 else "page_view", session_id="s"
        )
        window, counters = faust_peer.step_and_row(event, row)
        row = window + faust_peer.COUNTERS.pack(*counters)
    assert len(row) == faust_peer.ROW_BYTES
    steps = np.frombuffer(row, "<f4", WINDOW * FEATURES).reshape(WINDOW, FEATURES)
    codes = [faust_peer.KIND_CODES["cart_add" if n % 4 == 0 else "page_view"] for n in range(10, 40)]
    assert steps[:, 0].tolist() == codes
    assert steps[:, 1] == pytest.approx([np.log1p(1.0)] * WINDOW)
    assert counters[2] == 40
    assert counters[faust_peer.N_FIXED + faust_peer.KIND_CODES["cart_add"]] == 10


def test_the_table_shows_ratio_stages_and_latency() -> None:
    import io

    from rich.console import Console

    def row(system: str, job: str, rate: int) -> dict[str, Any]:
        return {
            "system": system, "job": job, "guarantee": "at_least_once", "users": 5, "events": 10, "events_per_s": rate,
            "us_per_event": {"decode": 1.5}, "row_bytes": 900, "written_bytes_per_event": None, "rss_mb": 300,
        }  # fmt: skip

    latency = {
        "system": "faust", "job": "latency", "guarantee": "at_least_once", "events": 3,
        "latency_ms": {"p50": 4.5, "p99": 13.25},
    }  # fmt: skip
    rows = [
        row("offerstream", "5 users", 42_000),
        row("offerstream", "5 users, hot part 2", 21_000),
        row("faust", "5 users", 2_000),
        latency,
    ]
    result = {"machine": "m", "commit": "c", "seed": 1, "rows": rows}
    text = io.StringIO()
    report.show(result, Console(file=text, width=160))
    shown = text.getvalue()
    for figure in ("42,000", "21.0", "10.5", "1.50", "p99 13.25 ms"):
        assert figure in shown, figure
