"""Clients of the simulated brokers, with the methods of confluent-kafka's that the worker calls, and their errors."""

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tests.simulation.broker import Broker, Busy, Fenced, Header, Log, Record, Refused, State
from tests.simulation.loop import OWNER, pause

ANSWER_LOST_SHARE = 0.15
"""Of the requests that are repeated until they are answered, those whose answer gets lost."""
ASKED_EARLY_SHARE = 0.1
"""Of the requests that brokers cannot answer yet, those that are sent all the same."""
REPEATED_SHARE = 0.3
"""Of the requests for a commit, those that librdkafka sends twice."""
RETRY_BACKOFF_S = 0.5
NOTHING_FETCHED_SHARE = 0.1
"""Of the moments at which a reader has nothing to read, those at which it stops to wait for more."""
DELIVERY_FAILED_SHARE = 0.02
"""Of the transactions, those in which a record is not delivered in time."""

_END = type(OffsetSpec.latest())
OnDelivery = Callable[[KafkaError | None, Any], None] | None


def _fenced() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))


def _timed_out() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer yet", retriable=True))


class Message:
    """A record as a consumer hands it over, or the place of one that was delivered."""

    def __init__(self, log: Log, offset: int, record: Record | None = None, error: KafkaError | None = None) -> None:
        self._log, self._offset, self._record, self._error = log, offset, record, error

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return self._log[0]

    def partition(self) -> int:
        return self._log[1]

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._record.key if self._record else None

    def value(self) -> bytes | None:
        return self._record.value if self._record else None

    def headers(self) -> Sequence[Header]:
        return self._record.headers if self._record else ()


