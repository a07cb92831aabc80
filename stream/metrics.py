"""What a worker tells Prometheus, under the names in docs/metrics.md, and how long the event loop is held.

One `Metrics` a worker, made by the composition root on a registry of its own and passed on; nothing is registered on
import. Children with fixed label values are bound once (`metrics.stage["decode"].observe(s)`), since the look-up costs
more than the observation.
"""

import asyncio
import time
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from stream.core.events import SOURCES

STAGES = ("decode", "absorb", "score", "decide", "emit", "commit", "store")
"""What a batch goes through, in order."""

OUTCOMES = ("applied", "duplicate", "fenced", "dead")
"""What becomes of a record read from a source: exactly one of these."""

TIMELY = ("late", "reordered", "ahead")
"""What event time has to say of an event that was applied."""

ROWS_WHERE = ("hot", "stored")

LOOP_HELD_MIN_S = 0.001
"""A shorter turn of the event loop is not observed: there are tens of thousands a second, and none is of interest."""

_BATCH_ROWS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_STAGE_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
_LATENCY_BUCKETS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_HELD_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class Metrics:
    """Every metric of a worker. Counting is safe from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.events = Counter(
            "offerstream_events",
            "Records read from a source topic, by what became of them",
            ("source", "outcome"),
            registry=registry,
        )
        self.event = MappingProxyType({(s, o): self.events.labels(s, o) for s in SOURCES for o in OUTCOMES})
        self.events_by_time = Counter(
            "offerstream_event_time",
            "Applied events that came late, were put in order within their batch, or are ahead of their publication",
            ("source", "what"),
            registry=registry,
        )
        self.event_time = MappingProxyType({(s, w): self.events_by_time.labels(s, w) for s in SOURCES for w in TIMELY})
        self.dead_letters = Counter(
            "offerstream_dead_letters", "Records that became dead letters, by reason", ("reason",), registry=registry
        )
        self.erasures = Counter(
            "offerstream_erasures", "Rows removed because their users asked to be forgotten", registry=registry
        )
        self.rows_merged = Counter(
            "offerstream_rows_merged", "Rows of anonymous ids merged into those of their users", registry=registry
        )
        self.events_lost = Counter(
            "offerstream_events_lost", "Events that retention deleted before they were applied", registry=registry
        )
        self.unknown_fields = Counter(
            "offerstream_unknown_fields",
            "Fields of events that the contract does not know",
            ("source",),
            registry=registry,
        )
        self.decisions = Counter(
            "offerstream_decisions", "Decisions, offered or not, by reason", ("reason",), registry=registry
        )
        self.offers = Counter("offerstream_offers", "Offers made, by campaign", ("campaign",), registry=registry)
        self.swept_rows = Counter(
            "offerstream_swept_rows", "Rows that sweeps came by, looking for users who fell silent", registry=registry
        )
        self.silences = Counter(
            "offerstream_silences", "Silences of users that fell due, for a campaign to answer", registry=registry
        )
        self.batch_rows = Histogram(
            "offerstream_batch_rows", "Records in a batch", buckets=_BATCH_ROWS_BUCKETS, registry=registry
        )
        self.stage_seconds = Histogram(
            "offerstream_stage_seconds",
            "Time that one stage took for one batch",
            ("stage",),
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self.stage = MappingProxyType({stage: self.stage_seconds.labels(stage) for stage in STAGES})
        self.offer_latency = Histogram(
            "offerstream_offer_latency_seconds",
            "From the trigger's publish time until its offer was acknowledged by the broker",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.lag_events = Gauge(
            "offerstream_lag_events",
            "Records between the applied offset and the end of the log",
            ("topic", "partition"),
            registry=registry,
        )
        self.restore_rows = Counter(
            "offerstream_restore_rows", "Rows read from the changelog while taking over partitions", registry=registry
        )
        self.restoring = Gauge(
            "offerstream_restoring", "Partitions being restored; their events wait", registry=registry
        )
        self.standbys = Gauge(
            "offerstream_standbys", "Partitions of other workers whose rows are followed here", registry=registry
        )
        self.passed_over = Counter(
            "offerstream_passed_over",
            "Batches that did not continue where their partition's rows stand, and were read again",
            registry=registry,
        )
        self.transactions_failed = Counter(
            "offerstream_transactions_failed",
            "Transactions that failed: each costs taking its partition over anew",
            registry=registry,
        )
        self.model_info = Gauge("offerstream_model_info", "1 for the model in force", ("hash",), registry=registry)
        self.model_refused = Counter(
            "offerstream_model_refused", "Published models that were not taken over", ("reason",), registry=registry
        )
        self.challenger_info = Gauge(
            "offerstream_challenger_info", "1 for the model on trial", ("hash", "mode"), registry=registry
        )
        self.model_withdrawn = Counter(
            "offerstream_model_withdrawn",
            "Models that this worker took out of force, here and everywhere, by their fault",
            ("fault",),
            registry=registry,
        )
        self.model_scored = Gauge(
            "offerstream_model_scored", "Events scored by each model in force", ("hash",), registry=registry
        )
        self.shadow = Gauge(
            "offerstream_shadow",
            "Events that a challenger scored in the shadow, and absolute differences to the champion's scores",
            ("what",),
            registry=registry,
        )
        self.drift_psi = Gauge(
            "offerstream_drift_psi",
            "Population stability index of the champion's score and of each feature against its training data",
            ("of",),
            registry=registry,
        )
        self.retrain_wanted = Counter(
            "offerstream_retrain_wanted", "Champions that this worker asked a successor for: drift", registry=registry
        )
        self.loop_held = Histogram(
            "offerstream_loop_held_seconds",
            "Turns of the event loop that held it for a millisecond or longer",
            buckets=_HELD_BUCKETS_S,
            registry=registry,
        )
        self.rows_gauge = Gauge("offerstream_rows", "User rows, by where they are", ("where",), registry=registry)
        self.rows = MappingProxyType({where: self.rows_gauge.labels(where) for where in ROWS_WHERE})
        self.odd = Gauge(
            "offerstream_offers_odd",
            "What was told of offers under a budget and did not fit, of the partitions served",
            ("what",),
            registry=registry,
        )
        self.row_bytes = Gauge(
            "offerstream_row_bytes", "Mean packed size of the rows of the latest commit", registry=registry
        )
        self._restore_rows_read = 0
        # process_resident_memory_bytes, process_cpu_seconds_total, process_open_fds, ...
        ProcessCollector(registry=registry)

    def count_restored(self, n: int) -> None:
        """Count rows read from a changelog."""
        self._restore_rows_read += n
        self.restore_rows.inc(n)

    def restore_rows_read(self) -> int:
        """Of all take-overs: what moves while one makes progress."""
        return self._restore_rows_read


class Tally:
    """What is to be counted once it is stored.

    What was computed and not committed is thrown away with a take-over and computed again: its counts go with it.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._counts: dict[Counter, int] = {}

    def add(self, counter: Counter, n: int = 1) -> None:
        """Count `n` more when `settle` is called."""
        self._counts[counter] = self._counts.get(counter, 0) + n

    def settle(self) -> None:
        """It is stored: count."""
        for counter, n in self._counts.items():
            counter.inc(n)


