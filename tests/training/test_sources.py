import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Kind
from stream.errors import SettingsError, SetupError
from training.errors import TrainingError
from training.log import EventLog
from training.sources import merged_order, read_file, read_topics

TAOBAO = b"""7,100,5,pv,1511544070
8,101,5,cart,1511544080
7,100,5,buy,1511544090
7,100,5
9,102,6,fav,1500000000
8,101,5,buy,1511544095
"""


def silent(_done: int, _total: int) -> None:
    pass


def said(log: EventLog) -> list[tuple[str, Kind, int]]:
    """(user, kind, second of time) in order."""
    users = [log.users[at].decode() for at in log.row.tolist()]
    kinds = [Kind(kind) for kind in log.events["kind"].tolist()]
    return list(zip(users, kinds, (log.events["time_ms"] // 1000).tolist(), strict=True))


# --- recorded logs


@pytest.mark.parametrize("zipped", [False, True])
def test_a_recorded_log_in_the_order_of_its_lines(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(TAOBAO) if zipped else TAOBAO)
    told: list[tuple[int, int]] = []
    log, counts = read_file(str(path), "taobao", "", lambda done, total: told.append((done, total)))
    assert said(log) == [
        ("7", Kind.PRODUCT_VIEW, 1511544070),
        ("8", Kind.CART_ADD, 1511544080),
        ("7", Kind.ORDER_PLACED, 1511544090),
        ("8", Kind.ORDER_PLACED, 1511544095),
    ]
    assert counts[:4] == (4, 0, 1, 1)
    assert "line 4" in counts.first_problem
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


def test_chunks_do_not_show(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(shared_data / "rees46_views.csv.gz")
    whole, counts = read_file(path, "rees46", "", silent)
    monkeypatch.setattr("training.sources.CHUNK", 777)
    parts, same = read_file(path, "rees46", "", silent)
    assert counts == same
    assert counts.events == 10_325
    assert parts.users == whole.users
    assert parts.events.tobytes() == whole.events.tobytes()


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="No such file"):
        read_file(str(tmp_path / "nothing.csv"), "taobao", "", silent)
    with pytest.raises(TrainingError, match="Is a directory"):
        read_file(str(tmp_path), "taobao", "", silent)
    with pytest.raises(SettingsError, match="known are taobao, rees46, completejourney"):
        read_file(str(tmp_path), "csv", "", silent)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(os.urandom(5_000))[:2_000])
    with pytest.raises(TrainingError, match=r"cut\.gz cannot be unpacked after line"):
        read_file(str(cut), "taobao", "", silent)


# --- a broker


def produce(bootstrap: str, records: list[tuple[str, str, Any, int]]) -> None:
    """(topic, user, value, timestamp), in order."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2"})
    for topic, user, value, timestamp in records:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic, key=user.encode(), value=body, timestamp=timestamp)
        producer.flush(30)


def event(user: str, second: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"event_id": f"{user}-{second}-{kind}", "user_id": user, "time_ms": second * 1000, "kind": kind, **more}


def order(user: str, second: int) -> dict[str, Any]:
    return event(user, second, "placed", order_id=f"o{second}", total_minor=100, currency="EUR")


def test_topics_come_in_the_order_of_publication(topics: tuple[str, str]) -> None:
    bootstrap, prefix = topics
    now_s = int(time.time()) - 1_000
    records: list[tuple[str, str, Any, int]] = []
    users = [f"user-{n}" for n in range(20)]
    for n, user in enumerate(users):
        t = now_s + n
        records += [
            (f"{prefix}clickstream", user, event(user, t, "page_view"), (t + 10) * 1000),
            (f"{prefix}orders", user, order(user, t + 20), (t + 20) * 1000),
            (f"{prefix}clickstream", user, event(user, t + 5, "cart_add"), (t + 15) * 1000),
            (f"{prefix}customers", user, event(user, t + 30, "profile", consent=True), (t + 30) * 1000),
            (f"{prefix}clickstream", user, event(user, t + 40, "search"), (t + 40) * 1000),
        ]
    records.insert(50, (f"{prefix}clickstream", "user-3", b"not json", now_s * 1000))
    produce(bootstrap, records)
    told: list[tuple[int, int]] = []
    log, counts = read_topics(bootstrap, prefix, "EUR", lambda done, total: told.append((done, total)))
    assert counts[:4] == (100, 1, 0, 0)
    assert "not_json" in counts.first_problem
    assert told[-1] == (101, 101)
    assert sorted(log.users) == sorted(user.encode() for user in users)
    for n, user in enumerate(users):
        t = now_s + n
        mine = [(kind, second - t) for who, kind, second in said(log) if who == user]
        assert mine == [
            (Kind.PAGE_VIEW, 0),
            (Kind.CART_ADD, 5),
            (Kind.ORDER_PLACED, 20),
            (Kind.PROFILE, 30),
            (Kind.SEARCH, 40),
        ]


def test_a_source_keeps_its_own_order_whatever_its_clocks_say(topics: tuple[str, str]) -> None:
    bootstrap, prefix = topics
    t = int(time.time()) - 1_000
    stamps = [50, 10, 30, 60, 20]  # a producer whose clock jumps
    kinds = ["page_view", "search", "cart_add", "favourite", "checkout_start"]
    produce(
        bootstrap,
        [
            *(
                (f"{prefix}clickstream", "u", event("u", t, kind), (t + s) * 1000)
                for kind, s in zip(kinds, stamps, strict=True)
            ),
            (f"{prefix}orders", "u", order("u", t), (t + 55) * 1000),
        ],
    )
    log, _ = read_topics(bootstrap, prefix, "EUR", silent)
    found = [kind for _, kind, _ in said(log)]
    # The first record's clock says 50, so nothing that follows in its source was earlier: the order comes after three.
    assert found == [
        Kind.PAGE_VIEW,
        Kind.SEARCH,
        Kind.CART_ADD,
        Kind.ORDER_PLACED,
        Kind.FAVOURITE,
        Kind.CHECKOUT_START,
    ]


def test_empty_topics_are_an_empty_log(topics: tuple[str, str]) -> None:
    log, counts = read_topics(*topics, "EUR", silent)
    assert len(log.events) == len(log.users) == counts.events == 0
    assert log.row.dtype == np.int64


def test_missing_topics_are_named(broker: str) -> None:
    with pytest.raises(SetupError, match=r"no such topic: nobody-clickstream, nobody-orders.*topics create"):
        read_topics(broker, "nobody-", "EUR", silent)


def test_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.topics.REQUEST_TIMEOUT_S", 1.0)
    with pytest.raises(SetupError, match=r"no answer from Kafka at 127\.0\.0\.1:1:"):
        read_topics("127.0.0.1:1", "", "EUR", silent)


# --- merging


published = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(0, 50)), min_size=1, max_size=40)


@given(said=published)
def test_merging_keeps_each_users_order_in_a_source(said: list[tuple[int, int, int]]) -> None:
    """(user, source, second of publication), offsets as they come."""
    user = np.array([u for u, _, _ in said], np.uint64)
    source = np.array([s for _, s, _ in said], np.uint8)
    offset = np.arange(len(said))
    times_ms = np.array([t for _, _, t in said]) + 1_700_000_000_000
    order = merged_order(user, source, offset, times_ms).tolist()
    assert sorted(order) == offset.tolist()
    latest: dict[tuple[int, int], int] = {}
    clock = []
    for u, s, t in said:
        latest[u, s] = max(latest.get((u, s), 0), t)
        clock.append(latest[u, s])
    assert order == sorted(range(len(said)), key=lambda at: (clock[at], said[at][1], at))
