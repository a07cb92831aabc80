"""The systems under measurement: how each is prepared, started, and asked how far it is."""

import hashlib
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from stream.broker.ports import free_ports
from stream.core.events import SOURCES
from stream.kafka.admin import create_topics
from stream.scoring.control import CHAMPION_KEY, file_key
from stream.settings import from_environment
from tests.bench import faust_peer, load
from tests.bench.kafka import Kafka
from tests.bench.load import Record, publish
from tests.bench.peer_model import window_model
from tests.bench.program import MODULE, Program, ProgramError, run_tool
from training.seeded import seeded_model

OURS_STEP = "LSTM(50), one step of 16 features from the state carried in the row, the events of a batch at once"
OURS_WINDOW = "LSTM(50) over all 32 steps of 16 features that the row keeps, the events of a batch at once"
PEERS_WINDOW = "LSTM(50) over a window of 30 steps of 10 features, one event at a time"
"""What is computed for an event; stated in the rows."""

STREAMS_LINGER_MS = 100
"""Kafka Streams' own default."""

STAGES_OF_A_BATCH = ("decode", "absorb", "score", "decide", "emit")
"""On the compute thread, one batch after the other; commit and store go on beside them."""


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values of a scrape by name and labels."""


class Progress(NamedTuple):
    """What a system says of itself at one moment. Only events/s and memory are taken from outside alone."""

    events: int
    stage_us: dict[str, float]
    """Time since its start, by stage."""
    row_bytes: float


class Offerstream:
    """`python -m stream worker` on topics of its own."""

    name = "offerstream"
    peer_settings = None

    def __init__(
        self, kafka: Kafka, folder: Path, title: str, seed: int, guarantee: str, model: bytes | None = None
    ) -> None:
        self.guarantee = guarantee
        self._kafka = kafka
        self.log = folder / f"{title}.log"
        self._environment = {
            "KAFKA_BOOTSTRAP": kafka.bootstrap,
            "OFFERSTREAM_APP_ID": title,
            "OFFERSTREAM_TOPIC_PREFIX": f"{title}-",
            "OFFERSTREAM_PARTITIONS": str(kafka.partitions),
            "OFFERSTREAM_GUARANTEE": self.guarantee,
            "OFFERSTREAM_DATA_DIR": str(folder / title),
            # The log lies in the past, and yet each trigger shall get its offer.
            "OFFERSTREAM_OFFER_MAX_AGE_MS": str((load.LOGS_MAX + 1) * load.SPAN_MS),
        }
        self.settings = from_environment(self._environment)
        self.group = title
        self.prefix = self.settings.topic_prefix
        self.source = self.settings.topic("clickstream")
        self.offers = self.settings.topic("offers")
        self.decisions = self.settings.topic("decisions")
        self.changelog = self.settings.changelog
        self.written_topics = (self.offers, self.decisions, self.changelog, self.settings.topic("dead-letters"))
        self.network = OURS_WINDOW if model else OURS_STEP
        self._admin_port = 0
        create_topics(self.settings)
        self._control(model or seeded_model(seed))

    def _control(self, model: bytes) -> None:
        """Publish the model and the campaign."""
        sha256 = hashlib.sha256(model).hexdigest()
        pointer = json.dumps({"sha256": sha256, "published_ms": 0}).encode()
        publish(
            self._kafka.bootstrap,
            [
                Record("models", file_key(sha256), model),
                Record("models", CHAMPION_KEY, pointer),
                Record("campaigns", *load.campaign(0)),
            ],
            self.prefix,
        )

    def start(self, *, latency: bool = False, hot_rows: int | None = None, instance_id: str = "") -> Program:
        """Start a worker; it needs no other settings for latency. Killed, one with an id is let in again at once."""
        del latency
        self._admin_port = free_ports(None).broker
        environment = self._environment | {"OFFERSTREAM_ADMIN_PORT": str(self._admin_port)}
        if hot_rows:
            environment["OFFERSTREAM_HOT_ROWS"] = str(hot_rows)
        if instance_id:
            environment["OFFERSTREAM_INSTANCE_ID"] = instance_id
        return Program([*MODULE, "stream", "worker"], environment, self.log)

    def samples(self, *names: str) -> Samples | None:
        """These of /metrics, or all: all of them several times a second is more than any shop asks for."""
        query = urllib.parse.urlencode([("name[]", name) for name in names])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/metrics?{query}", timeout=5) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return None
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    def is_ready(self) -> bool:
        """Whether all of its rows are restored and it processes."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/readyz", timeout=5) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            return False

    def _answer(self, *names: str) -> Samples:
        samples = self.samples(*names)
        if samples is None:
            raise ProgramError(f"no answer from /metrics; its log is {self.log}")
        return samples

    def outcome(self, name: str) -> int:
        """Events of all sources with an outcome."""
        samples = self.samples("offerstream_events_total") or {}
        return int(
            sum(samples.get(("offerstream_events_total", (("outcome", name), ("source", s))), 0) for s in SOURCES)
        )

    def batches(self) -> tuple[float, float]:
        """How many were worked off since its start, and the seconds from decode to emit that they took.

        Raises:
            ProgramError: it does not answer.
        """
        took, count = "offerstream_stage_seconds_sum", "offerstream_stage_seconds_count"
        samples = self._answer(took, count)
        took_s = sum(samples.get((took, (("stage", stage),)), 0.0) for stage in STAGES_OF_A_BATCH)
        return samples.get((count, (("stage", STAGES_OF_A_BATCH[0]),)), 0.0), took_s

    def loop_held(self) -> dict[str, int]:
        """How many turns of its event loop, since its start, took longer than 20, 50 and 100 ms.

        Raises:
            ProgramError: it does not answer.
        """
        samples = self._answer("offerstream_loop_held_seconds_bucket")
        turns = {float(labels[0][1]): n for (_, labels), n in samples.items()}
        return {f"over_{ms}_ms": int(turns[math.inf] - turns[ms / 1000]) for ms in (20, 50, 100)}

    def progress(self) -> Progress | None:
        """From its metrics."""
        samples = self.samples("offerstream_events_total", "offerstream_stage_seconds_sum", "offerstream_row_bytes")
        if samples is None:
            return None
        return Progress(
            int(
                sum(
                    v
                    for (n, labels), v in samples.items()
                    if n == "offerstream_events_total" and ("outcome", "applied") in labels
                )
            ),
            {labels[0][1]: v * 1e6 for (n, labels), v in samples.items() if n == "offerstream_stage_seconds_sum"},
            samples["offerstream_row_bytes", ()],
        )


