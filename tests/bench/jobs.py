"""What is measured, in order, and the rows of var/bench.json that come of it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress as Bars

from tests.bench import measure, restore
from tests.bench.kafka import Kafka
from tests.bench.latency import latencies_ms
from tests.bench.load import LOGS_MAX, SPAN_MS, TRIGGER, Record, clicks, profiles, publish, users_at_random, users_zipf
from tests.bench.measure import Marks, Measured
from tests.bench.program import MODULE, Program, ProgramError
from tests.bench.report import WINDOW_MODEL
from tests.bench.streams.build import NoPeerError, java_command
from tests.bench.system import Faust, KafkaStreams, Offerstream, Peer, System
from training.seeded import N_UNITS, seeded_window_model

Row = dict[str, Any]
Draw = Callable[[np.random.Generator, int, int], NDArray[np.int64]]

HOT_SLOTS = 100_000
LATENCY_PER_S = 50.0
LOAD_PER_S = 10_000
"""Events a second beside those whose latency is taken at load; broker, publisher and reader share the machine."""

LOAD_SHARE_MIN = 0.95
"""Of it that must be published, or the figure says nothing."""

STREAMS_COMMIT_MS = 10
"""Kafka Streams' second latency: tuned for it, where its default is 100."""

BESIDE = ", beside Kafka Streams"
"""Behind the names of jobs that both were given."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    users_few: int
    users_many: int
    events: int
    peer_s: float
    peer_events: int
    latency_s: float
    warm_events: int
    """Done by the JVM before its rate is taken."""
    restore_users: int
    tail_events: int


FULL = Sizes(
    20_000, 1_000_000, 1_000_000, peer_s=30, peer_events=60_000, latency_s=60,
    warm_events=100_000, restore_users=500_000, tail_events=50_000,
)  # fmt: skip
QUICK = Sizes(
    20_000, 100_000, 200_000, peer_s=8, peer_events=5_000, latency_s=10,
    warm_events=20_000, restore_users=50_000, tail_events=5_000,
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One log, worked off with all rows in memory and with a hot part."""

    title: str
    draw: Draw


