"""What is followed beside the partitions of one's own, on a real broker."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream.kafka.cluster import admin_client
from stream.kafka.outside import Outside
from stream.kafka.rocksdb import RocksDB
from stream.kafka.standby import Standbys
from stream.metrics import Metrics
from tests.e2e.harness import Site
from tests.faults.proxy import Proxy


def test_what_is_wanted_no_more_is_let_go_of_though_brokers_are_silent(
    broker: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be begun now costs a restore later, and nothing else."""
    site = Site(broker, topic_prefix, tmp_path, partitions=2)
    fatal: list[BaseException] = []

    async def story(proxy: Proxy) -> None:
        outside, metrics = Outside(RocksDB(1 << 20)), Metrics(CollectorRegistry())
        standbys = Standbys(site.settings, admin_client(proxy.bootstrap), outside, metrics, fatal.append)
        await standbys.follow({0})
        assert standbys.numbers() == {0}
        monkeypatch.setattr("stream.kafka.cluster.REQUEST_TIMEOUT_S", 1.0)
        proxy.cut()
        await standbys.follow({1})
        assert standbys.numbers() == set()
        assert standbys._consumer is None  # it would fetch what nobody follows
        await standbys.close()

    with Proxy(broker) as proxy:
        asyncio.run(story(proxy))
    assert not fatal
