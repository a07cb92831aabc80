import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from stream.kafka.partitioner import partitions
from stream.settings import Settings
from stream.shop.replay import BROKEN_SHOWN_MAX, replay
from tests.shop.conftest import N_PARTITIONS, Record

Published = Callable[[str], list[Record]]
LOG = ["1,10,100,pv,1511658000", "2,11,100,cart,1511658010", "1,10,100,buy,1511658020", "3,12,101,fav,1511658040"]


def write(tmp_path: Path, lines: list[str], name: str = "log.csv") -> str:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def run(tmp_path: Path, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """The summary and what was shown."""
    result = CliRunner().invoke(replay, [*arguments, "--json", str(tmp_path / "summary.json")])
    assert result.exit_code == code, result.output
    summary: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text()) if code != 2 else {}
    return summary, result.output


def values(records: list[Record]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(r.value or b"") for r in records]


def test_events_go_to_their_topics_and_consents_come_first(
    tmp_path: Path, environment: Settings, published: Published
) -> None:
    summary, _ = run(tmp_path, write(tmp_path, LOG), "--format", "taobao")
    clicks, orders, customers = published("clickstream"), published("orders"), published("customers")
    assert {(r.key, v["event_id"]) for r, v in zip(clicks, values(clicks), strict=True)} == {
        (b"1", "taobao:1"),
        (b"2", "taobao:2"),
        (b"3", "taobao:4"),
    }
    assert [(r.key, v["event_id"]) for r, v in zip(orders, values(orders), strict=True)] == [(b"1", "taobao:3")]
    assert {v["user_id"]: (v["consent"], v["time_ms"]) for v in values(customers)} == {
        "1": (True, 1511658000000),
        "2": (True, 1511658010000),
        "3": (True, 1511658040000),
    }
    assert max(r.timestamp for r in customers) <= min(r.timestamp for r in clicks + orders)
    assert summary["events_published"] == 7
    assert summary["by_topic"] == {"clickstream": 3, "customers": 3, "orders": 1}
    for record in clicks + orders + customers:
        assert record.partition == partitions([record.key or b""], N_PARTITIONS)[0]
        assert abs(record.timestamp - time.time() * 1000) < 120_000  # of publication, not the recorded one
    del environment


def test_standard_input_and_no_consent(environment: Settings, published: Published, tmp_path: Path) -> None:
    del environment
    packed = gzip.compress("\n".join(LOG).encode())
    command = [sys.executable, "-m", "stream", "replay", "-", "--format", "taobao"]
    subprocess.run(command, input=packed, check=True, timeout=60)
    assert [len(published(s)) for s in ("clickstream", "orders", "customers")] == [3, 1, 3]
    run(tmp_path, write(tmp_path, LOG), "--format", "taobao", "--no-consent")
    assert [len(published(s)) for s in ("clickstream", "orders", "customers")] == [6, 2, 3]


def test_a_pipe_is_read_once(environment: Settings, published: Published, tmp_path: Path) -> None:
    del environment
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"cat {write(tmp_path, LOG)} > {pipe}"]) as writer:
        run(tmp_path, str(pipe), "--format", "taobao")
        assert writer.wait(30) == 0
    assert [len(published(s)) for s in ("clickstream", "orders", "customers")] == [3, 1, 3]


def test_broken_lines_are_counted_and_shown_and_do_not_stop_the_replay(
    tmp_path: Path, environment: Settings, published: Published
) -> None:
    del environment
    lines = [*LOG, *["1,2,3"] * 25, "1,2,3,pv,x", "1,2,3,pv,5", *LOG]
    path = tmp_path / "log.csv"
    path.write_bytes("\n".join(lines).encode() + b"\n\x00\xff\xfe\n")
    summary, shown = run(tmp_path, str(path), "--format", "taobao", "--no-consent")
    assert summary["broken"] == 27
    assert summary["broken_by_reason"] == {"cut": 25, "type": 1, "not_utf8": 1}
    assert summary["left_out"] == {"outside 2017-11-25 to 2017-12-03 (UTC+8)": 1}
    assert summary["events_published"] == 8 == len(published("clickstream")) + len(published("orders"))
    assert summary["lines"] == 36
    assert "line 5: cut" in shown
    assert f"line {4 + BROKEN_SHOWN_MAX}: cut" in shown
    assert f"line {5 + BROKEN_SHOWN_MAX}:" not in shown
    assert "7 more broken lines" in shown


def test_recorded_time_is_kept_or_made_the_present(tmp_path: Path, environment: Settings, published: Published) -> None:
    del environment
    path = write(tmp_path, LOG)
    started_s = time.time()
    run(tmp_path, path, "--format", "taobao", "--no-consent", "--times", "now", "--speed", "20")
    took_s = time.time() - started_s
    times = sorted(v["time_ms"] for v in values(published("clickstream") + published("orders")))
    assert np.diff(times).tolist() == [500, 500, 1000]  # 10 s, 10 s and 20 s at 20 times recorded time
    assert started_s * 1000 <= times[0]
    assert times[-1] <= time.time() * 1000
    assert 2.0 <= took_s < 30
    ages = [
        r.timestamp - v["time_ms"]
        for r, v in zip(published("clickstream"), values(published("clickstream")), strict=True)
    ]
    assert all(0 <= age < 1_000 for age in ages), ages  # published when due


