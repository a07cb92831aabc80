"""Lag: records that wait, by source partition, as a reader of what is committed sees them."""

import logging
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.types import TP

from stream.errors import SetupError
from stream.kafka.cluster import log_ranges
from stream.kafka.topics import QUIET

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 5.0


class Lag:
    """Records between what is stored and the end of the log.

    The ends are asked for, not taken from fetches: a consumer that has stopped fetching would see no lag. Offsets of
    transaction markers and of aborted records are no records: where a position stands before the end and does not move,
    the log is read there, since a partition whose last record is a marker would look stalled for ever.
    """

    def __init__(self, positions: Callable[[], Mapping[TP, int]], bootstrap: str, admin: AdminClient) -> None:
        """`positions`: next offset after what is stored, of every source partition that is open here."""
        self._positions = positions
        self._bootstrap = bootstrap
        self._admin = admin
        self._ends: dict[TP, int] = {}
        self.known = False
        """Whether the brokers answered the last look."""
        self._stood_at: dict[TP, int] = {}
        self._empty: dict[TP, tuple[int, int]] = {}
        """From here to there the log holds no record."""

    def look(self) -> None:
        """Ask the brokers; blocks. While they do not answer, the lag is not known and counts as none."""
        positions = dict(self._positions())
        try:
            logs = log_ranges(self._admin, [(tp.topic, tp.partition) for tp in positions])
        except SetupError as e:
            logger.warning("lag unknown: %s", e)
            self._ends = {}
            self.known = False
            return
        self.known = True
        ends = {tp: logs[tp.topic, tp.partition][1] for tp in positions}
        gaps = {tp: (at, ends[tp]) for tp, at in positions.items() if at < ends[tp] and at == self._stood_at.get(tp)}
        gaps = {tp: gap for tp, gap in gaps.items() if gap != self._empty.get(tp)}
        if gaps:
            self._empty |= {tp: (gaps[tp][0], first) for tp, first in self._first_records(gaps).items()}
        self._stood_at = positions
        self._ends = ends

    def _first_records(self, gaps: Mapping[TP, tuple[int, int]]) -> dict[TP, int]:
        """Offset of the first record in each gap (start, end): end where there is none, start where it is not known."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "offerstream-lag",  # required by the client; it never joins or commits
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,
                "max.partition.fetch.bytes": 1 << 16,  # one record is enough
                "queued.min.messages": 1,
                **QUIET,
            }
        )
        found: dict[TP, int] = {}
        give_up_s = time.monotonic() + _PROBE_TIMEOUT_S
        try:
            consumer.assign([TopicPartition(*tp, start) for tp, (start, _) in gaps.items()])
            while len(found) < len(gaps) and time.monotonic() < give_up_s:
                message = consumer.poll(0.5)
                tp = message and TP(str(message.topic()), int(message.partition() or 0))
                if not message or tp not in gaps or tp in found:
                    continue
                start, end = gaps[tp]
                error, offset = message.error(), int(message.offset() or 0)
                if error is None:
                    found[tp] = min(offset, end)
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 librdkafka's public constant
                    found[tp] = start
                elif offset >= end:
                    found[tp] = end
                if tp in found:
                    consumer.pause([TopicPartition(*tp)])
        except KafkaException as e:
            logger.warning("lag of %d partitions: %s", len(gaps), e)
        finally:
            consumer.close()
        return {tp: found.get(tp, start) for tp, (start, _) in gaps.items()}

    def by_partition(self) -> dict[TP, int]:
        """As of the last look."""
        found = {}
        for tp, at in self._positions().items():
            first, after = self._empty.get(tp, (-1, -1))
            found[tp] = max(self._ends.get(tp, 0) - (after if at == first else at), 0)
        return found
