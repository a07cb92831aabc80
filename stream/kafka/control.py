"""The control topics: models and campaigns, read whole before the first batch, then followed.

Verifying a model takes a while, so it happens on the follower's thread; a batch sees one frozen `InForce` from
beginning to end. The same thread looks how the models in force do; one that has to go is withdrawn here at once, and
from all workers by a record in the topic.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.campaigns.control import Shop, compile_campaigns
from stream.core.campaign import CampaignSet
from stream.core.segments import SEGMENT_RULES
from stream.errors import DeliveryError
from stream.kafka.topics import Outgoing, Topics, publish
from stream.metrics import Metrics
from stream.scoring.artefact import ModelRefused
from stream.scoring.files import verifier
from stream.scoring.scorer import Scorer
from stream.scoring.segments import Segmenter, load_segmenter, segments_in
from stream.scoring.shelf import Shelf
from stream.scoring.watch import Limits
from stream.settings import Settings, client_id

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_LOOK_INTERVAL_S = 0.5
"""How often the models in force are looked after."""


class InForce(NamedTuple):
    """What a batch is scored and decided with."""

    scorer: Scorer
    campaigns: CampaignSet


@dataclass
class _Followed:
    name: str
    name_full: str
    records: dict[bytes, bytes]
    position: int = 0


class Control:
    """Follows `models` and `campaigns` on a thread of its own."""

    def __init__(self, settings: Settings, metrics: Metrics, fatal: Callable[[BaseException], None]) -> None:
        """Not started; `fatal` ends the process when following fails for a reason that should not be.

        Raises:
            SetupError: signatures cannot be checked.
        """
        self._fatal = fatal
        self._settings = settings
        self._metrics = metrics
        self._shop = Shop(settings.timezone, settings.currency)
        self._models, campaigns = (_Followed(name, settings.topic(name), {}) for name in ("models", "campaigns"))
        self._followed = {one.name_full: one for one in (self._models, campaigns)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)
        self._in_force = InForce(Scorer(), compile_campaigns({}, self._shop)[0])
        limits = Limits(
            settings.score_us_max, settings.score_psi_max, settings.drift_psi_max, settings.model_probation_ms
        )
        self._shelf = Shelf(limits, verifier(settings.model_key), self._refused)
        self._look_s = 0.0
        self._segments: Segmenter | None = None
        self._segments_file: bytes | None = None
        """The one last looked at, in force or refused."""

    def in_force(self) -> InForce:
        """The latest valid model and campaigns."""
        return self._in_force

    def start(self) -> None:
        """Read both topics to their end, then follow them.

        Raises:
            SetupError: a topic is missing or no broker answers.
        """
        with Topics(self._settings.bootstrap) as topics:
            for place in topics.places(self._followed):
                topics.watermarks(*place)
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
        self._consumer.assign([TopicPartition(topic, 0, 0) for topic in self._followed])
        behind = set(self._followed)
        while behind:
            behind -= self._read(_TIMEOUT_S)
        self._take(set(self._followed))
        self._thread.start()

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
                if time.monotonic() - self._look_s > _LOOK_INTERVAL_S:
                    self._look_s = time.monotonic()
                    self._look()
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
        scorer, campaigns = self._in_force
        others = "models" in names and self._new_segments()
        if "campaigns" in names or others:
            records = self._followed[self._settings.topic("campaigns")].records
            docs = {key.decode("utf-8", "replace"): value for key, value in records.items()}
            campaigns, refused = compile_campaigns(docs, self._shop, campaigns)
            for refusal in refused:
                logger.error("campaign %s refused, its last valid version goes on: %s", refusal.id, refusal.message)
        if "models" in names:
            scorer = self._shelf.scorer(self._models.records, scorer)
            self._tell_of(scorer)
        self._in_force = InForce(scorer, campaigns)

    def _refused(self, refusal: ModelRefused) -> None:
        self._metrics.model_refused.labels(refusal.reason.name.lower()).inc()

    def _tell_of(self, scorer: Scorer) -> None:
        before = self._in_force.scorer
        if scorer.hex != before.hex:
            logger.info("model in force: %s", scorer.hex[:12] or "none")
            self._metrics.model_info.clear()
            if scorer.hex:
                self._metrics.model_info.labels(scorer.hex).set(1)
        trial = scorer.trial
        if trial != before.trial:
            self._metrics.challenger_info.clear()
            if trial is not None:
                logger.info("on trial: %s, %s of %g", trial.watched.model.hex[:12], trial.mode, trial.share)
                self._metrics.challenger_info.labels(trial.watched.model.hex, trial.mode.value).set(1)

    def _look(self) -> None:
        """See how the models do: what has to go, goes here first, then everywhere."""
        scorer, records = self._in_force.scorer, self._models.records
        _tell_how(scorer, self._metrics)
        try:
            verdicts = self._shelf.verdicts(records, scorer, time.time_ns() // 1_000_000)
        except ModelRefused:
            return  # an unreadable pointer was told of when it came
        for verdict in verdicts:
            name = verdict.key.decode()
            if verdict.fault is None:
                logger.warning("%s: %s", name, verdict.text)
                self._metrics.retrain_wanted.inc()
            else:
                logger.error("%s: %s", name, verdict.text)
                self._metrics.model_withdrawn.labels(verdict.fault.value).inc()
            records[verdict.key] = verdict.value
            self._take({self._models.name_full})
            try:
                outgoing = Outgoing(0, verdict.key, verdict.value, [])
                publish(self._settings.bootstrap, self._models.name_full, [outgoing])
            except DeliveryError as error:  # other workers will see for themselves
                logger.error("%s is known to this worker only: %s", name, error)  # noqa: TRY400

    def _new_segments(self) -> bool:
        """Put the published segments in force, unless they are refused; whether campaigns have others to ask now."""
        data = segments_in(self._models.records)
        if data is self._segments_file:
            return False
        self._segments_file, before = data, self._segments
        try:
            self._segments = None if data is None else load_segmenter(data)
        except ModelRefused as refusal:
            self._refused(refusal)
            logger.error("segments refused, those before go on: %s", refusal)  # noqa: TRY400
        if (self._segments and self._segments.hex) == (before and before.hex):
            return False
        logger.info("segments in force: %s", self._segments.hex[:12] if self._segments else "none")
        learned = self._segments.of if self._segments else None
        self._shop = self._shop._replace(segment_rules=replace(SEGMENT_RULES, learned=learned))
        return True


def _tell_how(scorer: Scorer, metrics: Metrics) -> None:
    """Show how the models in force do."""
    names = {one.model.hex for one in scorer.watched}
    shown = {sample.labels["hash"] for metric in metrics.model_scored.collect() for sample in metric.samples}
    for name in shown - names:
        metrics.model_scored.remove(name)
    for one in scorer.watched:
        metrics.model_scored.labels(one.model.hex).set(one.watch.scored)
    if scorer.trial is not None:
        watch = scorer.trial.watched.watch
        for what, value in (("events", watch.compared), ("sum", watch.difference_sum), ("max", watch.difference_max)):
            metrics.shadow.labels(what).set(value)
    if scorer.champion is not None:
        for name, psi in scorer.champion.watch.psi().items():
            metrics.drift_psi.labels(name).set(psi)