def test_rate(tmp_path: Path, environment: Settings, published: Published) -> None:
    del environment
    path = write(tmp_path, [f"{i},10,100,pv,1511658000" for i in range(1, 101)])
    summary, _ = run(tmp_path, path, "--format", "taobao", "--no-consent", "--rate", "50")
    assert 99 / 50 <= summary["wall_s"] < 30
    stamps = [r.timestamp for r in published("clickstream")]
    assert max(stamps) - min(stamps) >= 1_900


def test_no_offers_waits_until_an_event_is_too_old_for_one(
    tmp_path: Path, environment: Settings, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    del environment
    monkeypatch.setenv("OFFERSTREAM_OFFER_MAX_AGE_MS", "1500")
    now_ms = int(time.time() * 1000)
    mapping = "name: own\ntime: {column: t, unit: ms}\nuser: u\nkind: product_view\n"
    (tmp_path / "own.yaml").write_text(mapping)
    path = write(tmp_path, ["t,u", f"{now_ms - 90_000},ann", f"{now_ms},ann", f"{now_ms + 3_600_000},ann"])
    summary, _ = run(tmp_path, path, "--format", str(tmp_path / "own.yaml"), "--no-offers")
    records = published("clickstream")
    assert len(records) == 2
    assert all(r.timestamp - v["time_ms"] > 1_500 for r, v in zip(records, values(records), strict=True))
    assert summary["left_out"] == {"later than now (--no-offers)": 1}
    assert len(published("customers")) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "parquet"], ["taobao", "rees46", "completejourney", "mapping"]),
        (["--format", "taobao", "--speed", "fast"], ["fast", "max"]),
        (["--format", "taobao", "--speed", "-1"], ["-1"]),
        (["--format", "taobao", "--speed", "1", "--rate", "5"], ["--speed", "--rate"]),
        (["--format", "taobao", "--rate", "0"], ["rate"]),
        (["--format", "taobao", "--no-offers", "--times", "now"], ["--no-offers", "--times"]),
        (["--format", "nowhere.yaml"], ["nowhere.yaml"]),
        ([], ["--format"]),
    ],
)
def test_wrong_use_ends_with_code_2(tmp_path: Path, arguments: list[str], says: list[str]) -> None:
    result = CliRunner().invoke(replay, [write(tmp_path, LOG), *arguments])
    assert result.exit_code == 2
    for word in says:
        assert word in result.output


@pytest.mark.slow  # waits for a broker that does not come
def test_a_file_that_is_not_there_and_a_broker_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(replay, [str(tmp_path / "no.csv"), "--format", "taobao"])
    assert (result.exit_code, "no such file" in result.output) == (2, True)
    started_s = time.monotonic()
    arguments = [write(tmp_path, LOG), "--format", "taobao", "--bootstrap", "127.0.0.1:1"]
    result = CliRunner().invoke(replay, arguments)
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.output
    assert time.monotonic() - started_s < 15


def test_a_file_of_another_format_says_so(tmp_path: Path, environment: Settings, published: Published) -> None:
    del environment
    path = write(tmp_path, ["event_time,event_type", "2019-10-01 00:00:00 UTC,view"])
    result = CliRunner().invoke(replay, [path, "--format", "rees46"])
    assert result.exit_code == 2
    assert "the header lacks" in result.output
    _, shown = run(tmp_path, path, "--format", "taobao", code=1)
    assert "is this a taobao file?" in shown
    assert published("clickstream") == []


def test_a_cut_gzip_file_publishes_what_can_be_read_and_says_so(
    tmp_path: Path, environment: Settings, published: Published
) -> None:
    del environment
    packed = gzip.compress("".join(f"{i},{i * 7},3,pv,1511658000\n" for i in range(20_000)).encode())
    (tmp_path / "log.gz").write_bytes(packed[: len(packed) // 2])
    summary, shown = run(tmp_path, str(tmp_path / "log.gz"), "--format", "taobao", "--no-consent", code=1)
    assert "cannot be unpacked after line" in shown
    assert 1_000 < summary["events_published"] == len(published("clickstream")) < 20_000


def test_ctrl_c_says_what_was_published(tmp_path: Path, environment: Settings, published: Published) -> None:
    del environment
    path = write(tmp_path, [f"{i},10,100,pv,1511658000" for i in range(1, 10_000)])
    summary_path = tmp_path / "summary.json"
    command = [sys.executable, "-m", "stream", "replay", path, "--format", "taobao", "--rate", "100", "--no-consent"]
    with subprocess.Popen([*command, "--json", str(summary_path)], env=os.environ, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while not published("clickstream"):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    summary = json.loads(summary_path.read_text())
    assert summary["interrupted"]
    assert 0 < summary["events_published"] == len(published("clickstream")) < 9_999
    assert b"Traceback" not in shown