class Stopwatch:
    """Adds up how long the stages of one batch take; each may come round several times."""

    def __init__(self) -> None:
        self._stages_s: dict[str, float] = {}
        self._began_s = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """What has passed since the last call was this stage."""
        now_s = time.perf_counter()
        self._stages_s[stage] = self._stages_s.get(stage, 0) + now_s - self._began_s
        self._began_s = now_s

    def report(self, metrics: Metrics) -> None:
        """Observe each stage once."""
        for stage, seconds in self._stages_s.items():
            metrics.stage[stage].observe(seconds)


def loop_monitor(loop: asyncio.AbstractEventLoop, held: Histogram) -> None:
    """Observe for how long each turn of `loop` holds it, from now on.

    A turn is the time between two waits for input: whatever arrives meanwhile has to wait that long. Measured exactly,
    where the loop waits, and not by a timer, which would miss holds shorter than its interval.

    Raises:
        TypeError: the loop is not one of asyncio's selector loops.
    """
    selector = getattr(loop, "_selector", None)  # asyncio offers no public way to a running loop's selector
    if selector is None:
        raise TypeError(f"cannot measure {type(loop).__name__}: it waits without a selector")
    wait = selector.select
    clock = time.perf_counter
    began_s = clock()

    def measured_wait(timeout: float | None = None) -> object:
        nonlocal began_s
        turn_s = clock() - began_s
        if turn_s >= LOOP_HELD_MIN_S:
            held.observe(turn_s)
        try:
            return wait(timeout)
        finally:
            began_s = clock()

    selector.select = measured_wait
