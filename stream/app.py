"""The composition root: it alone names concrete parts and puts a worker together. Importing it does nothing."""

import asyncio
import dataclasses
import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import click
import faust
from aiokafka.errors import KafkaConnectionError
from faust.types import TP
from prometheus_client import CollectorRegistry

from stream.core.budget import ODD
from stream.errors import BrokerSilentError, OfferstreamError, SetupError
from stream.health import AdminServer, Progress, admin_app
from stream.kafka.cluster import admin_client, look
from stream.kafka.control import Control
from stream.kafka.lag import Lag
from stream.kafka.outside import Outside
from stream.kafka.partitions import Flow, Partitions
from stream.kafka.rocksdb import RocksDB
from stream.kafka.shared import Shared
from stream.kafka.table import PartitionManager
from stream.metrics import Metrics, loop_monitor
from stream.settings import PREFIX, Settings, client_id, from_environment
from stream.topology import answer_silence, connect, process

logger = logging.getLogger(__name__)

EXIT_BUG = 70
"""Exit code when something was raised that should not be (EX_SOFTWARE of sysexits.h)."""

STOP_TIMEOUT_S = 25.0
SAMPLE_INTERVAL_S = 2.0
TAKE_OVER = "taking over partitions"

SWITCH_INTERVAL_S = 0.001
"""How long a thread may compute before another one gets its turn: with Python's 5 ms and six busy threads the event
loop waited 30 ms.
"""

GC_THRESHOLD = 50_000
"""Objects made before the garbage collector looks for cycles: a batch makes some 10,000, and none of them holds a
cycle.
"""


class App(faust.App):
    """A Faust app that knows its partitions, and that ends the process when any part of it crashes.

    Faust would restart agents, or go on with parts of itself stopped. Here the state that counts lies in Kafka, and the
    next process takes over from it, so ending at once is the safe thing and the simple one.
    """

    partitions: Partitions

    @staticmethod
    def fatal(error: BaseException) -> NoReturn:
        """Log and end, without committing anything."""
        if isinstance(error, KafkaConnectionError):  # Faust's clients while they start; later they try again themselves
            error = BrokerSilentError(f"no answer from Kafka: {error}")
        if isinstance(error, OfferstreamError):
            logger.critical("%s: %s", type(error).__name__, error)
            code = error.exit_code
        else:
            logger.critical("unexpected error, ending without committing", exc_info=error)
            code = EXIT_BUG
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:  # noqa: ANN401 Faust's own signature
        """Faust would ack the batch and go on."""
        del agent
        self.fatal(exc)

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.fatal(reason)


def build_app(settings: Settings, metrics: Metrics, control: Control) -> App:
    """Put the worker's Faust app together."""
    session_s = settings.session_timeout_ms / 1000
    app = App(
        settings.app_id,
        broker=[f"offerstream://{server.strip()}" for server in settings.bootstrap.split(",")],
        broker_client_id=client_id(settings),
        TableManager=PartitionManager,
        autodiscover=False,
        store="memory://",  # the rows' store is the partitions' own
        datadir=str(settings.data_dir / "faust"),
        topic_allow_declare=False,  # `topics create` does
        topic_disable_leader=True,
        web_enabled=False,
        consumer_group_instance_id=settings.instance_id or None,
        consumer_max_fetch_size=max(settings.batch_bytes, 1 << 20),
        broker_max_poll_records=4 * settings.batch_rows,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=settings.heartbeat_interval_s,
        broker_request_timeout=max(90.0, session_s + 10),
        broker_rebalance_timeout=max(60.0, session_s),
        broker_max_poll_interval=max(300.0, 2 * session_s),
        broker_commit_interval=1.0,
        stream_buffer_maxsize=2,  # counts batches
        stream_wait_empty=True,
        stream_recovery_delay=0,  # it would sleep in every rebalance
        table_standby_replicas=settings.standbys,
    )
    app.partitions = Partitions(
        Shared(
            settings=settings,
            metrics=metrics,
            compute=ThreadPoolExecutor(1, "compute"),
            process=process,
            answer=answer_silence,
            fatal=app.fatal,
            outside=Outside(RocksDB(settings.store_cache_bytes)),
        ),
        # Faust makes its table manager when it is asked for, and that asks for the partitions.
        Flow(
            lambda number: app.tables.recovery.hold(number),  # noqa: PLW0108
            lambda number: app.tables.recovery.go_on(number),  # noqa: PLW0108
        ),
    )
    connect(app, app.partitions, control, settings)
    return app


def _print_tasks() -> None:
    """Of all loops, since the consumer has one of its own: each with what it waits for, the innermost last."""
    kept = "_all_tasks" if hasattr(asyncio.tasks, "_all_tasks") else "_scheduled_tasks"  # the latter since Python 3.12
    for task in list(getattr(asyncio.tasks, kept)):
        lines, at = [], task.get_coro()
        while frame := getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None):
            lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
            at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)
        print("\n".join([f"task {task.get_name()}", *lines]), file=sys.stderr)
    sys.stderr.flush()


