"""Refused events go back once: called twice, by two at once, after a crash, behind a transaction that is still open."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from stream.errors import SetupError
from stream.kafka import redrive as module
from stream.kafka.codec import DeadLetter, DeadReason, dead_letter_record
from stream.kafka.dead_letters import REDRIVEN, Filter, dead_letters
from stream.kafka.partitioner import partitions
from stream.kafka.redrive import redrive, transactional_id
from stream.settings import Settings
from tests.e2e.harness import Read, Site

NOW_MS = 1_763_700_000_000
EVERY = Filter()


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path)


def view(i: int, time_ms: int = NOW_MS) -> bytes:
    return json.dumps({"event_id": f"e{i}", "user_id": f"u{i}", "time_ms": time_ms, "kind": "page_view"}).encode()


def letter(
    site: Site, i: int, reason: DeadReason = DeadReason.WRONG_PARTITION, value: bytes | None = None
) -> DeadLetter:
    topic = site.settings.topic("clickstream")
    return DeadLetter(topic, i % 2, i, NOW_MS + i, b"u%d" % i, value or view(i), reason, "", "")


def refuse(site: Site, letters: list[DeadLetter], producer: Producer | None = None) -> None:
    """Put letters where a worker puts them: in the partition that the record was read from."""
    own = producer or Producer({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    for one in letters:
        key, value, headers = dead_letter_record(one)
        own.produce(site.settings.topic("dead-letters"), value, key, one.partition, headers=list(headers))
    assert own.flush(30) == 0


def arrived(site: Site) -> list[Read]:
    return site.out("clickstream")


def test_every_event_goes_to_its_partition_with_its_origin_once(site: Site) -> None:
    refuse(site, [letter(site, i) for i in range(20)])
    before_ms = time.time_ns() // 1_000_000
    done = redrive(site.settings, EVERY)
    assert (done.sent, done.left, done.before) == (Counter({"wrong_partition": 20}), Counter(), 0)
    records = arrived(site)
    assert sorted(r.value or b"" for r in records) == sorted(view(i) for i in range(20))
    for record in records:
        i = int((record.key or b"")[1:])
        assert record.partition == partitions([record.key or b""], 2)[0]
        assert record.timestamp_ms >= before_ms
        assert {name: text.decode() for name, text in record.headers.items()} == {
            "origin-topic": site.settings.topic("clickstream"),
            "origin-partition": str(i % 2),
            "origin-offset": str(i),
            "origin-timestamp": str(NOW_MS + i),
            "dead-letter": f"{i % 2}:{i // 2}",
        }
    again = redrive(site.settings, EVERY)
    assert (again.sent, again.left, again.before) == (Counter(), Counter(), 20)
    assert len(arrived(site)) == 20


def test_two_letters_about_one_record_are_one_event(site: Site) -> None:
    """At least once, a worker that was killed may have written a letter twice; also after the first was re-driven."""
    refuse(site, [letter(site, 1), letter(site, 1), letter(site, 2)])
    assert redrive(site.settings, EVERY).sent.total() == 2
    refuse(site, [letter(site, 1)])
    done = redrive(site.settings, EVERY)
    assert (done.sent.total(), done.before) == (0, 2)
    # The same place in a topic that was made anew is another record.
    refuse(site, [msgspec.structs.replace(letter(site, 1), timestamp=NOW_MS + 77)])
    assert redrive(site.settings, EVERY).sent.total() == 1


def test_what_workers_would_refuse_again_stays(site: Site) -> None:
    foreign = letter(site, 1)
    refuse(
        site,
        [
            letter(site, 0, DeadReason.NOT_JSON, b"{"),
            letter(site, 1, DeadReason.TIME_RANGE, view(1, time_ms=1)),
            letter(site, 2, DeadReason.VALUE_TOO_LARGE, b" " * (600 << 10)),
            DeadLetter("elsewhere", 0, 3, NOW_MS, foreign.key, foreign.value, DeadReason.CURRENCY, "", ""),
            letter(site, 4),
        ],
    )
    own = Producer({"bootstrap.servers": site.settings.bootstrap})
    own.produce(
        site.settings.topic("dead-letters"), b"junk", b"u1", 0, headers={"topic": site.settings.topic("orders")}
    )
    assert own.flush(30) == 0
    left = Counter({"foreign": 2, "not_json": 1, "cut": 1, "time_range": 1})
    for _ in range(2):
        done = redrive(site.settings, EVERY, dry_run=True)
        assert (done.sent.total(), done.left) == (1, left)
    assert arrived(site) == []
    for sent in (1, 0):
        done = redrive(site.settings, EVERY)
        assert (done.sent.total(), done.left, done.before) == (sent, left, 1 - sent)
    assert [r.key for r in arrived(site)] == [b"u4"]


def test_a_user_whose_erasure_was_refused_is_forgotten_after_all(site: Site) -> None:
    """The most common cause, a producer that partitions in its own way, is the sender's, not the user's."""
    asked = json.dumps({"event_id": "x1", "user_id": "u1", "time_ms": NOW_MS}).encode()
    topic = site.settings.topic("erasures")
    wrong = 1 - int(partitions([b"u1"], 2)[0])
    refuse(site, [DeadLetter(topic, wrong, 0, NOW_MS, b"u1", asked, DeadReason.WRONG_PARTITION, "", "")])
    done = redrive(site.settings, EVERY)
    assert (done.sent, done.left) == (Counter({"wrong_partition": 1}), Counter())
    (record,) = site.out("erasures")
    assert (record.partition, record.key, record.value) == (1 - wrong, b"u1", asked)


def test_filters(site: Site) -> None:
    refuse(site, [letter(site, i, DeadReason.CURRENCY if i < 3 else DeadReason.TIME_RANGE) for i in range(10)])
    assert redrive(site.settings, Filter(reason="currency", partition=1)).sent == Counter(currency=1)
    assert redrive(site.settings, Filter(since_ms=NOW_MS + 3, until_ms=NOW_MS + 5)).sent == Counter(time_range=2)
    assert redrive(site.settings, Filter(at="1:4")).sent == Counter(time_range=1)
    assert redrive(site.settings, Filter(topic=site.settings.topic("orders"))).sent == Counter()
    assert sorted((r.key or b"") for r in arrived(site)) == [b"u1", b"u3", b"u4", b"u9"]
    assert redrive(site.settings, EVERY).sent == Counter(currency=2, time_range=4)


def half_done(site: Site, events: list[DeadLetter], *, marker: bool) -> Producer:
    """A re-drive that was killed before its commit: the event is in the log, maybe its marker too."""
    dead = Producer(
        {
            "bootstrap.servers": site.settings.bootstrap,
            "transactional.id": transactional_id(site.settings),
            "transaction.timeout.ms": 60_000,
            "log_level": 0,
        }
    )
    dead.init_transactions(30)
    dead.begin_transaction()
    for one in events:
        dead.produce(one.topic, one.value, one.key, int(partitions([one.key or b""], 2)[0]))
        if marker:
            _, _, headers = dead_letter_record(one)
            headers = [(name, b"redriven" if name == "reason" else text) for name, text in headers]
            dead.produce(site.settings.topic("dead-letters"), None, None, one.partition, headers=headers)
    assert dead.flush(30) == 0
    return dead


@pytest.mark.parametrize("marker", [False, True])
def test_after_a_kill_before_the_commit_every_event_is_there_once(site: Site, marker: bool) -> None:
    letters = [letter(site, i) for i in range(6)]
    refuse(site, letters)
    dead = half_done(site, letters[:4], marker=marker)
    assert redrive(site.settings, EVERY).sent.total() == 6
    assert sorted(r.key or b"" for r in arrived(site)) == sorted(one.key or b"" for one in letters)
    assert redrive(site.settings, EVERY).before == 6
    del dead


def test_of_two_at_once_one_is_fenced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one begins while the first has read everything and has not sent yet."""
    refuse(site, [letter(site, i) for i in range(8)])
    send: Callable[..., None] = module._send
    other: list[module.Redriven] = []

    def overtaken(*of_first: Any) -> None:
        monkeypatch.setattr(module, "_send", send)
        other.append(redrive(site.settings, EVERY))
        send(*of_first)

    monkeypatch.setattr(module, "_send", overtaken)
    with pytest.raises(SetupError, match="another one took over"):
        redrive(site.settings, EVERY)
    assert other[0].sent.total() == 8
    assert len(arrived(site)) == 8


