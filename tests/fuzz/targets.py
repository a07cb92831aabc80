"""What is fuzzed: whatever reads bytes that somebody else wrote. A target takes inputs and says what became of each."""

import asyncio
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import numpy as np
from prometheus_client import CollectorRegistry

from stream.campaigns import control, files
from stream.core import fold
from stream.core.events import KINDS_OF_SOURCE, SOURCES
from stream.core.row import RowFormatError, new_rows, pack, unpack
from stream.health import AdminServer, admin_app
from stream.kafka.codec import dead_letter_record
from stream.kafka.decode import decode
from stream.kafka.topics import Record
from stream.metrics import Metrics
from stream.scoring.artefact import ModelRefused, metadata_json, parse_metadata
from stream.scoring.control import CHALLENGER_KEY, CHAMPION_KEY, candidates, challenger_of
from stream.scoring.model import load, read_metadata
from tests.kafka.test_decode import GOOD, NOW_MS, POISON, dump
from training.seeded import seeded_model

ROOT = Path(__file__).resolve().parents[2]
APPLIED, REFUSED, DEAD = "applied", "refused", "dead"
HTTP_TIMEOUT_S = 5.0
HTTP_PATIENCE_S = 0.01


class Target(Protocol):
    """Something that reads bytes."""

    seeds: list[bytes]
    """Inputs to begin with."""
    modules: tuple[str, ...]
    """Whose lines are counted as covered: paths under the repository."""
    bulk: int
    """Inputs taken at once."""

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        """What became of each: `APPLIED`, `REFUSED` or `DEAD`. Whatever it raises is a finding."""


class Decoder:
    """Records of the sources through the decoder, and what it lets through into rows.

    An input is a source's number, the length of the key, the key, the value; so keys are bent as well.
    """

    modules = ("stream/kafka/decode.py", "stream/kafka/reading.py", "stream/core/absorb.py", "stream/core/fold.py")
    bulk = 50

    def __init__(self) -> None:
        good = [(source, b"u1", dump(document)) for source, document in GOOD.items()]
        poison = [(source, b"u1", value or b"") for source, value, _, _ in POISON if len(value or b"") < 4096]
        self.seeds = [bytes([SOURCES.index(s), len(k)]) + k + v for s, k, v in good * 40 + poison]
        self._rows = new_rows(64)

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        said = [REFUSED] * len(inputs)
        of_source: dict[str, list[Record]] = {source: [] for source in SOURCES}
        for i, data in enumerate(inputs):
            head, body = data[:2], data[2:]
            source = SOURCES[head[0] % len(SOURCES)] if head else SOURCES[0]
            length = head[1] if len(head) > 1 else 0
            of_source[source].append(Record(source, 0, body[:length] or None, body[length:] or None, i, NOW_MS, []))
        for source, records in of_source.items():
            decoded = decode(source, records, 0, 1, "EUR", source)
            events = decoded.events
            assert len(decoded.users) == len(events)
            outcome = [*((o, APPLIED) for o in events["offset"].tolist()), *((d.offset, DEAD) for d in decoded.dead)]
            assert sorted(o for o, _ in outcome) == [r.offset for r in records], "each record becomes one of the two"
            for offset, what in outcome:
                said[offset] = what
            for letter in decoded.dead:
                key, value, headers = dead_letter_record(letter)
                assert (key, value) == (letter.key, letter.value)
                assert all(isinstance(text, bytes) for _, text in headers)
            if len(events):
                assert set(events["kind"].tolist()) <= set(KINDS_OF_SOURCE[source].values())
                for field in ("price_minor", "amount_minor", "discount_minor", "quantity", "dwell_ms", "results"):
                    assert (events[field] >= 0).all(), field
                fold.fold(events, (events["user"] % np.uint64(64)).astype(np.int64), self._rows)
                self._rows = unpack(pack(self._rows)).copy()
        return said


