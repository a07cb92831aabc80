"""What a move refuses, on a real broker; what it does is in tests/e2e/test_repartition.py."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from stream.core.row import ROW_FORMAT, new_rows, pack
from stream.errors import OfferstreamError, PartitionError, SetupError
from stream.kafka import applied
from stream.kafka.applied import Applied, SourcePosition
from stream.kafka.cluster import INPUTS
from stream.kafka.move import move
from stream.kafka.repartition import repartition
from stream.kafka.topics import read_control
from stream.settings import Settings
from tests.e2e.harness import Site


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path)


def elsewhere(site: Site, partitions: int = 3) -> Settings:
    prefix = f"to-{site.settings.topic_prefix}"
    return dataclasses.replace(site.settings, topic_prefix=prefix, app_id=f"{prefix}app", partitions=partitions)


def record(site: Site, offset: int = 0, **more: str) -> bytes:
    ids = site.topic_ids()
    sources = {name: SourcePosition(ids[site.settings.topic(name)], offset) for name in INPUTS}
    return applied.encode(Applied(ROW_FORMAT, site.settings.partitions, 5, sources, **more))  # type: ignore[arg-type]


def put(site: Site, changelog: str, records: Sequence[tuple[int, bytes, bytes | None]]) -> None:
    """What workers have written, without any."""
    producer = Producer({"bootstrap.servers": site.settings.bootstrap, "log_level": 0})
    for partition, key, value in records:
        producer.produce(changelog, value, key, partition)
    assert producer.flush(30) == 0


def quiet(_: str) -> None:
    """Nobody is told."""


def test_a_row_ahead_of_its_applied_record_is_not_moved(site: Site) -> None:
    """At least once, after a kill: the event would be sent over though the row has it."""
    rows = new_rows(2)
    rows["seq"], rows["fence"][1, 2] = 1, 1
    sane, ahead = pack(rows)
    log = site.settings.changelog
    put(site, log, [(p, b"sane-%d" % p, sane) for p in (0, 1)] + [(p, applied.KEY, record(site)) for p in (0, 1)])
    put(site, log, [(1, b"ahead", ahead)])
    with pytest.raises(PartitionError, match=r"\[1\]: a worker was killed in the middle of a commit"):
        move(site.settings, elsewhere(site), quiet)
    put(site, log, [(1, b"ahead", None), (1, applied.KEY, record(site))])
    assert move(site.settings, elsewhere(site), quiet) == (2, 0)


def test_rows_of_partitions_that_never_had_any_and_the_control_topics(site: Site) -> None:
    """Nothing was ever applied: the move is of nothing, and the new app starts like a new one."""
    site.put_control("campaigns", [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"b", None)])
    to = elsewhere(site)
    assert move(site.settings, to, quiet) == (0, 0)
    control = read_control(to.bootstrap, to.topic("campaigns"))
    assert {key: found.value for key, found in control.items()} == {b"a": b"3", b"c": b"4"}


@pytest.mark.parametrize("junk", ["a row", "an app of its own"])
def test_a_new_app_that_is_not_new(site: Site, broker: str, junk: str) -> None:
    to = elsewhere(site)
    other = Site(broker, to.topic_prefix, site.folder, partitions=to.partitions)
    (row,) = pack(new_rows(1))
    own = record(other)
    lines = {
        "a row": [(0, b"u", row)],
        "an app of its own": [(p, applied.KEY, own) for p in range(3)],
    }
    put(site, to.changelog, lines[junk])
    with pytest.raises(SetupError, match="choose another --to-app-id"):
        move(site.settings, to, quiet)
    assert site.applied() == {}, "the old app is as it was"


def test_a_row_of_an_unknown_format(site: Site) -> None:
    put(site, site.settings.changelog, [(0, b"u", b"\x63" + bytes(39)), (0, applied.KEY, record(site))])
    with pytest.raises(OfferstreamError, match=r"changelog\[0\] offset 0: packed rows of format \[99\]"):
        move(site.settings, elsewhere(site), quiet)


def test_what_the_command_refuses(site: Site) -> None:
    settings = site.settings
    env = {"KAFKA_BOOTSTRAP": settings.bootstrap, "OFFERSTREAM_TOPIC_PREFIX": settings.topic_prefix}
    env |= {"OFFERSTREAM_APP_ID": settings.app_id, "OFFERSTREAM_PARTITIONS": "7"}
    to = ["--to-partitions", "3", "--to-app-id", "x", "--to-topic-prefix", "y-"]
    for arguments, code, said in (
        (to[:2], 2, "Missing option '--to-app-id'"),
        ([*to[:3], settings.app_id, *to[4:]], None, "a name and a topic prefix of its own"),
        (to, None, "OFFERSTREAM_PARTITIONS is 7"),
    ):
        result = CliRunner(env=env).invoke(repartition, arguments)
        if code is None:  # `stream.cli.main` makes a message and an exit code of it
            assert isinstance(result.exception, OfferstreamError)
            assert said in str(result.exception)
        else:
            assert (result.exit_code, said in result.output) == (code, True), result.output
    assert site.read(settings.changelog) == []
