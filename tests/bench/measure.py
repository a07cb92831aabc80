"""Events a second from first to last event, seen from outside; and that what should be written really was."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bench.kafka import Kafka
from tests.bench.load import TRIGGER
from tests.bench.program import Program, ProgramError
from tests.bench.system import KafkaStreams, Offerstream, Peer, Progress, System

START_TIMEOUT_S = 300.0
STALL_TIMEOUT_S = 60.0
POLL_S = 0.2
POLL_END_S = 0.02
QUIET_S = 1.0
"""The last output is taken for the last when nothing followed for so long."""

Report = Callable[[int], None]
"""Told how many events are done."""


@dataclass
class Measured:
    """One job on one system."""

    events: int
    """Between the first and the last look, hence what the rate is of."""
    wall_s: float
    cpu_s: float
    """Of the system's process, without the broker's."""
    stage_us: dict[str, float]
    """An event."""
    row_bytes: float
    rss_max_bytes: int
    broker_bytes: int | None
    """Appended to changelog, offers, decisions and dead letters, compressed as they are."""
    disk_bytes: int = 0
    """Written by the process itself, until it has stopped: its local store."""

    @property
    def events_per_s(self) -> float:
        """The rate."""
        return self.events / self.wall_s


@dataclass(frozen=True)
class _Look:
    at_s: float
    events: int
    cpu_s: float
    said: Progress
    broker_bytes: int | None
    disk_bytes: int


def _wait_for_start(
    program: Program, ask: Callable[[], tuple[int, Progress] | None], already: int
) -> tuple[int, Progress]:
    """The first look after the first event."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        program.check()
        found = ask()
        if found is not None and found[0] > already:
            return found
        time.sleep(POLL_END_S)
    raise ProgramError(f"no event was processed within {START_TIMEOUT_S:g} s:\n{program.log_tail()}")


def whole_backlog(kafka: Kafka, system: Offerstream, program: Program, events: int, report: Report) -> Measured:
    """Let a worker that was just started work off a backlog.

    The time ends where the last record was written to any output topic, so nothing that is still under way is left out.
    The number of events done comes from the worker's metrics; afterwards the offsets it committed must say the same.

    Args:
        kafka: where.
        system: whose worker.
        program: its process.
        events: in the backlog.
        report: for a progress bar.

    Raises:
        ProgramError: it ended, stood still, or its offsets say something else.
    """

    def ask() -> tuple[int, Progress] | None:
        said = system.progress()
        return None if said is None else (said.events, said)

    done, said = _wait_for_start(program, ask, 0)
    first = _Look(
        time.monotonic(),
        done,
        program.cpu_s(),
        said,
        kafka.log_bytes(system.written_topics),
        program.disk_bytes_so_far(),
    )
    moved_s, last = first.at_s, done
    while last < events:
        rate = (last - first.events) / max(time.monotonic() - first.at_s, 1e-3)
        left_s = (events - last) / max(rate, 1.0)
        time.sleep(min(max(left_s / 2, POLL_END_S), POLL_S))
        program.check()
        said = system.progress() or said
        if said.events > last:
            moved_s, last = time.monotonic(), said.events
        elif time.monotonic() - moved_s > STALL_TIMEOUT_S:
            refused = system.outcome("dead")
            raise ProgramError(
                f"it stands still at {last} of {events} events, {refused} were refused:\n{program.stacks()}"
            )
        report(last)
    # Its last commit may be under way.
    ended_s, cpu_s = time.monotonic(), program.cpu_s()
    ends = {topic: kafka.ends(topic) for topic in system.written_topics}
    while time.monotonic() < ended_s + QUIET_S:
        time.sleep(POLL_END_S)
        now = {topic: kafka.ends(topic) for topic in system.written_topics}
        if now != ends:
            ends, ended_s, cpu_s = now, time.monotonic(), program.cpu_s()
    said = system.progress() or said
    if said.events != events:
        raise ProgramError(f"{said.events} events were applied, not the {events} that were published")
    n = events - first.events
    return Measured(
        events=n,
        wall_s=ended_s - first.at_s,
        cpu_s=cpu_s - first.cpu_s,
        stage_us={stage: (us - first.said.stage_us.get(stage, 0)) / n for stage, us in said.stage_us.items()},
        row_bytes=said.row_bytes,
        rss_max_bytes=program.rss_max_bytes,
        broker_bytes=_difference(first.broker_bytes, kafka.log_bytes(system.written_topics)),
        disk_bytes=-first.disk_bytes,
    )


def steady_rate(
    kafka: Kafka, system: Peer, program: Program, already: int, seconds: float, events_min: int, report: Report
) -> Measured:
    """The rate at which a peer that was just started works on a backlog that it need not finish.

    From the offsets that it commits: from the first commit beyond `already` until `seconds` have passed and
    `events_min` events were done, or the backlog is.

    Raises:
        ProgramError: it ended or does not begin.
    """

    def ask() -> tuple[int, Progress] | None:
        said = system.progress()
        return None if said is None else (kafka.committed(system.group, system.source), said)

    end = kafka.end(system.source)
    done, said = _wait_for_start(program, ask, already)
    first = _Look(
        time.monotonic(),
        done,
        program.cpu_s(),
        said,
        kafka.log_bytes(system.written_topics),
        program.disk_bytes_so_far(),
    )
    last = first
    while last.events < end and (last.at_s - first.at_s < seconds or last.events - first.events < events_min):
        time.sleep(POLL_END_S)
        program.check()
        now_s = time.monotonic()
        found = ask()
        if found is not None and found[0] > last.events:
            last = _Look(now_s, found[0], program.cpu_s(), found[1], kafka.log_bytes(system.written_topics), 0)
            report(last.events - first.events)
        elif now_s - last.at_s > STALL_TIMEOUT_S:
            raise ProgramError(f"it stands still at {last.events - already} events:\n{program.log_tail()}")
    n = last.events - first.events
    n_said = max(last.said.events - first.said.events, 1)
    wall_s = last.at_s - first.at_s
    stage_us = {stage: (us - first.said.stage_us[stage]) / n_said for stage, us in last.said.stage_us.items()}
    # What none of the job's own stages took: Faust's machinery for each event, and waiting.
    stage_us["framework"] = max(wall_s / n * 1e6 - sum(stage_us.values()), 0.0)
    return Measured(
        events=n,
        wall_s=wall_s,
        cpu_s=last.cpu_s - first.cpu_s,
        stage_us=stage_us,
        row_bytes=last.said.row_bytes,
        rss_max_bytes=program.rss_max_bytes,
        broker_bytes=_difference(first.broker_bytes, last.broker_bytes),
        disk_bytes=-first.disk_bytes,
    )


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


