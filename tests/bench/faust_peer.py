"""The same job in plain Faust, one event at a time: what a competent user of Faust would write, and the yardstick.

A program of its own: `python -m tests.bench.faust_peer`, its parameters in the environment (`PEER_*`, see `main`).
What was chosen in its favour, and measured, is listed in docs/bench.md.
"""

import json
import logging
import math
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import faust
import msgspec
import numpy as np
import onnxruntime
import rocksdict
from faust.types import TP

from stream.kafka.partitioner import partitions
from tests.bench.load import KINDS, TRIGGER, user_id
from tests.bench.peer_model import FEATURES, WINDOW

WINDOW_BYTES = WINDOW * FEATURES * 4
STEP = struct.Struct(f"<{FEATURES}f")
COUNTERS = struct.Struct("<16q")
"""last_ms, first_ms, events, session hash, session events, time in view, offers, last offer, then events by kind."""

ROW_BYTES = WINDOW_BYTES + COUNTERS.size
NEW_ROW = bytes(ROW_BYTES)
N_FIXED = 8
KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
HOLDOUT_PERCENT = 10
ROWS_DRAWN = 64
FILL_ROWS = 5_000


class Click(msgspec.Struct):
    """What the job reads of an event."""

    event_id: str
    user_id: str
    time_ms: int
    kind: str
    session_id: str = ""
    product_id: str = ""
    category_id: str = ""
    price_minor: int = 0
    dwell_ms: int = 0


def step_and_row(event: Click, row: bytes) -> tuple[bytes, list[int]]:
    """The window with this event's step put in, and the counters after it."""
    counters = list(COUNTERS.unpack_from(row, WINDOW_BYTES))
    last_ms, first_ms, events, session, session_events, dwell_ms, offers, _ = counters[:N_FIXED]
    code = KIND_CODES[event.kind]
    session_now = zlib.crc32(event.session_id.encode())
    session_events = session_events + 1 if session == session_now else 1
    counters[0] = max(last_ms, event.time_ms)
    counters[1] = first_ms or event.time_ms
    counters[2:6] = events + 1, session_now, session_events, dwell_ms + event.dwell_ms
    counters[N_FIXED + code] += 1
    log = math.log1p
    step = STEP.pack(
        code,
        log(max(event.time_ms - last_ms, 0) / 1000),
        log(events),
        log(session_events),
        log(counters[N_FIXED + 1]),
        log(counters[N_FIXED + 3]),
        log(counters[N_FIXED + 4]),
        log(event.price_minor),
        log(event.dwell_ms),
        log(offers),
    )
    return row[STEP.size : WINDOW_BYTES] + step, counters


