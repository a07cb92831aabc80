"""`python -m stream broker`: a Kafka to try things on, that goes on running until it is stopped."""

import signal
import sys
from pathlib import Path

import click

from stream.broker import status
from stream.broker.embedded import HEAP_MB, EmbeddedBroker

DEFAULT_FOLDER = Path("var/broker")
DEFAULT_PORT = 9092

data_option = click.option(
    "--data-dir",
    "data",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Its data folder; one broker a folder.",
)


@click.group(
    epilog="""\b
Examples:
  python -m stream broker start                     in the background, on port 9092
  python -m stream broker start --port 0            on any free port; `status` names it
  python -m stream broker start --foreground        until Ctrl-C
  python -m stream broker status --json
  python -m stream broker stop

A cluster that is there already is used by setting KAFKA_BOOTSTRAP=host:port instead.
"""
)
def broker() -> None:
    """A real Apache Kafka on this machine: one node, KRaft, loopback only."""


@broker.command()
@data_option
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free port."
)
@click.option("--heap-mb", type=click.IntRange(256), default=HEAP_MB, show_default=True, help="The JVM's heap.")
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, then stop it.")
def start(data: Path, port: int, heap_mb: int, foreground: bool) -> None:
    """Start it and return when it takes requests (the first time: fetch Kafka, 43 MB)."""
    running = status.state(data)
    if running.running:
        message = f"a broker is running in {data} already, at {running.bootstrap}; `broker stop` stops it"
        raise click.ClickException(message)
    server = EmbeddedBroker(data, port=port or None, heap_mb=heap_mb, outlive_parent=not foreground)
    # A service manager's SIGTERM is to a foreground broker what Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.start()
    click.echo(f"KAFKA_BOOTSTRAP={server.bootstrap}")
    if not foreground:
        return
    click.echo(f"Kafka is running in {data}; Ctrl-C stops it.", err=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        server.stop()
        return
    message = f"Kafka ended by itself; its log: {data}/logs/server.log"
    raise click.ClickException(message)


@broker.command()
@data_option
def stop(data: Path) -> None:
    """Stop it in order; its topics stay."""
    click.echo("stopped" if status.stop(data) else f"no broker was running in {data}")


@broker.command("status")
@data_option
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def show_status(data: Path, as_json: bool) -> None:
    """Say whether it runs and where. The exit code is 3 when it does not."""
    state = status.state(data)
    if as_json:
        click.echo(state.as_json())
    elif state.running:
        click.echo(
            f"Apache Kafka {state.kafka_version} at {state.bootstrap}, process {state.pid}, data in {state.data}"
        )
    else:
        click.echo(f"no broker is running in {state.data}")
    if not state.running:
        sys.exit(3)