class Bench:
    """One run of the benchmark on one broker.

    Args:
        kafka: where.
        folder: for data and logs of the programs.
        sizes: how much.
        seed: of everything that is drawn.
        bars: where progress is shown.
        guarantees: of our worker. The jobs with many users take the first. Faust's is at least once.
        peers: also measure plain Faust.
    """

    def __init__(
        self, kafka: Kafka, folder: Path, sizes: Sizes, seed: int, bars: Bars, guarantees: Sequence[str], *, peers: bool
    ) -> None:
        self.rows: list[Row] = []
        self._kafka = kafka
        self._folder = folder
        self._sizes = sizes
        self._seed = seed
        self._guarantees = guarantees
        self._bars = bars
        self._peers = peers
        self._log_end_ms = time.time_ns() // 1_000_000 - LOGS_MAX * SPAN_MS
        self._n_logs = 0

    def few_users(self) -> None:
        """The job with few users, and latency."""
        users = self._sizes.users_few
        for guarantee in self._guarantees:
            with_peer = self._peers and guarantee == self._guarantees[0]
            ours, peer = self._prepare(f"few-{guarantee}", users, guarantee, peers=with_peer)
            self._job(ours, peer, users, Job(f"{users:,} users", users_at_random))
            self._latency(ours, users)
            self._latency_at_load(ours, users)
            if peer:
                self._latency(peer, users)

    def many_users(self) -> None:
        """The jobs with many users."""
        users = self._sizes.users_many
        ours, peer = self._prepare("many", users, self._guarantees[0], peers=self._peers)
        self._job(ours, peer, users, Job(f"{users:,} users at random", users_at_random))
        self._job(ours, peer, users, Job(f"{users:,} users, Zipf", users_zipf))

    def streams(self) -> None:
        """Kafka Streams beside ours, exactly once: the job on the same events, latency, restore; ours with a window.

        Without a JDK ours alone, and a line that says so.
        """
        users, kafka, guarantee = self._sizes.users_few, self._kafka, "exactly_once"
        java: list[str] = []
        if self._peers:
            try:
                with self._bar("kafka-streams: built by Maven", 1):
                    java = java_command()
            except NoPeerError as error:
                self._bars.console.print(f"kafka-streams left out: {error}", markup=False, highlight=False)
        ours, _ = self._prepare("streams", users, guarantee, peers=False)
        title = f"{users:,} users{BESIDE}"
        peer = KafkaStreams(kafka, self._folder, "kafka-streams", ours.prefix, self._seed, java) if java else None
        if peer:
            peer.give_rows(users, self._seed)
        self._backlog(ours, peer, users, title, users_at_random)
        self._latency(ours, users, BESIDE)
        if peer:
            self._latency(peer, users, BESIDE)
            peer.commit_ms = STREAMS_COMMIT_MS
            self._latency(peer, users, f"{BESIDE}, commits every {STREAMS_COMMIT_MS} ms")
        rows, restored = restore.rows_left_by(kafka, ours), self._sizes.restore_users
        # Topics of their own, so that these begin with nothing but the rows.
        other = Offerstream(kafka, self._folder, "restore", self._seed, guarantee)
        with self._bar("offerstream: restore and restarts", self._sizes.tail_events) as report:
            self.rows += restore.ours(kafka, other, rows, restored, self._sizes.tail_events, report)
        if java:
            peer = KafkaStreams(kafka, self._folder, "restore-streams", other.prefix, self._seed, java)
            with self._bar("kafka-streams: restore and restarts", 1):
                self.rows += restore.kafka_streams(kafka, peer, rows, restored, self._sizes.tail_events)
        ours, _ = self._prepare(
            "streams-window", users, guarantee, peers=False, model=seeded_window_model(self._seed, N_UNITS)
        )
        self._backlog(ours, None, users, title + WINDOW_MODEL, users_at_random)

    @contextmanager
    def _bar(self, title: str, total: float) -> Iterator[Callable[[int], None]]:
        task = self._bars.add_task(title, total=total)
        began_s = time.monotonic()
        yield lambda done: self._bars.update(task, completed=done)
        self._bars.update(task, completed=total)
        if not self._bars.console.is_terminal:  # bars are drawn at the end there
            self._bars.console.print(f"{title}: {time.monotonic() - began_s:.0f} s")

    def _prepare(
        self, title: str, users: int, guarantee: str, *, peers: bool, model: bytes | None = None
    ) -> tuple[Offerstream, Faust | None]:
        """Both systems, each with a row for every user."""
        kafka, seed = self._kafka, self._seed
        ours = Offerstream(kafka, self._folder, title, seed, guarantee, model)
        with self._bar(f"{users:,} profiles and first events", 2 * users) as report:
            self._next_span()
            publish(kafka.bootstrap, profiles(users, self._log_end_ms - SPAN_MS), ours.prefix)
            report(users)
            rng = np.random.default_rng([seed, users])
            first = clicks(rng, rng.permutation(users), self._log_end_ms, f"{title}-first")
            publish(kafka.bootstrap, (self._no_trigger(record) for record in first), ours.prefix)
        with self._bar(f"{users:,} users: offerstream makes their rows", 2 * users) as report, ours.start() as program:
            measure.whole_backlog(kafka, ours, program, 2 * users, report)
        if not peers:
            return ours, None
        peer = Faust(kafka, self._folder, f"{title}-peer", ours.prefix, seed)
        with self._bar(f"{users:,} rows for Faust", users):
            peer.give_rows(users, seed)
        return ours, peer

    @staticmethod
    def _no_trigger(record: Record) -> Record:
        return record._replace(value=record.value.replace(f'"{TRIGGER}"'.encode(), b'"product_view"'))

    def _job(self, ours: Offerstream, peer: Faust | None, users: int, job: Job) -> None:
        self._backlog(ours, peer, users, job.title, job.draw)
        self._backlog(ours, None, users, f"{job.title}, hot part {HOT_SLOTS:,}", job.draw, HOT_SLOTS)

    def _backlog(
        self, ours: Offerstream, peer: Peer | None, users: int, title: str, draw: Draw, hot_slots: int | None = None
    ) -> None:
        """One log, worked off by ours and then, as much as there is time for, by a peer."""
        if peer:
            peer.skip_to_end()
        drawn, triggers = self._publish_log(ours, users, draw)
        marks = Marks.take(self._kafka, ours)
        hot_rows = None if hot_slots is None else hot_slots // self._kafka.partitions
        with self._bar(f"offerstream: {title}", len(drawn)) as report, ours.start(hot_rows=hot_rows) as program:
            measured = measure.whole_backlog(self._kafka, ours, program, len(drawn), report)
            held = ours.loop_held()
        measured.disk_bytes += program.disk_bytes
        committed = self._kafka.committed(ours.group, ours.source)
        if committed != self._kafka.end(ours.source):
            raise measure.OutputError(f"{committed} events were committed, {self._kafka.end(ours.source)} published")
        measure.check_outputs(self._kafka, ours, marks, triggers=triggers, users=len(np.unique(drawn)), rows=len(drawn))
        self._add(ours, title, users, measured, len(drawn), loop_held=held)
        if peer:
            self._peer_job(peer, title, users)

    def _peer_job(self, peer: Peer, title: str, users: int) -> None:
        began = self._kafka.committed_offsets(peer.group, peer.source)
        sizes = self._sizes
        warm = sizes.warm_events if isinstance(peer, KafkaStreams) else 0
        with self._bar(f"{peer.name}: {title}", sizes.peer_events) as report, peer.start() as program:
            measured = measure.steady_rate(
                self._kafka, peer, program, sum(began.values()) + warm, sizes.peer_s, sizes.peer_events, report
            )
        measured.disk_bytes += program.disk_bytes
        if isinstance(peer, KafkaStreams):
            measure.check_streams(self._kafka, peer, began)
        else:
            measure.check_peer(self._kafka, peer)
        self._add(peer, title, users, measured, measured.events)

    def _next_span(self) -> None:
        """Event times of the next log begin where those of the last one end."""
        self._log_end_ms += SPAN_MS
        if self._log_end_ms > time.time_ns() // 1_000_000:
            raise ProgramError(f"more than {LOGS_MAX} logs in one run: event times would lie in the future")

    def _publish_log(self, ours: Offerstream, users: int, draw: Draw) -> tuple[NDArray[np.int64], int]:
        """A backlog; its users, and how many triggers it has."""
        self._n_logs += 1
        self._next_span()
        rng = np.random.default_rng([self._seed, self._n_logs])
        drawn = draw(rng, users, self._sizes.events)
        triggers = 0
        wanted = f'"{TRIGGER}"'.encode()

        def counted(records: Iterable[Record]) -> Iterator[Record]:
            nonlocal triggers
            with self._bar(f"publishing {len(drawn):,} events", len(drawn)) as report:
                for n, record in enumerate(records):
                    triggers += wanted in record.value
                    if n % 10_000 == 0:
                        report(n)
                    yield record

        publish(self._kafka.bootstrap, counted(clicks(rng, drawn, self._log_end_ms, f"log{self._n_logs}")), ours.prefix)
        return drawn, triggers

    def _add(
        self, system: System, job: str, users: int, measured: Measured, events: int, **more: dict[str, int]
    ) -> None:
        broker, n = measured.broker_bytes, measured.events
        self.rows.append(
            {
                "system": system.name,
                "job": job,
                "guarantee": system.guarantee,
                "users": users,
                "events": events,
                "events_per_s": round(measured.events_per_s),
                "us_per_event": {stage: round(us, 3) for stage, us in measured.stage_us.items()}
                | {"processor": round(measured.cpu_s / n * 1e6, 3)},
                "row_bytes": round(measured.row_bytes),
                "written_bytes_per_event": None if broker is None else round((broker + measured.disk_bytes) / n),
                "rss_mb": measured.rss_max_bytes >> 20,
                **more,
                **self._computes(system),
            }
        )

    @staticmethod
    def _computes(system: System) -> Row:
        """What it does for an event, and what was chosen for a peer; ours is measured as it is delivered."""
        return {"network": system.network} | ({"settings": system.peer_settings} if system.peer_settings else {})

    def _latency(self, system: System, users: int, beside: str = "") -> None:
        if isinstance(system, Peer):
            system.skip_to_end()
        with self._latency_bar(f"{system.name}: latency{beside}") as report, system.start(latency=True) as program:
            self._wait_until_up(system)
            found = self._latencies_ms(system, program, users, report)
        self._add_latency(system, users, beside, found)

    def _latency_at_load(self, ours: Offerstream, users: int) -> None:
        """The same triggers among many more events."""
        kafka, load = self._kafka, f" beside {LOAD_PER_S:,} others"
        environment = {
            "PEER_BOOTSTRAP": kafka.bootstrap,
            "PEER_PREFIX": ours.prefix,
            "PEER_USERS": str(users),
            "PEER_RATE_PER_S": str(LOAD_PER_S),
            "PEER_SEED": str(self._seed),
        }
        log = self._folder / "beside.log"
        with self._latency_bar(f"{ours.name}: latency{load}") as report, ours.start(latency=True) as program:
            self._wait_until_up(ours)
            began = kafka.end(ours.source)
            with Program([*MODULE, "tests.bench.beside"], environment, log) as others:
                while kafka.end(ours.source) == began:
                    others.check()
                    time.sleep(measure.POLL_S)
                began, (batches, took_s), began_s = kafka.end(ours.source), ours.batches(), time.monotonic()
                found = self._latencies_ms(ours, program, users, report)
                others.check()
                rate = (kafka.end(ours.source) - began) / (time.monotonic() - began_s)
                more_batches, more_s = ours.batches()
        if rate < LOAD_SHARE_MIN * LOAD_PER_S:
            raise ProgramError(f"{rate:,.0f} events/s were published, not {LOAD_PER_S:,}:\n{others.log_tail()}")
        batch_ms = (more_s - took_s) / (more_batches - batches) * 1000
        self._add_latency(ours, users, load, found, load_per_s=round(rate), batch_ms=round(batch_ms, 2))

    def _latency_bar(self, title: str) -> AbstractContextManager[Callable[[int], None]]:
        return self._bar(title, LATENCY_PER_S * self._sizes.latency_s)

    def _latencies_ms(
        self, system: System, program: Program, users: int, report: Callable[[int], None]
    ) -> NDArray[np.float64]:
        seconds = self._sizes.latency_s
        return latencies_ms(self._kafka, system, program, users, LATENCY_PER_S, seconds, self._seed, report)

    def _add_latency(self, system: System, users: int, about: str, found: NDArray[np.float64], **more: float) -> None:
        p50, p99 = np.percentile(found, [50, 99])
        self.rows.append(
            {
                "system": system.name,
                "job": f"latency from publish to offer readable, {LATENCY_PER_S:g} events/s{about}",
                "guarantee": system.guarantee,
                "users": users,
                "events": len(found),
                "events_per_s": LATENCY_PER_S,
                "latency_ms": {"p50": round(float(p50), 2), "p99": round(float(p99), 2)},
                **more,
                **self._computes(system),
            }
        )

    def _wait_until_up(self, system: System) -> None:
        """It reads what comes."""
        deadline_s = time.monotonic() + measure.START_TIMEOUT_S
        while not system.is_ready():
            if time.monotonic() > deadline_s:
                raise ProgramError(f"{system.name} is not ready after {measure.START_TIMEOUT_S:g} s")
            time.sleep(0.1)
