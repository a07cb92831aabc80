"""The control topics: models and campaigns, read whole before the first batch, then followed.

Verifying a model takes a while, so it happens on the follower's thread; a batch sees one frozen `InForce` from
beginning to end.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.campaigns.control import Shop, compile_campaigns
from stream.core.campaign import CampaignSet
from stream.core.segments import SEGMENT_RULES
from stream.errors import SetupError
from stream.metrics import Metrics
from stream.scoring.artefact import ModelRefused
from stream.scoring.control import champion
from stream.scoring.model import Model, load
from stream.scoring.segments import Segmenter, load_segmenter, segments_in
from stream.settings import Settings, client_id

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_NO_LEADER = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
"""A topic that was just made, or whose broker just came back, has none for a moment."""


class InForce(NamedTuple):
    """What a batch is scored and decided with."""

    model: Model | None
    campaigns: CampaignSet


@dataclass
class _Followed:
    name: str
    records: dict[bytes, bytes]
    position: int = 0


class Control:
    """Follows `models` and `campaigns` on a thread of its own."""

    def __init__(self, settings: Settings, metrics: Metrics, fatal: Callable[[BaseException], None]) -> None:
        """Not started; `fatal` ends the process when following fails for a reason that should not be."""
        self._fatal = fatal
        self._settings = settings
        self._metrics = metrics
        self._shop = Shop(settings.timezone, settings.currency)
        self._followed = {settings.topic(name): _Followed(name, {}) for name in ("models", "campaigns")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)
        self._in_force = InForce(None, compile_campaigns({}, self._shop)[0])
        self._refused: bytes | None = None
        self._segments: Segmenter | None = None
        self._segments_refused: bytes | None = None

    def in_force(self) -> InForce:
        """The latest valid model and campaigns."""
        return self._in_force

    def start(self) -> None:
        """Read both topics to their end, then follow them.

        Raises:
            SetupError: a topic is missing or no broker answers.
        """
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._settings.bootstrap,
                "client.id": f"{client_id(self._settings)}-control",
                "group.id": f"{self._settings.app_id}-control",  # never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            }
        )
        topic = ""
        try:
            for topic in self._followed:
                self._wait_for_leader(TopicPartition(topic, 0))
        except KafkaException as e:
            self._consumer.close()
            raise SetupError(
                f"topic {topic}: {e.args[0].str()}. `python -m stream topics create` makes what is missing"
            ) from e
        self._consumer.assign([TopicPartition(topic, 0, 0) for topic in self._followed])
        behind = set(self._followed)
        while behind:
            behind -= self._read(_TIMEOUT_S)
        self._take(set(self._followed))
        self._thread.start()

    def _wait_for_leader(self, partition: TopicPartition) -> None:
        give_up_s = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                self._consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
            except KafkaException as e:
                if e.args[0].code() not in _NO_LEADER or time.monotonic() > give_up_s:
                    raise
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S)
        self._consumer.close()

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                before = {topic: followed.position for topic, followed in self._followed.items()}
                self._read(0.2)
                changed = {topic for topic, followed in self._followed.items() if followed.position != before[topic]}
                if changed:
                    self._take(changed)
        except Exception as e:  # noqa: BLE001 a worker that follows no longer must not go on unnoticed
            self._fatal(e)

    def _read(self, timeout_s: float) -> set[str]:
        """Read what is there; return the topics read to their end."""
        ended = set()
        message = self._consumer.poll(timeout_s)
        while message is not None:
            topic, error = str(message.topic()), message.error()
            if error is None:
                followed = self._followed[topic]
                key, value = message.key(), message.value()
                if key is None:
                    logger.warning("%s: record without a key at offset %s left out", topic, message.offset())
                elif value is None:
                    followed.records.pop(key, None)
                else:
                    followed.records[key] = value
                followed.position = (message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's public constant
                ended.add(topic)
            else:
                logger.warning("%s: %s", topic, error.str())
            message = self._consumer.poll(0)
        return ended

    def _take(self, changed: set[str]) -> None:
        """Put what is valid in force; what is not is named, and what was in force goes on."""
        names = {self._followed[topic].name for topic in changed}
        model, campaigns = self._in_force
        others = "models" in names and self._new_segments()
        if "campaigns" in names or others:
            records = self._followed[self._settings.topic("campaigns")].records
            docs = {key.decode("utf-8", "replace"): value for key, value in records.items()}
            campaigns, refused = compile_campaigns(docs, self._shop, campaigns)
            for refusal in refused:
                logger.error("campaign %s refused, its last valid version goes on: %s", refusal.id, refusal.message)
        if "models" in names:
            model = self._new_model(model)
        self._in_force = InForce(model, campaigns)

    def _new_model(self, model: Model | None) -> Model | None:
        """The champion, verified; the one in force where there is none, or it is refused."""
        records = self._followed[self._settings.topic("models")].records
        data = None
        try:
            data = champion(records)
            if data is None or data is self._refused:
                return model
            new = load(data)
        except ModelRefused as refusal:
            self._refused = data  # not verified again at each change of the topic
            self._metrics.model_refused.labels(refusal.reason.name.lower()).inc()
            logger.error("model refused, %s goes on: %s", model.hex[:12] if model else "no model", refusal)  # noqa: TRY400
            return model
        if model is not None and new.hash == model.hash:
            return model
        self._metrics.model_info.clear()
        self._metrics.model_info.labels(new.hex).set(1)
        logger.info("model in force: %s", new.hex[:12])
        return new

    def _new_segments(self) -> bool:
        """Put the published segments in force, unless they are refused; whether campaigns have others to ask now."""
        data = segments_in(self._followed[self._settings.topic("models")].records)
        before = self._segments
        if data is None:
            self._segments = None
        elif data is not self._segments_refused:
            try:
                self._segments = load_segmenter(data)
            except ModelRefused as refusal:
                self._segments_refused = data
                self._metrics.model_refused.labels(refusal.reason.name.lower()).inc()
                logger.error("segments refused, those before go on: %s", refusal)  # noqa: TRY400
        if (self._segments and self._segments.hex) == (before and before.hex):
            return False
        logger.info("segments in force: %s", self._segments.hex[:12] if self._segments else "none")
        learned = self._segments.of if self._segments else None
        self._shop = self._shop._replace(segment_rules=replace(SEGMENT_RULES, learned=learned))
        return True