class Answer:
    """What a future of the admin client's holds."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


class Network:
    """Makes clients; what they ask takes its time, and what a dead process asked may arrive later."""

    def __init__(self, broker: Broker, draw: Random, partitions: Mapping[str, int]) -> None:
        self.broker = broker
        self.draw = draw
        self.topics = {
            name: Answer(SimpleNamespace(topic_id=f"id-{name}", partitions=[SimpleNamespace(replicas=[0])] * n))
            for name, n in partitions.items()
        }

    def send(self, what: str, request: Callable[[], Any], until: Callable[[], bool] | None = None) -> Any:
        """Have a request carried out, some time after it was sent and some time before its answer is here.

        Args:
            what: for whoever reads a schedule.
            request: what the brokers do.
            until: what the request had better wait for: asked earlier, they answer "not yet". Seldom it is.
        """
        owner = OWNER.get()
        try:
            pause(until if until is None or self.draw.random() > ASKED_EARLY_SHARE else None)
        except BaseException:  # its process died while the request was under way
            assert owner is not None
            if self.draw.random() < 0.5:
                self.broker.late.append((what, request))
            raise
        answer = request()
        pause()
        return answer

    def producer(self, configuration: Mapping[str, Any]) -> "Producer":
        return Producer(self, configuration.get("transactional.id"))

    def consumer(self, configuration: Mapping[str, Any]) -> "Consumer":
        return Consumer(
            self,
            ends=bool(configuration["enable.partition.eof"]),
            committed=configuration["isolation.level"] == "read_committed",
        )

    def admin(self, *_: str) -> "Admin":
        return Admin(self)


class Producer:
    """With a transactional id or without."""

    def __init__(self, network: Network, name: str | None) -> None:
        self._network = network
        self._broker = network.broker
        self._name = name
        self._epoch = -1
        self._waiting: list[tuple[Log, Record, OnDelivery]] = []
        self._added: set[Log] = set()
        self._failed = False
        self._fenced = False

    def init_transactions(self, _timeout_s: float) -> None:
        assert self._name is not None
        name = self._name
        try:
            epoch = self._network.send(
                f"init {name}", lambda: self._broker.initialise(name), lambda: not self._broker.holds_up(name)
            )
        except Busy:
            raise _timed_out() from None
        if self._network.draw.random() < ANSWER_LOST_SHARE:
            raise _timed_out()
        self._epoch = epoch

    def begin_transaction(self) -> None:
        if self._fenced:
            raise _fenced()
        self._added.clear()
        self._failed = self._network.draw.random() < DELIVERY_FAILED_SHARE

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        on_delivery: OnDelivery,
        headers: Sequence[Header] = (),
    ) -> None:
        if self._fenced:
            raise _fenced()
        self._waiting.append(((topic, partition), Record(key, value, headers), on_delivery))

    def produce_batch(
        self, topic: str, messages: list[dict[str, Any]], partition: int, on_delivery: OnDelivery
    ) -> None:
        for message in messages:
            if self._fenced:
                message["_error"] = _fenced().args[0]
            else:
                self.produce(topic, message["value"], message["key"], partition, on_delivery)
        if self._network.draw.random() < 0.3:  # some is sent before anybody waits for it
            self._send_some()

    def _send_some(self) -> None:
        """Those at the front that go to one log."""
        if not self._waiting:
            return
        log = self._waiting[0][0]
        n = next((i for i, (other, _, _) in enumerate(self._waiting) if other != log), len(self._waiting))
        n = self._network.draw.randint(1, n)
        some, self._waiting = self._waiting[:n], self._waiting[n:]
        records = [record for _, record, _ in some]
        try:
            first = self._network.send(
                f"produce {len(records)} to {log}",
                lambda: self._take(log, records),
                lambda: self._name is None or not self._broker.busy(self._name),
            )
        except Busy:
            self._waiting = some + self._waiting
            return
        except Refused:
            self._fenced = True
            self._waiting.clear()
            return
        for i, (_, _, on_delivery) in enumerate(some):
            if on_delivery is not None:
                on_delivery(None, Message(log, first + i))

    def _take(self, log: Log, records: Sequence[Record]) -> int:
        if self._name is None:
            return self._broker.append(log, records)
        if log not in self._added:  # once: it does not expect its transaction to be ended by somebody else
            self._broker.add(self._name, self._epoch, log)
            self._added.add(log)
        return self._broker.produce(self._name, self._epoch, log, records)

    def flush(self, timeout_s: float) -> int:
        if timeout_s:
            self._send_some()
        return len(self._waiting)

    def commit_transaction(self, _timeout_s: float) -> None:
        """Resumes where the call before it stood."""
        name = self._name
        assert name is not None
        while self._waiting:
            self._send_some()
            if self._network.draw.random() < ANSWER_LOST_SHARE:
                raise _timed_out()
        if self._fenced:
            raise _fenced()
        if self._failed:
            error = KafkaError(KafkaError._INCONSISTENT, "not delivered", txn_requires_abort=True)
            raise KafkaException(error)
        epoch = self._epoch
        if self._network.draw.random() < REPEATED_SHARE:  # its connection breaks, and it may come all the same
            self._broker.late.append((f"end {name}", lambda: self._broker.end(name, epoch)))
            time.sleep(RETRY_BACKOFF_S)
        self._end(f"end {name}", lambda: self._broker.end(name, epoch))

    def abort_transaction(self, _timeout_s: float) -> None:
        """What waits to be sent is dropped."""
        name, epoch = self._name, self._epoch
        assert name is not None
        if self._fenced:
            raise _fenced()
        self._waiting.clear()
        self._end(f"abort {name}", lambda: self._broker.end(name, epoch, State.ABORTING))

    def _end(self, what: str, request: Callable[[], object]) -> None:
        try:
            self._network.send(what, request)
        except Busy:
            raise _timed_out() from None
        except Fenced:
            raise _fenced() from None
        if self._network.draw.random() < ANSWER_LOST_SHARE:
            raise _timed_out()

    def purge(self) -> None:
        self._failed = self._failed or bool(self._waiting)
        self._waiting.clear()


class Consumer:
    """Reads what it is assigned, some at a time."""

    def __init__(self, network: Network, *, ends: bool, committed: bool) -> None:
        self._network = network
        self._ends = ends
        self._end_of = network.broker.stable if committed else network.broker.end_of
        self._read = network.broker.committed if committed else network.broker.written
        self._at: dict[Log, int] = {}
        self._ended: dict[Log, int] = {}

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self._at = {(tp.topic, tp.partition): tp.offset for tp in places}
        self._ended = {}

    def consume(self, n: int, timeout: float) -> list[Message]:
        del timeout
        return list(self._network.send("fetch", lambda: self._fetch(n), self._has_more))

    def _has_more(self) -> bool:
        ended = self._ended if self._ends else self._at
        if any(at < (end := self._end_of(log)) or ended.get(log) != end for log, at in self._at.items()):
            return True
        return self._network.draw.random() < NOTHING_FETCHED_SHARE

    def _fetch(self, n: int) -> list[Message]:
        found: list[Message] = []
        draw = self._network.draw
        logs = list(self._at)
        draw.shuffle(logs)
        for log in logs:
            if draw.random() < 0.3:
                continue
            some = draw.randint(1, 12)
            stable = self._end_of(log)
            records: list[Message] = []
            for offset, record in self._read(log, self._at[log]):
                if len(records) == min(n, some):
                    break
                records.append(Message(log, offset, record))
            else:
                self._at[log] = max(self._at[log], stable)
            if records:
                at_end = self._at[log] == stable
                self._at[log] = stable if at_end else records[-1].offset() + 1
            found += records
            if self._ends and self._at[log] == stable and self._ended.get(log) != stable:
                self._ended[log] = stable
                end = KafkaError(KafkaError._PARTITION_EOF)
                found.append(Message(log, stable, error=end))
        return found

    def close(self) -> None:
        self._at = {}


class Admin:
    """Says where logs end, and what topics there are."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def list_offsets(
        self, wanted: Mapping[TopicPartition, Any], *, isolation_level: IsolationLevel, request_timeout: float
    ) -> dict[TopicPartition, Answer]:
        del request_timeout
        broker = self._network.broker
        end_of = broker.stable if isolation_level is IsolationLevel.READ_COMMITTED else broker.end_of

        def ask() -> dict[TopicPartition, Answer]:
            return {
                tp: Answer(SimpleNamespace(offset=end_of((tp.topic, tp.partition)) if isinstance(spec, _END) else 0))
                for tp, spec in wanted.items()
            }

        found: dict[TopicPartition, Answer] = self._network.send("offsets", ask)
        return found

    def describe_cluster(self, request_timeout: float) -> Answer:
        del request_timeout
        return Answer(SimpleNamespace(cluster_id="simulated"))

    def describe_topics(self, _topics: Any, request_timeout: float) -> dict[str, Answer]:
        del request_timeout
        return self._network.topics
