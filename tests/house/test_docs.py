"""The pages say what is there: the command line's page is what the commands say, links lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])


@pytest.fixture(scope="module")
def writer() -> Any:
    """deploy/tools/write_cli_docs.py, a program and not in any package."""
    spec = importlib.util.spec_from_file_location("write_cli_docs", ROOT / "deploy" / "tools" / "write_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    # In a process of its own: click keeps the help option a command was first called with, be it by another test.
    program = "import runpy, sys; sys.stdout.write(runpy.run_path('deploy/tools/write_cli_docs.py')['page']())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == done.stdout, "make docs"


def test_every_command_and_every_option_explains_itself(writer: Any) -> None:
    seen = list(writer.commands())
    assert len(seen) > 20
    mute = [context.command_path for command, context in seen if not command.help]
    mute += [
        f"{context.command_path} {option.name}"
        for command, context in seen
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert mute == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        path = page.parent / target.split("#")[0]
        assert path.exists(), f"{target} does not exist"
        assert ROOT in path.resolve().parents


def test_tests_that_pages_name_are_there() -> None:
    """And every line of the protocol's table names one."""
    for page in PAGES:
        for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")):
            assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), f"{page.name}: {path}::{name}"
    table = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    rules = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    assert rules
    assert all(re.search(r"::test_\w+` \|$", line) for line in rules)


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert targets == explained
    for target in re.findall(r"`make ([a-z-]+)", "".join(page.read_text(encoding="utf-8") for page in PAGES)):
        assert target in targets, f"the pages name `make {target}`"
