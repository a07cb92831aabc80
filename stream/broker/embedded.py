"""The embedded broker as an object, and the choice between it and a Kafka that is there already."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from stream.broker import layout, ports, process, runtime
from stream.broker.errors import BrokerError, PortTakenError
from stream.broker.process import folder_in_use
from stream.broker.progress import show_progress
from stream.broker.status import is_running, jvm_pid, write_state

HEAP_MB = 1024
PORT_RACES_MAX = 3
PREFIX = "offerstream-broker-"
"""Of the data folder of a broker that lives as long as a context."""


class EmbeddedBroker:
    """A single Kafka node in a data folder, on loopback ports of its own; it dies with this process, however that ends.

        with EmbeddedBroker(Path("var/broker")) as broker:
            print(broker.bootstrap)  # 127.0.0.1:PORT

    Stopped and started again, or killed and restarted, it comes back on the same ports with the same topics.

    Args:
        data: its data folder; made if missing. What is in it stays when the broker stops.
        port: where clients connect; None for one that is free.
        heap_mb: the JVM's heap.
        outlive_parent: it goes on when this process ends (`broker start`); `stream.broker.status` finds and stops it.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        heap_mb: int = HEAP_MB,
        outlive_parent: bool = False,
    ) -> None:
        self.data = data.absolute()
        self._port = port
        self._heap_mb = heap_mb
        self._outlive_parent = outlive_parent
        self._ports: layout.Ports | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients.

        Raises:
            BrokerError: it was never started.
        """
        if self._ports is None:
            message = "the broker has no address before its first start"
            raise BrokerError(message)
        return f"{layout.HOST}:{self._ports.broker}"

    @property
    def jvm_pid(self) -> int:
        """The process id of the JVM, for tests that stop or slow it.

        Raises:
            BrokerError: it is not running.
        """
        pid = jvm_pid(self.data) if self._process is not None else None
        if pid is None:
            message = f"no broker is running in {self.data}"
            raise BrokerError(message)
        return pid

    def start(self, timeout_s: float = process.READY_TIMEOUT_S) -> None:
        """Start and return when it takes requests; fetches Kafka first where this user has none yet.

        Raises:
            BrokerError: it could not be fetched or started; the message says what to do.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if is_running(self.data):
            # The supervisor's lock would refuse it too, but the running broker's files would be written over by then.
            raise folder_in_use(self.data)
        with show_progress() as progress:
            made = runtime.prepare(progress)
        for race in range(1, PORT_RACES_MAX + 1):
            chosen = self._ports or ports.free_ports(self._port)
            try:
                self._start(made, chosen, timeout_s)
            except PortTakenError:
                # Only ports of our own choice may change, and only before clients know them.
                if self._ports or race == PORT_RACES_MAX:
                    raise
            else:
                self._ports = chosen
                return

    def _start(self, made: process.Runtime, chosen: layout.Ports, timeout_s: float) -> None:
        try:
            layout.lay_out(self.data, chosen, made.template)
        except OSError as error:
            message = f"the data folder {self.data} cannot be used ({error}). Choose another one with --data-dir."
            raise BrokerError(message) from error
        command = process.java_command(made, self.data, self._heap_mb)
        self._process = process.start(command, self.data, outlive_parent=self._outlive_parent)
        try:
            process.wait_until_ready(self._process, self.data, chosen, timeout_s)
        except BaseException:
            # Ctrl-C included: what was begun does not stay behind.
            self.kill()
            raise
        write_state(self.data, f"{layout.HOST}:{chosen.broker}")

    def stop(self) -> None:
        """Stop in order; the topics stay in the data folder."""
        if self._process is not None:
            process.stop(self._process)
            self._process = None

    def kill(self) -> None:
        """`kill -9`: what a power cut leaves, less what the page cache saves."""
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def wait(self) -> None:
        """Return when the broker has ended by itself."""
        if self._process is not None:
            self._process.wait()

    def restart(self) -> None:
        """Stop, if running, and start on the same ports with the same data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def broker_from_environment(parent: Path | None = None) -> Iterator[str]:
    """The bootstrap address of KAFKA_BOOTSTRAP's cluster, else of an embedded broker that lives as long as the context.

    The embedded broker's data folder is a temporary one and is deleted at the end.

    Args:
        parent: where that folder is made; None for where the system has temporary ones.

    Raises:
        BrokerError: neither could be had.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        check_reachable(given)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as folder:
        broker = EmbeddedBroker(Path(folder))
        broker.start()
        try:
            yield broker.bootstrap
        finally:
            # Nothing in the folder is wanted any more, so there is nothing to stop in order for.
            broker.kill()


def check_reachable(bootstrap: str, timeout_s: float = 10) -> int:
    """How many brokers answer at an address.

    Raises:
        BrokerError: none does.
    """
    count = process.count_brokers(bootstrap, timeout_s)
    if not count:
        message = (
            f"no Kafka answers at {bootstrap} (KAFKA_BOOTSTRAP) within {timeout_s:g} s. Start it, correct the address, "
            "or unset KAFKA_BOOTSTRAP to use the embedded broker."
        )
        raise BrokerError(message)
    return count