class Peer:
    """The same job in another system, one event at a time, its parameters in the environment (PEER_*).

    Args:
        kafka: where.
        folder: for data and logs.
        title: names its group and its topics.
        source_prefix: of the topic that it reads: ours, the same events.
        seed: of its model.
        command: of the program.
        linger_ms: of its producer where throughput is measured; it does not linger where latency is.
    """

    name: str
    guarantee: str
    network = PEERS_WINDOW
    peer_settings: dict[str, str | int] | None = None
    """What was chosen for it, stated in its rows."""

    def __init__(
        self,
        kafka: Kafka,
        folder: Path,
        title: str,
        source_prefix: str,
        seed: int,
        command: Sequence[str],
        linger_ms: int,
    ) -> None:
        self._kafka = kafka
        self._command = command
        self.log = folder / f"{title}.log"
        self._stages = folder / f"{title}-stages.json"
        model = folder / "window.onnx"
        model.write_bytes(window_model(seed))
        self.group = title
        self.source = f"{source_prefix}clickstream"
        self.offers, self.decisions = f"{title}-offers", f"{title}-decisions"
        self.changelog = f"{title}-users-changelog"
        self.written_topics = (self.offers, self.decisions, self.changelog)
        self._environment = {
            "PEER_APP_ID": title,
            "PEER_BOOTSTRAP": kafka.bootstrap,
            "PEER_DATA_DIR": str(folder / title),
            "PEER_PARTITIONS": str(kafka.partitions),
            "PEER_LINGER_MS": str(linger_ms),
            "PEER_SOURCE": self.source,
            "PEER_OFFERS": self.offers,
            "PEER_DECISIONS": self.decisions,
            "PEER_MODEL": str(model),
            "PEER_STAGES": str(self._stages),
        }
        kafka.create(self.changelog, self.offers, self.decisions)

    def give_rows(self, users: int, seed: int) -> None:
        """A row for every user, in the changelog."""
        rows = faust_peer.first_rows(users, seed)
        publish(self._kafka.bootstrap, (Record(self.changelog, key, row) for key, row in rows))

    def skip_to_end(self) -> None:
        """What is published from now on is the first that it reads."""
        self._kafka.commit(self.group, self.source, self._kafka.ends(self.source))

    def start(self, *, latency: bool = False, hot_rows: int | None = None) -> Program:
        """Start it; without lingering where latency is measured."""
        del hot_rows
        return self._start({"PEER_LINGER_MS": "0"} if latency else {})

    def _start(self, more: dict[str, str]) -> Program:
        self._stages.unlink(missing_ok=True)
        return Program(self._command, self._environment | more, self.log)

    def is_ready(self) -> bool:
        """Whether its group has members that own partitions: it reads what comes."""
        return self._kafka.is_stable(self.group)

    def said(self) -> dict[str, Any] | None:
        """Its file of stages, None before the first."""
        return json.loads(self._stages.read_text()) if self._stages.exists() else None

    def progress(self) -> Progress | None:
        """From its file of stages; what counts are the offsets that it committed."""
        said = self.said()
        if said is None:
            return None
        return Progress(said["events"], {name: ns / 1e3 for name, ns in said["ns"].items()}, faust_peer.ROW_BYTES)


