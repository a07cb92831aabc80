"""What is written into a broker's data folder before it starts: identity, settings, logging.

DATA/kafka/               Kafka's own logs (topics), meta.properties, bootstrap.checkpoint
DATA/logs/server.log      what Kafka logs; DATA/logs/jvm.log what the JVM prints
DATA/tmp/                 native libraries that the JVM unpacks, emptied at each start
DATA/server.properties    the settings of the last start
DATA/broker.json          the address, once it takes requests
DATA/lock, DATA/pids.json held and written by the supervisor
"""

import base64
import secrets
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
NODE_ID = 1
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """Both on the loopback interface."""

    broker: int
    controller: int


def server_properties(data: Path, ports: Ports) -> str:
    """The settings of a single node that is its own controller.

    One node: every internal topic has one replica, and few partitions, because each costs files and start-up time.
    Group and transaction time-outs may be set lower than in production (fault tests); nothing waits for late joiners.
    """
    settings = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@{HOST}:{ports.controller}",
        "listeners": f"PLAINTEXT://{HOST}:{ports.broker},CONTROLLER://{HOST}:{ports.controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.broker}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data / "kafka").replace("\\", "\\\\"),
        "auto.create.topics.enable": "false",
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "replica.fetch.max.bytes": MESSAGE_BYTES_MAX,
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # A broker that was killed registers anew only when the session of its former life has ended.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "log.cleaner.backoff.ms": 1000,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def log4j_properties(data: Path) -> str:
    """Kafka's log into a file of bounded size; the clients' repeated configuration dumps are left out."""
    return f"""\
status = error
name = broker
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {data}/logs/server.log
appender.file.filePattern = {data}/logs/server.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c{{1}}: %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 16MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
"""


def lay_out(data: Path, ports: Ports, template: Path) -> None:
    """Write everything a start needs; keeps the topics and the identity that are there.

    Args:
        data: the broker's data folder.
        ports: where it is to listen.
        template: a folder that Kafka's own `format` made (identity and feature levels); copied with new ids.

    Raises:
        OSError: the folder cannot be written.
    """
    kafka, tmp = data / "kafka", data / "tmp"
    (data / "logs").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    (data / "broker.json").unlink(missing_ok=True)
    (data / "server.properties").write_text(server_properties(data, ports), encoding="utf-8")
    (data / "log4j2.properties").write_text(log4j_properties(data), encoding="utf-8")
    kafka.mkdir(exist_ok=True)
    if all(path.name == "bootstrap.checkpoint" for path in kafka.iterdir()):
        shutil.copy(template / "bootstrap.checkpoint", kafka)
        # Last: until it is there, the folder counts as new.
        (kafka / "meta.properties").write_text(
            f"version=1\ncluster.id={random_kafka_id()}\nnode.id={NODE_ID}\ndirectory.id={random_kafka_id()}\n",
            encoding="utf-8",
        )


def random_kafka_id() -> str:
    """A random id as Kafka writes them: 16 bytes, URL-safe base64 without padding, not beginning with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.UUID(bytes=secrets.token_bytes(16), version=4).bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text
