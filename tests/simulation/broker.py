"""Kafka as the partitions meet it: logs, transactions, their coordinator. In memory, one request at a time.

What the real one makes slow or rare is the rule here: the markers of a transaction are written one log after the other,
some time after its end was acknowledged; a transaction that nobody ends is given up; an answer gets lost and the
request was taken all the same; what a dead process had sent arrives after its death.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Log = tuple[str, int]
"""Topic and partition."""

Header = tuple[str, bytes]

Late = tuple[str, Callable[[], Any]]
"""A request that nobody waits for, by name."""


class Refused(Exception):  # noqa: N818 it is an answer
    """What the brokers answer in the place of what was asked for."""


class Fenced(Refused):
    """Another producer has the transactional id now."""


class Busy(Refused):
    """The transaction before is not complete: ask again."""


class State(Enum):
    """Of a transactional id."""

    EMPTY = "empty"
    ONGOING = "ongoing"
    COMMITTING = "committing"
    ABORTING = "aborting"


class Outcome(Enum):
    """Of a transaction, in one log."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Record(NamedTuple):
    """One place of a log."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    transaction: "Transaction | None" = None
    is_marker: bool = False
    timestamp: int = 0


@dataclass(eq=False)
class Transaction:
    """What one producer wrote between begin and end."""

    name: str
    """Transactional id."""
    first: dict[Log, int] = field(default_factory=dict)
    """Its first offset in each log."""
    outcome: dict[Log, Outcome] = field(default_factory=dict)
    """By log that it was added to: its marker there."""


@dataclass(eq=False)
class Id:
    """What the coordinator knows of a transactional id."""

    epoch: int = -1
    state: State = State.EMPTY
    transaction: Transaction = field(default_factory=lambda: Transaction(""))
    missing: list[Log] = field(default_factory=list)
    """Logs that wait for the marker of a transaction that has ended."""


class Broker:
    """All of them, as one."""

    def __init__(self, *, waits_for_markers: bool = True) -> None:
        """`waits_for_markers`: False breaks Kafka: an id is initialised while its last transaction is being ended."""
        self.logs: dict[Log, list[Record]] = defaultdict(list)
        self.ids: dict[str, Id] = defaultdict(Id)
        self.late: list[Late] = []
        """Requests under way whose sender is dead."""
        self._open: dict[Log, list[Transaction]] = defaultdict(list)
        self._waits_for_markers = waits_for_markers

    # --- producing

    def append(self, log: Log, records: Sequence[Record]) -> int:
        """Without a transaction: offset of the first."""
        first = len(self.logs[log])
        self.logs[log] += records
        return first

    def initialise(self, name: str) -> int:
        """A new epoch for an id.

        Raises:
            Busy: its last transaction is being ended; an open one is aborted from here on.
        """
        of = self.ids[name]
        if of.state is State.ONGOING:
            self.give_up(name)
        if of.state is not State.EMPTY and self._waits_for_markers:
            raise Busy
        of.epoch += 1
        return of.epoch

    def give_up(self, name: str) -> None:
        """Abort what is open; whoever has it open is fenced."""
        of = self.ids[name]
        of.epoch += 1
        self._end(of, State.ABORTING)

    def add(self, name: str, epoch: int, log: Log) -> None:
        """Add a log to the id's transaction, the first one begins it."""
        of = self._of(name, epoch)
        if of.state in {State.COMMITTING, State.ABORTING}:
            raise Busy
        if of.state is State.EMPTY:
            of.state, of.transaction = State.ONGOING, Transaction(name)
        of.transaction.outcome.setdefault(log, Outcome.OPEN)

    def produce(self, name: str, epoch: int, log: Log, records: Sequence[Record]) -> int:
        """Within a transaction: offset of the first."""
        of = self._of(name, epoch)
        if of.state is not State.ONGOING or log not in of.transaction.outcome:
            raise Fenced
        first = len(self.logs[log])
        if log not in of.transaction.first:
            of.transaction.first[log] = first
            self._open[log].append(of.transaction)
        self.logs[log] += [record._replace(transaction=of.transaction) for record in records]
        return first

    def end(self, name: str, epoch: int, how: State = State.COMMITTING) -> None:
        """Commit or abort; acknowledged before any marker is written.

        Raises:
            Busy: it is being done already.
        """
        of = self._of(name, epoch)
        if of.state is how:
            raise Busy
        if of.state in {State.ABORTING, State.COMMITTING}:
            raise Fenced
        if of.state is State.ONGOING:
            self._end(of, how)

    def holds_up(self, name: str) -> bool:
        """Whether `initialise` would have to wait."""
        return self._waits_for_markers and self.busy(name)

    def busy(self, name: str) -> bool:
        """Whether markers of its last transaction are missing."""
        return bool(self.ids[name].missing)

    def _end(self, of: Id, state: State) -> None:
        of.state = state
        of.missing = list(of.transaction.outcome)
        self._complete(of)

    def _of(self, name: str, epoch: int) -> Id:
        of = self.ids[name]
        if of.epoch != epoch:
            raise Fenced
        return of

    # --- markers

    def markers(self) -> Iterator[tuple[str, Log]]:
        """Those that are to be written."""
        for name, of in self.ids.items():
            for log in of.missing:
                yield name, log

    def mark(self, name: str, log: Log) -> None:
        """Write one: it ends all that is open there of its id."""
        of = self.ids[name]
        outcome = Outcome.COMMITTED if of.state is State.COMMITTING else Outcome.ABORTED
        of.transaction.outcome[log] = outcome
        of.missing.remove(log)
        self.logs[log].append(Record(None, None, (), of.transaction, is_marker=True))
        self._end_in(log, name, outcome)
        self._complete(of)

    def _end_in(self, log: Log, name: str, outcome: Outcome) -> None:
        for transaction in [t for t in self._open[log] if t.name == name]:
            transaction.outcome[log] = outcome
            self._open[log].remove(transaction)

    def lose_markers(self) -> None:
        """Of each transaction that has ended and of which no marker is written yet, none ever is.

        So does a cluster of one that is stopped in order (4.3.1): it sees no leader any more, and takes its topics for
        deleted.
        """
        for of in self.ids.values():
            if of.missing and all(outcome is Outcome.OPEN for outcome in of.transaction.outcome.values()):
                of.missing.clear()
                self._complete(of)

    def commit_what_hangs(self) -> None:
        """As the next commits of their ids do it."""
        for log, transactions in self._open.items():
            for transaction in list(transactions):
                if self.ids[transaction.name].state is State.EMPTY:
                    self._end_in(log, transaction.name, Outcome.COMMITTED)

    def _complete(self, of: Id) -> None:
        if not of.missing:
            of.state = State.EMPTY

    # --- reading

    def stable(self, log: Log) -> int:
        """The last stable offset: where the first open transaction begins, or the log's end."""
        return min((t.first[log] for t in self._open[log]), default=len(self.logs[log]))

    def end_of(self, log: Log) -> int:
        """The high watermark."""
        return len(self.logs[log])

    def written(self, log: Log, start: int = 0) -> Iterator[tuple[int, Record]]:
        """What a read_uncommitted reader sees from an offset on, with offsets."""
        for offset, record in enumerate(self.logs[log][start:], start):
            if not record.is_marker:
                yield offset, record

    def committed(self, log: Log, start: int = 0) -> Iterator[tuple[int, Record]]:
        """What a read_committed reader sees from an offset on, with offsets."""
        records = self.logs[log]
        for offset in range(start, self.stable(log)):
            record = records[offset]
            seen = record.transaction is None or record.transaction.outcome[log] is Outcome.COMMITTED
            if seen and not record.is_marker:
                yield offset, record