STOPS_MAX = 3
"""Faust stops between the decision on an event and its offer at most once a run."""


class OutputError(AssertionError):
    """A system did not write what the job makes it write; its rate means nothing."""


@dataclass(frozen=True)
class Marks:
    """Where the output topics stood before a job."""

    ends: dict[str, dict[int, int]]

    @classmethod
    def take(cls, kafka: Kafka, system: System) -> "Marks":
        """Now."""
        return cls({topic: kafka.ends(topic) for topic in system.written_topics})


def check_outputs(
    kafka: Kafka, system: Offerstream, marks: Marks, *, triggers: int, users: int, rows: int
) -> dict[str, int]:
    """Read what was written, and compare it with what the input must lead to.

    Args:
        kafka: where.
        system: whose outputs.
        marks: where they stood before.
        triggers: events that were decided on: each is in `decisions` once, and makes an offer unless its user is in the
            holdout.
        users: distinct users among the events done: each has its row in the changelog at least once.
        rows: user rows changed at most: one an event.

    Returns:
        How many of each.

    Raises:
        OutputError: something is missing, twice, or wrong.
    """
    before = marks.ends
    decisions = list(kafka.read_json(system.decisions, before[system.decisions]))
    decided = [d for d in decisions if d["eligible"]]
    offers = list(kafka.read_json(system.offers, before[system.offers]))
    changed = kafka.end(system.changelog) - sum(before[system.changelog].values())
    expected = {str(d["decision_id"]) for d in decided if d["arm"] != "none"}
    held_out = sum(bool(d["holdout"]) for d in decided)
    problems = []
    if len(decided) != triggers or len({str(d["decision_id"]) for d in decided}) != triggers:
        problems.append(f"{len(decided)} decisions on {triggers} triggers")
    if sorted(str(o["offer_id"]) for o in offers) != sorted(expected):
        problems.append(f"{len(offers)} offers, {len(expected)} decisions that offer")
    if len(expected) + held_out != triggers:
        problems.append(f"{len(expected)} offers and {held_out} in the holdout make {triggers} triggers")
    if not users <= changed <= rows:
        problems.append(f"{changed} rows in the changelog for {users} users and {rows} events")
    if problems:
        raise OutputError(f"{system.name}: {'; '.join(problems)}")
    return {"decisions": len(decisions), "offers": len(offers), "rows": changed}


def check_peer(kafka: Kafka, peer: Peer) -> None:
    """What Faust has written so far must be what its events lead to: a row each, a decision and an offer for triggers.

    Raises:
        OutputError: it is not.
    """
    rows, decisions, offers = (kafka.end(topic) for topic in (peer.changelog, peer.decisions, peer.offers))
    read = list(kafka.read_json(peer.decisions, dict.fromkeys(range(kafka.partitions), 0)))
    offered = sum(decision["arm"] != "none" for decision in read)
    if not (0 < decisions < rows and abs(offers - offered) <= STOPS_MAX):
        raise OutputError(f"faust: {rows} rows, {decisions} decisions of which {offered} offer, {offers} offers")


def check_streams(kafka: Kafka, peer: KafkaStreams, first: dict[int, int]) -> None:
    """What a reader of committed records sees must be, exactly once, what the events that it committed lead to.

    Args:
        kafka: where.
        peer: stopped.
        first: offsets of its source where it began.

    Raises:
        OutputError: a decision or an offer is missing, twice, or of an event that is not committed.
    """
    ends = kafka.committed_offsets(peer.group, peer.source)
    wanted = f'"{TRIGGER}"'.encode()
    triggers = sorted(
        (int(message.partition() or 0), int(message.offset() or 0))
        for message in kafka.read(peer.source, first)
        if (message.offset() or 0) < ends[message.partition() or 0] and wanted in (message.value() or b"")
    )
    begin = dict.fromkeys(range(kafka.partitions), 0)
    decisions = list(kafka.read_json(peer.decisions, begin))
    offers = list(kafka.read_json(peer.offers, begin))
    decided = sorted(map(_place, decisions))
    offered = sorted(_place(decision) for decision in decisions if decision["arm"] != "none")
    if decided != triggers or sorted(map(_place, offers)) != offered or not offered:
        raise OutputError(
            f"{peer.name}: {len(decisions)} decisions of which {len(offered)} offer, {len(offers)} offers; "
            f"{len(triggers)} triggers were committed"
        )


def _place(output: dict[str, Any]) -> tuple[int, int]:
    """(partition, offset) of its trigger."""
    return output["trigger"]["partition"], output["trigger"]["offset"]