class Faust(Peer):
    """The same job in plain Faust."""

    name = "faust"
    guarantee = "at_least_once"

    def __init__(self, kafka: Kafka, folder: Path, title: str, source_prefix: str, seed: int) -> None:
        command = [*MODULE, "tests.bench.faust_peer"]
        super().__init__(kafka, folder, title, source_prefix, seed, command, linger_ms=50)

    def give_rows(self, users: int, seed: int) -> None:
        """A row for every user, in the table's changelog and in its local stores."""
        super().give_rows(users, seed)
        ends = json.dumps(self._kafka.ends(self.changelog))
        run_tool(["tests.bench.faust_peer", str(users), str(seed), ends], self._environment)


class KafkaStreams(Peer):
    """The same job in Kafka Streams, in Java; it restores its rows itself when it starts."""

    name = "kafka-streams"
    guarantee = "exactly_once"

    def __init__(
        self, kafka: Kafka, folder: Path, title: str, source_prefix: str, seed: int, java: Sequence[str]
    ) -> None:
        super().__init__(kafka, folder, title, source_prefix, seed, java, STREAMS_LINGER_MS)
        self._file = folder / f"{title}.properties"
        self.commit_ms = 100
        """Between two transactions; this is its default."""
        self.peer_settings = {}

    def start(self, *, latency: bool = False, hot_rows: int | None = None, instance_id: str = "") -> Program:
        """Start it; without lingering where latency is measured. Killed, one with an id is let in again at once."""
        del hot_rows
        self.peer_settings = {
            "processing.guarantee": "exactly_once_v2",
            "num.stream.threads": 1,
            "replication.factor": 1,
            "statestore.cache.max.bytes": 64 << 20,
            "commit.interval.ms": self.commit_ms,
            "producer.linger.ms": 0 if latency else STREAMS_LINGER_MS,
            "producer.batch.size": 1 << 18,
            "producer.compression.type": "lz4",
        }
        if instance_id:
            self.peer_settings["main.consumer.group.instance.id"] = instance_id
        self._file.write_text("".join(f"{name}={value}\n" for name, value in self.peer_settings.items()))
        return self._start({"PEER_SETTINGS": str(self._file)})

    def is_ready(self) -> bool:
        """Whether all of its rows are restored and it processes."""
        said = self.said()
        return said is not None and bool(said["running"])


System = Offerstream | Peer