class RowCodec:
    """Packed rows: refused, or read as something that is written and read again as the same."""

    modules = ("stream/core/row.py",)
    bulk = 20

    def __init__(self) -> None:
        draw = np.random.default_rng(1)
        rows = new_rows(8)
        words = rows.view("u8").reshape(8, -1)
        for i in range(1, 8):
            words[i, draw.integers(0, words.shape[1], 4**i // 2)] = draw.integers(0, 2**63)
        for field in ("step_pos", "step_count", "recent_ids_pos", "recent_products_pos"):
            rows[field] = 0
        self.seeds = pack(rows)

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        said = []
        for data in inputs:
            try:
                rows = unpack([data])
            except RowFormatError:
                said.append(REFUSED)
                continue
            packed = pack(rows)
            again = unpack(packed)
            assert again.tobytes() == rows.tobytes()
            assert len(packed[0]) <= len(data)
            said.append(APPLIED)
        return said


class CampaignRecords:
    """Records of the campaigns topic, as a worker takes them over."""

    modules = ("stream/campaigns/control.py", "stream/campaigns/validate.py", "stream/campaigns/problems.py")
    bulk = 4

    def __init__(self) -> None:
        folders = [ROOT / "stream" / "campaigns" / "ready", ROOT / "stream" / "shop" / "campaigns"]
        documents = [one for f in folders for path in sorted(f.glob("*.yaml")) for one in files.load(path).documents]
        self.seeds = [json.dumps({**document, "published_ms": NOW_MS}).encode() for document in documents]

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        said = []
        for data in inputs:
            try:
                id_ = str(control.parse_record(data).get("id", "x"))
            except ValueError:
                id_ = "x"
            in_force, refused = control.compile_campaigns({id_: data}, control.Shop("Europe/Berlin", "EUR"))
            assert len(in_force.campaigns) + len(refused) == 1
            assert all(one.message for one in refused)
            said.append(REFUSED if refused else APPLIED)
        return said


class CampaignFiles:
    """Campaign files, YAML, as people write them."""

    modules = ("stream/campaigns/files.py", "stream/campaigns/validate.py", "stream/campaigns/problems.py")
    bulk = 4

    def __init__(self, folder: Path) -> None:
        self.seeds = [path.read_bytes() for path in sorted((ROOT / "stream" / "campaigns" / "ready").glob("*.yaml"))]
        self.seeds += CampaignRecords().seeds[:2]  # JSON is YAML
        self._file = folder / "campaign.yaml"

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        said = []
        for data in inputs:
            self._file.write_bytes(data)
            loaded = files.load(self._file, "EUR")
            assert loaded.documents or loaded.faults
            assert all(fault.place.line >= 1 for fault in loaded.faults)
            said.append(REFUSED if loaded.faults else APPLIED)
        return said


class ModelFiles:
    """Model files, their metadata (after an M), and pointers to them."""

    modules = ("stream/scoring/artefact.py", "stream/scoring/model.py", "stream/scoring/control.py")
    bulk = 1

    def __init__(self) -> None:
        model = seeded_model(1)
        metadata = b"M" + metadata_json(read_metadata(model)).encode()
        self.seeds = [model, metadata, metadata, b'{"sha256": "%s", "published_ms": 1763700000000}' % (b"a" * 64)]

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        said = []
        for data in inputs:
            try:
                if data[:1] == b"M":
                    parse_metadata(data[1:].decode("utf-8", "replace"))
                elif data[:1] == b"{":
                    challenger_of({CHALLENGER_KEY: data})
                    candidates({CHAMPION_KEY: data})
                else:
                    load(data)
            except ModelRefused:
                said.append(REFUSED)
            else:
                said.append(APPLIED)
        return said


class Http:
    """Bytes at the admin port: answered or hung up on, never a server error, and healthy afterwards."""

    modules = ("stream/health.py",)
    bulk = 10

    def __init__(self) -> None:
        paths = ("/metrics", "/healthz", "/readyz", "/", "/metrics?name[]=x")
        self.seeds = [
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode()
            for method in ("GET", "POST")
            for path in paths
            for accept in ("*/*", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        ]
        self.seeds.append(
            b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        metrics = Metrics(CollectorRegistry())
        self._server = AdminServer(admin_app(metrics.registry, lambda: "", lambda: ""))
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        started = asyncio.run_coroutine_threadsafe(self._server.start("127.0.0.1", 0), self._loop)
        self._port = started.result(HTTP_TIMEOUT_S)

    def take(self, inputs: Sequence[bytes]) -> list[str]:
        said = []
        for data in inputs:
            answer = self._ask(data)
            status = answer.split(b" ", 2)[1:2] if answer.startswith(b"HTTP/") else [b"000"]
            assert not status[0].startswith(b"5") or status[0] in (b"501", b"505"), answer[:200]
            said.append(APPLIED if status[0].startswith(b"2") else REFUSED)
        health = self._ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert health.startswith(b"HTTP/1.1 200"), health[:200]
        return said

    def settrace(self, call: Callable[..., Any] | None) -> None:
        """Trace the server's thread."""
        traced = threading.Event()

        def there() -> None:
            sys.settrace(call)
            traced.set()

        self._loop.call_soon_threadsafe(there)
        traced.wait(HTTP_TIMEOUT_S)

    def _ask(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._port), HTTP_TIMEOUT_S) as sock:
            answer = b""
            sock.settimeout(HTTP_PATIENCE_S)
            with suppress(ConnectionError):  # hung up on
                sock.sendall(data)
                try:
                    while part := sock.recv(1 << 16):
                        answer += part
                except TimeoutError:  # more is expected of us, or the connection is kept alive
                    sock.shutdown(socket.SHUT_WR)
                    sock.settimeout(HTTP_TIMEOUT_S)
                    while part := sock.recv(1 << 16):
                        answer += part
            return answer


class Entry(NamedTuple):
    """A target, and its share of the inputs."""

    make: Callable[[Path], Any]
    share: float


TARGETS: dict[str, Entry] = {
    "decoder": Entry(lambda _: Decoder(), 0.74),
    "row-codec": Entry(lambda _: RowCodec(), 0.22),
    "campaign-records": Entry(lambda _: CampaignRecords(), 0.015),
    "campaign-files": Entry(CampaignFiles, 0.01),
    "model-files": Entry(lambda _: ModelFiles(), 0.005),
    "http": Entry(lambda _: Http(), 0.01),
}


def draw_of(seed: int, target: str) -> Random:
    """A source of draws of each target's own."""
    return Random(f"{seed}:{target}")