def build_app(environment: dict[str, str]) -> faust.App:
    """The app, with settings for throughput (or, with PEER_LINGER_MS=0, for latency)."""
    # Registered by Faust from this name; rows are bytes already, so neither JSON nor a codec stands in the way.
    app = faust.App(
        environment["PEER_APP_ID"],
        broker="kafka://" + environment["PEER_BOOTSTRAP"],
        store="rocksdb://",
        datadir=environment["PEER_DATA_DIR"],
        topic_partitions=int(environment["PEER_PARTITIONS"]),
        topic_replication_factor=1,
        topic_allow_declare=True,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 << 20,
        producer_compression_type="lz4",
        producer_linger_ms=int(environment["PEER_LINGER_MS"]),
        producer_max_batch_size=1 << 18,
        stream_buffer_maxsize=8192,
        stream_wait_empty=False,
        stream_recovery_delay=0,
        broker_commit_interval=1.0,
        broker_commit_every=1_000_000,
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    clicks = app.topic(environment["PEER_SOURCE"], **raw)
    decisions = app.topic(environment["PEER_DECISIONS"], **raw)
    offers = app.topic(environment["PEER_OFFERS"], **raw)
    users = app.Table(
        "users",
        partitions=int(environment["PEER_PARTITIONS"]),
        # 2 GiB of block cache for each partition by default; a quarter of that is what one would give on this machine.
        options={"block_cache_size": 512 << 20},
        key_type=bytes,
        value_type=bytes,  # bytes are stored as they are
    )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1  # more threads make a model of this size slower
    settings.inter_op_num_threads = 1
    model = onnxruntime.InferenceSession(
        Path(environment["PEER_MODEL"]).read_bytes(), settings, providers=["CPUExecutionProvider"]
    )
    decode = msgspec.json.Decoder(Click).decode
    encode = msgspec.json.Encoder().encode
    stage_ns = dict.fromkeys(("decode", "row_read", "features", "score", "row_write", "emit"), 0)
    done = 0

    @app.agent(clicks)
    async def decide(stream: Any) -> None:
        nonlocal done
        clock = time.perf_counter_ns
        async for record in stream.events():
            t0 = clock()
            event = decode(record.value)
            t1 = clock()
            key = record.key
            row = users.get(key) or NEW_ROW
            t2 = clock()
            window, counters = step_and_row(event, row)
            t3 = clock()
            x = np.frombuffer(window, "<f4").reshape(1, WINDOW, FEATURES)
            score = float(model.run(None, {"x": x})[0][0, 0])
            t4 = clock()
            emitted_ns = 0
            if event.kind == TRIGGER:
                message = record.message
                trigger = {
                    "topic": message.topic,
                    "partition": message.partition,
                    "offset": message.offset,
                    "time_ms": event.time_ms,
                    "kind": event.kind,
                }
                offer_id = blake2b(
                    b"%s:%d:%d" % (message.topic.encode(), message.partition, message.offset), digest_size=16
                ).hexdigest()
                holdout = zlib.crc32(key) % 100 < HOLDOUT_PERCENT
                offered = score > 0 and not holdout
                decision = {
                    "decision_id": offer_id,
                    "user_id": event.user_id,
                    "time_ms": int(time.time() * 1000),
                    "trigger": trigger,
                    "campaign_id": "cart-nudge",
                    "campaign_version": 1,
                    "arm": "ten" if offered else "none",
                    "eligible": ["ten"],
                    "propensity": 1.0,
                    "score": score,
                    "draw": 0.0,
                    "holdout": holdout,
                    "reason": "offered" if offered else "holdout",
                    "step": window[-STEP.size :].hex(),
                }
                await decisions.send(key=key, value=encode(decision), partition=message.partition)
                if offered:
                    counters[6] += 1
                    counters[7] = event.time_ms
                    offer = {
                        "offer_id": offer_id,
                        "user_id": event.user_id,
                        "campaign_id": "cart-nudge",
                        "campaign_version": 1,
                        "kind": "percent",
                        "percent": 10,
                        "currency": "EUR",
                        "valid_from_ms": event.time_ms,
                        "valid_until_ms": event.time_ms + 86_400_000,
                        "trigger": trigger,
                        "schema_version": 1,
                    }
                    await offers.send(key=key, value=encode(offer), partition=message.partition)
                emitted_ns = clock() - t4
            t5 = clock()
            users[key] = window + COUNTERS.pack(*counters)
            t6 = clock()
            stage_ns["decode"] += t1 - t0
            stage_ns["row_read"] += t2 - t1
            stage_ns["features"] += t3 - t2
            stage_ns["score"] += t4 - t3
            stage_ns["emit"] += emitted_ns
            stage_ns["row_write"] += t6 - t5
            done += 1
            if done % 1000 == 0:
                # Where the time goes, for the harness; the rate itself is taken from committed offsets.
                stages = Path(environment["PEER_STAGES"])
                stages.with_suffix(".new").write_text(json.dumps({"events": done, "ns": stage_ns}))
                stages.with_suffix(".new").rename(stages)

    return app


def first_rows(users: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and row of every user before timing starts: a full window, as after 30 events."""
    rng = np.random.default_rng(seed)
    counters = COUNTERS.pack(*[5] * (COUNTERS.size // 8))
    pool = [window.tobytes() + counters for window in rng.random((ROWS_DRAWN, WINDOW_BYTES // 4), "f4")]
    for n in range(users):
        yield user_id(n).encode(), pool[n % ROWS_DRAWN]


def fill(app: faust.App, users: int, seed: int, ends: dict[int, int]) -> None:
    """Put `first_rows` into the table's local stores, as if they had been restored from the changelog up to its end.

    Faust restores some thousand rows a second, one by one; a million of them would take longer than the benchmark.

    Args:
        app: not running.
        users: how many.
        seed: of the rows.
        ends: of the changelog's partitions, which hold the same rows.
    """
    table = app.tables["users"]
    app.conf.tabledir.mkdir(parents=True, exist_ok=True)
    rows = list(first_rows(users, seed))
    at = partitions([key for key, _ in rows], len(ends))
    for partition, end in ends.items():
        db = table.data._db_for_partition(partition)
        batch = rocksdict.WriteBatch(raw_mode=True)
        for n in np.flatnonzero(at == partition).tolist():
            batch.put(*rows[n])
            if len(batch) >= FILL_ROWS:
                db.write(batch)
                batch = rocksdict.WriteBatch(raw_mode=True)
        db.write(batch)
        table.data.set_persisted_offset(TP(table.changelog_topic_name, partition), end - 1)
        db.close()


def main() -> None:
    """Run the worker until it is told to stop; with arguments, fill its stores instead: users, seed, ends as JSON.

    Environment: PEER_APP_ID, PEER_BOOTSTRAP, PEER_DATA_DIR, PEER_PARTITIONS, PEER_LINGER_MS, PEER_SOURCE,
    PEER_OFFERS, PEER_DECISIONS (topics), PEER_MODEL (the ONNX file), PEER_STAGES (file written every 1,000 events).
    """
    app = build_app(dict(os.environ))
    if len(sys.argv) > 1:
        users, seed, ends = sys.argv[1:]
        fill(app, int(users), int(seed), {int(p): end for p, end in json.loads(ends).items()})
        return
    # Their debug records are made, then dropped, for every message that is sent: a fifth of all time.
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)
    faust.Worker(app, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main()
