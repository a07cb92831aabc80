"""Brokers that acknowledge a commit and lose it: a cluster of one that is stopped in its midst does that.

Here a proxy answers for the broker: what a worker sends is in the logs, and the coordinator knows of no transaction.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from stream.kafka import applied
from stream.kafka.cluster import high_watermarks, log_ranges
from stream.kafka.hanging import ABORTS_MAX
from stream.kafka.producer import TransactionalProducer
from stream.kafka.restore import read_range
from stream.kafka.topics import QUIET
from stream.scoring.model import Model
from tests.e2e import expect
from tests.e2e.harness import Site, Worker, wait_until
from tests.e2e.test_restart import publish_some
from tests.faults.proxy import Proxy

ADD_PARTITIONS_TO_TXN, END_TXN = 24, 26


class LosingProxy(Proxy):
    """While `loses`, it says yes to whoever adds partitions to a transaction or commits one, and tells nobody."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self.loses = False
        self.lost = 0
        """Commits."""

    async def _takes(self, request: bytes, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> bool:
        del broker
        answer = self._answer(request) if self.loses else b""
        if answer:
            client.write(struct.pack(">i", len(answer)) + answer)
        return bool(answer)

    def _answer(self, frame: bytes) -> bytes:
        """As the broker would say yes; nothing to other requests."""
        key, version, correlation, client = struct.unpack_from(">hhih", frame)
        body = frame[10 + max(client, 0) :]
        if key == END_TXN:
            assert version < 3, "a version of another form"
            self.lost += 1
            return struct.pack(">iih", correlation, 0, 0)
        if key == ADD_PARTITIONS_TO_TXN:
            assert version < 3, "a version of another form"
            at = 2 + struct.unpack_from(">h", body)[0] + 8 + 2  # id, producer's id and epoch
            return struct.pack(">ii", correlation, 0) + _no_errors(body, at)
        return b""


def _no_errors(body: bytes, at: int) -> bytes:
    """The topics and partitions of a request, each with error 0."""
    (topics,) = struct.unpack_from(">i", body, at)
    found, at = struct.pack(">i", topics), at + 4
    for _ in range(topics):
        size = 2 + struct.unpack_from(">h", body, at)[0] + 4
        found += body[at : at + size]
        (partitions,) = struct.unpack_from(">i", body, at + size - 4)
        at += size
        for _ in range(partitions):
            found += body[at : at + 4] + bytes(2)
            at += 4
    return found


@pytest.fixture
def unverified(broker: str) -> Iterator[None]:
    """The broker takes transactional records without asking the coordinator, as all did before 3.6."""
    admin = AdminClient({"bootstrap.servers": broker, **QUIET})

    def say(kind: AlterConfigOpType) -> None:
        entry = ConfigEntry("transaction.partition.verification.enable", "false", incremental_operation=kind)
        resource = ConfigResource(ResourceType.BROKER, "1", incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(20)

    say(AlterConfigOpType.SET)
    yield
    say(AlterConfigOpType.DELETE)


@pytest.fixture
def proxy(broker: str, unverified: None) -> Iterator[LosingProxy]:  # noqa: ARG001 the broker as it is to be
    with LosingProxy(broker) as losing:
        yield losing


class Story:
    """A worker behind a proxy, whose commits get lost from some moment on."""

    def __init__(self, site: Site, proxy: LosingProxy, model: Model, model_file: bytes) -> None:
        self.site, self.proxy, self.model = site, proxy, model
        self.draw = Random(1)
        site.publish_model(model_file, model.hex)
        self.publish()

    def publish(self) -> None:
        publish_some(self.site, self.draw)

    def lose(self, worker: Worker) -> None:
        """All before is applied and seen; what comes now is committed as the worker sees it, and nobody else."""
        self.site.wait_applied([worker])
        self.site.out("decisions")
        before = worker.outcomes()["applied"]
        self.proxy.loses = True
        self.publish()
        wait_until(lambda: worker.outcomes()["applied"] - before > 200, "events applied", 20)
        lost = 0
        while lost < max(self.proxy.lost, 2):  # the last of them too: one that is not lost would end what hangs
            lost = self.proxy.lost
            time.sleep(0.7)
        assert len(self.site.behind()) > 0

    def check(self) -> None:
        """Each event applied once, each decision and offer seen once, each row right."""
        decisions, offers = self.site.out("decisions"), self.site.out("offers")
        ids = [record.json["offer_id"] for record in offers]
        assert len(set(ids)) == len(ids)
        assert set(ids) == {d.json["decision_id"] for d in decisions if d.json["reason"] == "offered"}
        expect.check_all(self.site, [self.model])


@pytest.fixture
def story(site: Site, proxy: LosingProxy, model: Model, model_file: bytes) -> Story:
    return Story(site, proxy, model, model_file)


def test_a_worker_notices_that_its_commits_are_not_seen(story: Story) -> None:
    with story.site.worker(bootstrap=story.proxy.bootstrap) as worker:
        story.lose(worker)
        story.proxy.loses = False  # and nothing more comes that would end what hangs
        worker.wait_log(r"committed up to offset \d+, not seen yet", 20)
        story.site.wait_applied([worker])
        assert "local store set aside" in worker.log()
    story.check()


def test_a_store_that_was_flushed_with_what_got_lost(story: Story) -> None:
    site = story.site
    with site.worker(bootstrap=story.proxy.bootstrap) as worker:
        story.lose(worker)
    with site.worker() as worker:
        site.wait_applied([worker])
        assert "local store set aside" in worker.log()
        story.publish()
        site.wait_applied([worker])
    story.check()


def test_whoever_takes_over_knows_nothing_of_what_got_lost(story: Story, tmp_path: Path) -> None:
    site = story.site
    with site.worker(bootstrap=story.proxy.bootstrap, instance_id="one") as worker:
        story.lose(worker)
        worker.kill()
    with site.worker(instance_id="one", data_dir=tmp_path / "other") as worker:
        site.wait_applied([worker])
        assert "brokers had lost the end of a transaction" in worker.log()
    story.check()


def in_each_partition(site: Site, act: Callable[[TransactionalProducer, int], None]) -> None:
    """As the partition's owner."""
    for partition in range(site.settings.partitions):
        producer = TransactionalProducer(site.settings, partition)
        assert producer.initialise(lambda: True)
        act(producer, partition)
        producer.close()


@pytest.mark.parametrize("disk", ["old", "new"])
def test_what_got_lost_was_aborted_with_the_next_transaction(story: Story, tmp_path: Path, disk: str) -> None:
    """In the changelog alone, whose end is stable again: the old store tells, else outputs of what is not applied."""
    site = story.site
    with site.worker(bootstrap=story.proxy.bootstrap) as worker:
        story.lose(worker)
    in_each_partition(site, lambda producer, partition: producer.abort(site.settings.changelog, partition))
    with site.worker(data_dir=site.settings.data_dir if disk == "old" else tmp_path / "new") as worker:
        site.wait_applied([worker])
        assert ("what it took for committed" in worker.log()) == (disk == "old")
        assert "brokers had lost the end of a transaction" in worker.log()
        story.publish()
        site.wait_applied([worker])
    story.check()


def test_what_got_lost_was_committed_with_the_next_transaction(story: Story) -> None:
    """In the changelog alone: its outputs hang, and are sent again."""
    site = story.site
    changelog = site.settings.changelog
    with site.worker(bootstrap=story.proxy.bootstrap) as worker:
        story.lose(worker)
    admin = AdminClient({"bootstrap.servers": site.settings.bootstrap, **QUIET})

    def commit(producer: TransactionalProducer, partition: int) -> None:
        end = high_watermarks(admin, [(changelog, partition)])[changelog, partition]
        (last,) = read_range(changelog, partition, (end - 1, end), "read_uncommitted", site.settings)
        assert last.key() == applied.KEY
        producer.begin()
        producer.commit(changelog, applied.KEY, last.value() or b"")

    in_each_partition(site, commit)
    with site.worker() as worker:
        worker.wait_serving()
        site.wait_applied([worker])
        assert "its outputs are owed" in worker.log()
        assert "are sent again" in worker.log()
        assert "set aside" not in worker.log()
    story.check()


def test_some_of_what_hangs_is_applied(story: Story, tmp_path: Path) -> None:
    """Of several lost commits the first is seen in the changelog, the others are aborted; outputs of all hang."""
    site = story.site
    changelog = site.settings.changelog
    with site.worker(bootstrap=story.proxy.bootstrap, batch_rows=50, commit_bytes=1 << 16) as worker:
        story.lose(worker)
        worker.kill()
    admin = AdminClient({"bootstrap.servers": site.settings.bootstrap, **QUIET})
    lost: dict[int, list[list[tuple[bytes, bytes]]]] = {}

    def abort(producer: TransactionalProducer, partition: int) -> None:
        place, lost[partition] = (changelog, partition), [[]]
        span = (log_ranges(admin, [place])[place][1], high_watermarks(admin, [place])[place])
        for message in read_range(changelog, partition, span, "read_uncommitted", site.settings):
            lost[partition][-1].append((message.key() or b"", message.value() or b""))
            if message.key() == applied.KEY:
                lost[partition].append([])
        producer.abort(changelog, partition)

    def commit_the_first(producer: TransactionalProducer, partition: int) -> None:
        *rows, (key, value) = lost[partition][0]
        producer.begin()
        producer.send(changelog, [user for user, _ in rows], [row for _, row in rows])
        producer.commit(changelog, key, value)

    in_each_partition(site, abort)
    in_each_partition(site, commit_the_first)
    assert max(map(len, lost.values())) > 2, "one commit a partition at most was lost"
    with site.worker(data_dir=tmp_path / "new") as worker:
        site.wait_applied([worker])
        assert "its outputs are owed" in worker.log()
        assert "are sent again" in worker.log()
    story.check()


def test_what_another_program_has_open_in_our_topics_is_left_to_it(site: Site, model: Model, model_file: bytes) -> None:
    site.publish_model(model_file, model.hex)
    publish_some(site, Random(1))
    with site.worker() as worker:
        site.wait_applied([worker])
    other = Producer(
        {"bootstrap.servers": site.settings.bootstrap, "transactional.id": f"{site.settings.app_id}-other"}
    )
    other.init_transactions(20)
    other.begin_transaction()
    for topic in ("offers", "dead-letters"):
        for value in (b"garbage", b"[1]", b'{"trigger": 1}', None):
            other.produce(
                site.settings.topic(topic), value, b"x", 0, headers={"offset": b"?"} if value == b"[1]" else {}
            )
    other.flush()
    with site.worker() as worker:
        publish_some(site, Random(2))
        worker.wait_serving()
        site.wait_applied([worker])
        assert worker.log().count("it is aborted now") == ABORTS_MAX
    other.abort_transaction(20)
    expect.check_all(site, [model])