async def run(settings: Settings) -> None:
    """Run a worker until a signal stops it.

    Raises:
        SetupError: what it runs on is not as it needs it.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    if hasattr(signal, "SIGUSR1"):  # threads at once, where it hangs and not where it may be interrupted; then tasks
        loop.add_signal_handler(signal.SIGUSR1, _print_tasks)
        faulthandler.register(signal.SIGUSR1, chain=True)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise SetupError(
            f"data folder {settings.data_dir}: {e.strerror}. Set {PREFIX}DATA_DIR to one that can be made"
        ) from e
    metrics = Metrics(CollectorRegistry())
    loop_monitor(loop, metrics.loop_held)
    admin = admin_client(settings.bootstrap, client_id(settings))
    await loop.run_in_executor(None, look, settings, admin)
    control = Control(settings, metrics, App.fatal)
    await loop.run_in_executor(None, control.start)
    app = build_app(settings, metrics, control)
    lag = Lag(app.partitions.committable, settings.bootstrap, admin)
    serving = app.tables.recovery.completed.is_set
    progress = Progress(
        positions=lambda: _places(app.partitions.committable()) | {TAKE_OVER: metrics.restore_rows_read()},
        lag=lambda: _places(lag.by_partition()) | {TAKE_OVER: int(lag.known and not serving())},
        stall_s=settings.stall_ms / 1000,
    )
    server = AdminServer(
        admin_app(
            metrics.registry,
            progress.complaint,
            lambda: "" if serving() else TAKE_OVER,
        )
    )
    try:
        port = await server.start(settings.admin_host, settings.admin_port)
    except OSError as e:
        raise SetupError(
            f"admin port {settings.admin_host}:{settings.admin_port}: {e.strerror}. "
            f"Set {PREFIX}ADMIN_PORT to a free one, or to 0"
        ) from e
    logger.info("worker %s: metrics and probes at http://%s:%d", settings.app_id, settings.admin_host, port)
    _tune_interpreter()
    starting = asyncio.ensure_future(app.start())
    sampling = asyncio.ensure_future(_sample(app.partitions, lag, metrics))
    for task in (starting, sampling):
        task.add_done_callback(_fatal_if_failed)
    await stop.wait()
    logger.info("stopping: finishing what is in work")
    sampling.cancel()
    for sig in (signal.SIGTERM, signal.SIGINT):  # a second one ends at once
        loop.remove_signal_handler(sig)
    stopping = asyncio.ensure_future(app.stop())
    await asyncio.wait({stopping}, timeout=STOP_TIMEOUT_S)
    if not stopping.done():
        App.fatal(TimeoutError(f"not stopped within {STOP_TIMEOUT_S:.0f} s"))
    _fatal_if_failed(stopping)  # some of its threads may live, and would keep the process
    control.stop()
    await server.stop()
    logger.info("stopped")


def _tune_interpreter() -> None:
    """Let no thread keep the others waiting: the event loop shares its interpreter with computing and sending."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()  # what start-up made stays
    gc.set_threshold(GC_THRESHOLD)


def _fatal_if_failed(task: "asyncio.Future[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        App.fatal(error)


def _places(by_partition: Mapping[TP, int]) -> dict[Hashable, int]:
    """As a complaint names them."""
    return {f"{tp.topic}[{tp.partition}]": n for tp, n in by_partition.items()}


async def _sample(partitions: Partitions, lag: Lag, metrics: Metrics) -> None:
    """Keep the gauges current."""
    loop = asyncio.get_running_loop()
    while True:
        await loop.run_in_executor(None, lag.look)
        await partitions.look()
        for tp, n in lag.by_partition().items():
            metrics.lag_events.labels(tp.topic, str(tp.partition)).set(n)
        metrics.rows["stored"].set(partitions.rows_stored())
        metrics.rows["hot"].set(partitions.rows_hot())
        odd = partitions.odd()
        for what in ODD:
            metrics.odd.labels(what).set(odd.get(what, 0))
        await asyncio.sleep(SAMPLE_INTERVAL_S)


def _settings_help() -> str:
    """Every setting, for --help."""
    lines = ["\b", "Settings (environment variables):"]
    for f in dataclasses.fields(Settings):
        lines.append(f"  {PREFIX}{f.name.upper()}={f.default}")
        lines.append(f"      {f.metadata['doc']}")
    lines += [
        "",
        "\b",
        "Examples:",
        "  KAFKA_BOOTSTRAP=kafka:9092 python -m stream worker",
        f"  {PREFIX}ADMIN_PORT=0 python -m stream worker --log-level debug",
    ]
    return "\n".join(lines)


@click.command("worker", epilog=_settings_help())
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="The least that is logged, to standard error.",
)
def worker_command(log_level: str) -> None:
    """Run a worker: events in, offers out, until SIGTERM or Ctrl-C.

    It takes what the consumer group gives it of the partitions, restores their rows, and serves. Exit code 0 after a
    signal, 1 when something it runs on is not as it should be, 2 for bad settings, 70 for a bug; only 0 has committed
    everything it did. SIGUSR1 writes to standard error where every thread and task stands.
    """
    settings = from_environment()
    logging.basicConfig(
        level=log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.Formatter.converter = time.gmtime
    if log_level != "debug":  # services tell of their own start and stop under the names of our modules
        logging.getLogger().handlers[0].addFilter(lambda record: not record.getMessage().startswith("[^"))
    for name in ("faust", "mode", "aiokafka", "aiohttp"):
        logging.getLogger(name).setLevel(logging.DEBUG if log_level == "debug" else logging.ERROR)
    asyncio.run(run(settings))
