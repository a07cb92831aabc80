"""The two systems under measurement: how each is prepared, started, and asked how far it is."""

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

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
from tests.bench.program import Program, run_tool
from training.seeded import seeded_model


class Progress(NamedTuple):
    """What a system says of itself at one moment. Only events/s and memory are taken from outside alone."""

    events: int
    stage_us: dict[str, float]
    """Time since its start, by stage."""
    row_bytes: float


class Offerstream:
    """`python -m stream worker` on topics of its own."""

    name = "offerstream"

    def __init__(self, kafka: Kafka, folder: Path, title: str, seed: int, guarantee: str) -> None:
        self.guarantee = guarantee
        self._kafka = kafka
        self._log = folder / f"{title}.log"
        self._environment = {
            "KAFKA_BOOTSTRAP": kafka.bootstrap,
            "OFFERSTREAM_APP_ID": title,
            "OFFERSTREAM_TOPIC_PREFIX": f"{title}-",
            "OFFERSTREAM_PARTITIONS": str(kafka.partitions),
            "OFFERSTREAM_GUARANTEE": self.guarantee,
            "OFFERSTREAM_DATA_DIR": str(folder / title),
            # The log lies in the past, and yet each trigger shall get its offer.
            "OFFERSTREAM_OFFER_MAX_AGE_MS": str(10 * load.SPAN_MS),
        }
        self.settings = from_environment(self._environment)
        self.group = title
        self.prefix = self.settings.topic_prefix
        self.source = self.settings.topic("clickstream")
        self.offers = self.settings.topic("offers")
        self.decisions = self.settings.topic("decisions")
        self.changelog = self.settings.changelog
        self.written_topics = (self.offers, self.decisions, self.changelog, self.settings.topic("dead-letters"))
        self._admin_port = 0
        create_topics(self.settings)
        self._control(seed)

    def _control(self, seed: int) -> None:
        """Publish the model and the campaign."""
        model = seeded_model(seed)
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

    def start(self, *, latency: bool = False, hot_rows: int | None = None) -> Program:
        """Start a worker; it needs no other settings for latency."""
        del latency
        self._admin_port = free_ports(None).broker
        environment = self._environment | {"OFFERSTREAM_ADMIN_PORT": str(self._admin_port)}
        if hot_rows:
            environment["OFFERSTREAM_HOT_ROWS"] = str(hot_rows)
        return Program(["stream", "worker"], environment, self._log)

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float] | None:
        """All of /metrics."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return None
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    def outcome(self, name: str) -> int:
        """Events of all sources with an outcome."""
        samples = self.samples() or {}
        return int(
            sum(samples.get(("offerstream_events_total", (("outcome", name), ("source", s))), 0) for s in SOURCES)
        )

    def progress(self) -> Progress | None:
        """From its metrics."""
        samples = self.samples()
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


class Faust:
    """The same job in plain Faust."""

    name = "faust"
    guarantee = "at_least_once"
    source = "clickstream"
    offers = "peer-offers"
    decisions = "peer-decisions"

    def __init__(self, kafka: Kafka, folder: Path, title: str, source_prefix: str, seed: int) -> None:
        self._kafka = kafka
        self._log = folder / f"{title}.log"
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
            "PEER_LINGER_MS": "50",
            "PEER_SOURCE": self.source,
            "PEER_OFFERS": self.offers,
            "PEER_DECISIONS": self.decisions,
            "PEER_MODEL": str(model),
            "PEER_STAGES": str(self._stages),
        }
        kafka.create(self.changelog, self.offers, self.decisions)

    def give_rows(self, users: int, seed: int) -> None:
        """A row for every user, in the table's changelog and in its local stores."""
        rows = faust_peer.first_rows(users, seed)
        publish(self._kafka.bootstrap, (Record(self.changelog, key, row) for key, row in rows))
        ends = json.dumps(self._kafka.ends(self.changelog))
        run_tool(["tests.bench.faust_peer", str(users), str(seed), ends], self._environment)

    def skip_to_end(self) -> None:
        """What is published from now on is the first that it reads."""
        self._kafka.commit(self.group, self.source, self._kafka.ends(self.source))

    def start(self, *, latency: bool = False, hot_rows: int | None = None) -> Program:
        """Start a worker of Faust; without lingering where latency is measured."""
        del hot_rows
        self._stages.unlink(missing_ok=True)
        environment = self._environment | ({"PEER_LINGER_MS": "0"} if latency else {})
        return Program(["tests.bench.faust_peer"], environment, self._log)

    def progress(self) -> Progress | None:
        """From its file of stages and, for what counts, from the offsets that it committed."""
        if not self._stages.exists():
            return None
        said = json.loads(self._stages.read_text())
        return Progress(said["events"], {name: ns / 1e3 for name, ns in said["ns"].items()}, faust_peer.ROW_BYTES)


System = Offerstream | Faust
