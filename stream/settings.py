"""Settings of a worker: read once from the environment, checked whole, frozen, passed on.

Each field is the environment variable `OFFERSTREAM_<FIELD>` in capitals; `KAFKA_BOOTSTRAP` names the brokers.
"""

import dataclasses
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stream.errors import SettingsError

PREFIX = "OFFERSTREAM_"
DATA_DIR = Path("var/worker")
GUARANTEES = ("exactly_once", "at_least_once")
_DAY_MS = 86_400_000
PARTITIONS_MAX_PER_WORKER = 16
"""A producer a partition costs some 6 threads and 3 to 5 connections."""


def _setting(default: Any, doc: str, low: float | None = None, high: float | None = None) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"doc": doc, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """All of them. Lengths of time are milliseconds, sizes bytes."""

    bootstrap: str = _setting("127.0.0.1:9092", "Kafka brokers, host:port, comma-separated (KAFKA_BOOTSTRAP)")
    app_id: str = _setting("offerstream", "names the consumer group, the changelog and the transactional ids")
    topic_prefix: str = _setting("", "put before the name of every topic but the changelog")
    partitions: int = _setting(4, "partitions of every topic that is keyed by user; fixed for life", 1, 4096)
    replication: int = _setting(1, "copies of each partition for topics that `topics create` makes", 1, 15)
    instance_id: str = _setting("", "static membership: a name that stays over restarts, such as the pod's")
    data_dir: Path = _setting(DATA_DIR, "where the local stores lie")  # noqa: RUF009 a frozen path
    admin_host: str = _setting("127.0.0.1", "address of /metrics, /healthz and /readyz")
    admin_port: int = _setting(6066, "its port; 0 takes any free one", 0, 65_535)
    currency: str = _setting("EUR", "the reporting currency (ISO 4217); events in others are dead letters")
    timezone: str = _setting("UTC", "the shop's time zone (IANA): its days and dates")
    guarantee: str = _setting(
        "exactly_once", "`exactly_once`: who reads `offers` read_committed sees each once; or `at_least_once`"
    )
    offer_max_age_ms: int = _setting(60_000, "an older trigger gets no offer, reason `stale`", 1, 10**13)
    decision_sample: float = _setting(0.01, "share logged of the decisions in which only 'none' was eligible", 0, 1)
    batch_rows: int = _setting(4_000, "most records in a batch", 1, 100_000)
    batch_bytes: int = _setting(8 << 20, "a batch ends where its values pass this", 1 << 10, 1 << 30)
    user_events_max: int = _setting(64, "most events of one user in a batch", 1, 10_000)
    hot_rows: int = _setting(250_000, "rows held in memory, for each partition; the rest is on disk", 2, 10**8)
    commit_interval_ms: int = _setting(40, "commit at the latest after this, at once when nothing waits", 1, 60_000)
    commit_bytes: int = _setting(8 << 20, "commit when the outputs that wait pass this", 1 << 10, 1 << 32)
    store_pending_bytes: int = _setting(
        32 << 20, "rows kept back before they are written to the local store", 0, 1 << 32
    )
    store_flush_interval_ms: int = _setting(
        30_000, "how often the local store is made durable: bounds what a restart replays", 1_000, 3_600_000
    )
    sweep_interval_ms: int = _setting(
        60_000, "how often all rows are gone through for users who fell silent", 100, _DAY_MS
    )
    sweep_lag_ms: int = _setting(
        300_000, "how late events may come without their users being taken for silent", 0, _DAY_MS
    )
    store_cache_bytes: int = _setting(256 << 20, "RocksDB's block cache, one for the whole worker", 1 << 20, 1 << 40)
    standbys: int = _setting(1, "workers that follow a partition's rows beside its owner, ready to take over", 0, 15)
    session_timeout_ms: int = _setting(
        30_000, "a worker that is silent for this long loses its partitions", 6_000, 1_800_000
    )
    drain_timeout_ms: int = _setting(10_000, "how long a rebalance waits for a batch in work", 100, 50_000)
    restore_timeout_ms: int = _setting(
        120_000, "a restore that gets no record for this long has failed", 1_000, _DAY_MS
    )
    delivery_timeout_ms: int = _setting(
        300_000, "how long a broker outage may last before the worker gives up", 1_000, _DAY_MS
    )
    transaction_timeout_ms: int = _setting(
        15_000, "a transaction open for longer is aborted: a dead owner nobody replaces holds readers up so long",
        1_000, 900_000,
    )  # fmt: skip
    stall_ms: int = _setting(
        60_000, "unhealthy when no position moves for this long while records wait", 1_000, _DAY_MS
    )
    model_key: str = _setting(
        "", "ed25519 public key (base64, as `training models keygen` prints it) that models must be signed with"
    )
    model_probation_ms: int = _setting(
        _DAY_MS, "for so long after its promotion a model is rolled back when its scores are not as in training",
        0, 365 * _DAY_MS,
    )  # fmt: skip
    score_us_max: float = _setting(
        100.0, "microseconds a step, beside 5 ms a call: a slower model is rolled back", 0.1, 10**6
    )
    score_psi_max: float = _setting(1.0, "PSI of its scores from which on a model on probation is rolled back", 0, 100)
    drift_psi_max: float = _setting(0.25, "PSI of a feature or the score from which on a retrain is asked for", 0, 100)
    lost_events: str = _setting("stop", "`stop` or `count` when retention deleted events that were not applied")

    def topic(self, name: str) -> str:
        """The full name of a topic."""
        return self.topic_prefix + name

    @property
    def heartbeat_interval_s(self) -> float:
        """How often a worker shows the group that it lives."""
        return min(3.0, self.session_timeout_ms / 3000)

    @property
    def changelog(self) -> str:
        """The topic that holds the rows: Faust's name for the changelog of the table `rows`."""
        return f"{self.app_id}-rows-changelog"


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from environment variables.

    Raises:
        SettingsError: names every variable that is unknown or has a bad value.
    """
    environ = os.environ if environ is None else environ
    given: dict[str, str] = {k[len(PREFIX) :].lower(): v for k, v in environ.items() if k.startswith(PREFIX)}
    if "KAFKA_BOOTSTRAP" in environ:
        given.setdefault("bootstrap", environ["KAFKA_BOOTSTRAP"])
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    complaints: list[str] = []
    values: dict[str, Any] = {}
    for name, text in given.items():
        variable = PREFIX + name.upper()
        if name not in fields:
            complaints.append(f"{variable}: no such setting{_nearest(name, list(fields))}")
            continue
        try:
            values[name] = _parse(fields[name], text)
        except ValueError as e:
            complaints.append(f"{variable}={text!r}: {e}")
    settings = Settings(**values)
    complaints += _inconsistencies(settings)
    if complaints:
        raise SettingsError("bad settings:\n" + "\n".join(f"  {c}" for c in sorted(complaints)))
    return settings


def _parse(setting: "dataclasses.Field[Any]", text: str) -> Any:  # noqa: ANN401 any setting's type
    kind: Any = type(setting.default)
    value: Any
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"not {'a whole number' if kind is int else 'a number'}") from None
        low, high = setting.metadata["low"], setting.metadata["high"]
        if not (low is None or value >= low) or not (high is None or value <= high):  # NaN is neither
            raise ValueError(f"must be {f'at least {low}' if high is None else f'from {low} to {high}'}")
        return value
    return kind(text)


def _inconsistencies(s: Settings) -> list[str]:
    """What no single number says: texts, and relations between settings."""
    names = {name: getattr(s, name) for name in ("app_id", "topic_prefix", "instance_id")}
    checks = [
        (s.guarantee in GUARANTEES, f"{PREFIX}GUARANTEE={s.guarantee!r}: must be one of {', '.join(GUARANTEES)}"),
        (s.lost_events in ("stop", "count"), f"{PREFIX}LOST_EVENTS={s.lost_events!r}: must be stop or count"),
        (
            re.fullmatch("[A-Z]{3}", s.currency),
            f"{PREFIX}CURRENCY={s.currency!r}: not an ISO 4217 code such as EUR",
        ),
        (_is_timezone(s.timezone), f"{PREFIX}TIMEZONE={s.timezone!r}: no such time zone"),
        (s.app_id, f"{PREFIX}APP_ID: must not be empty"),
        (
            s.hot_rows >= s.batch_rows,
            f"{PREFIX}HOT_ROWS={s.hot_rows}: at least BATCH_ROWS={s.batch_rows}, since a batch's users are in memory",
        ),
        *(
            (
                re.fullmatch(r"[A-Za-z0-9._-]{0,180}", value),
                f"{PREFIX}{name.upper()}={value!r}: letters, digits, '.', '_' and '-' only, at most 180",
            )
            for name, value in names.items()
        ),
        *(
            (_is_server(server.strip()), f"KAFKA_BOOTSTRAP={s.bootstrap!r}: {server.strip()!r} is not host:port")
            for server in s.bootstrap.split(",")
        ),
    ]
    return [complaint for holds, complaint in checks if not holds]


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _is_server(text: str) -> bool:
    found = re.fullmatch(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})", text)
    return found is not None and 0 < int(found[1]) < 65_536


def _nearest(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 only on the way out

    near = difflib.get_close_matches(name, known, 1)
    return f", did you mean {PREFIX}{near[0].upper()}?" if near else ""


def client_id(settings: Settings) -> str:
    """What brokers' logs call this worker."""
    return f"{settings.app_id}-{settings.instance_id or socket.gethostname()}"