def test_a_marker_behind_an_open_transaction_is_waited_for(site: Site) -> None:
    """Readers of what is committed do not see beyond it: read only so far, the marker would be missed."""
    refuse(site, [letter(site, 1)])
    worker = Producer(
        {"bootstrap.servers": site.settings.bootstrap, "transactional.id": f"{site.settings.app_id}-1", "log_level": 0}
    )
    worker.init_transactions(30)
    assert redrive(site.settings, EVERY).sent.total() == 1
    worker.begin_transaction()
    refuse(site, [letter(site, 3)], worker)
    # Same partition: letter 1, its marker, then what is open, then a marker made while it was open.
    assert redrive_late(site, worker) == (0, 1)
    assert sorted(r.key or b"" for r in arrived(site)) == [b"u1"]


def redrive_late(site: Site, worker: Producer) -> tuple[int, int]:
    done: list[module.Redriven] = []
    thread = threading.Thread(target=lambda: done.append(redrive(site.settings, EVERY)))
    thread.start()
    thread.join(2)
    assert thread.is_alive(), "it has not waited for the open transaction"
    worker.abort_transaction(30)
    thread.join(30)
    return done[0].sent.total(), done[0].before


def run(settings: Settings, *arguments: str) -> tuple[int, str]:
    environment = {
        "KAFKA_BOOTSTRAP": settings.bootstrap,
        "OFFERSTREAM_TOPIC_PREFIX": settings.topic_prefix,
        "OFFERSTREAM_APP_ID": settings.app_id,
    }
    result = CliRunner(env=environment).invoke(dead_letters, arguments)
    return result.exit_code, result.output


def test_the_command_line(site: Site) -> None:
    refuse(site, [letter(site, i) for i in range(3)] + [letter(site, 4, DeadReason.NOT_JSON, b"{")])
    assert run(site.settings, "redrive")[0] == 2
    code, output = run(site.settings, "redrive", "--all", "--dry-run")
    assert (code, output.splitlines()[0]) == (0, "3 would be re-driven: wrong_partition 3")
    code, output = run(site.settings, "redrive", "--topic", "clickstream", "--partition", "0", "--since", "2025-11-21")
    assert output.splitlines() == [
        "2 re-driven: wrong_partition 2",
        "1 left, workers would refuse them again: not_json 1",
        "0 were re-driven before",
    ]
    assert run(site.settings, "redrive", "9:9")[0] == 2
    listed = [json.loads(line) for line in run(site.settings, "list", "--json")[1].splitlines()]
    assert [line["redriven"] for line in listed] == [True, False, True, False]
    assert REDRIVEN not in {line["headers"]["reason"] for line in listed}
    table = run(site.settings, "list")[1]
    assert table.count("yes") == 2
    assert "4 dead letters: wrong_partition 3, not_json 1" in table
    assert "re-driven: yes" in run(site.settings, "show", "0:0")[1]
