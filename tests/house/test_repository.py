"""The repository speaks of itself alone: locks without addresses, no path of a machine, modules of a size to read."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stream import cli

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = ("all.lock", "worker.lock")
MODULE_LINES_MAX = 400
NOT_OURS = {".venv", ".git", "var", "build", "dist"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def files() -> list[Path]:
    """Every file of the project. Without git, which a user's machine may not have: by leaving out what is made."""
    found = []
    for top in ROOT.iterdir():
        if top.name not in NOT_OURS and not top.name.endswith((".egg-info", "_cache")):
            found += [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and ".hypothesis" not in path.parts]


def text_files() -> list[tuple[Path, str]]:
    texts = []
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content[:8000]:
            texts.append((path.relative_to(ROOT), content.decode("utf-8", errors="replace")))
    assert len(texts) > 50
    return texts


def pinned(name: str) -> dict[str, list[tuple[Requirement, int]]]:
    """Package -> its lines in a lock file (one for each marker), with how many hashes each has."""
    found: dict[str, list[tuple[Requirement, int]]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / "deploy" / "requirements" / name).read_text(encoding="utf-8").strip()):
        head, *hashes = entry.split(" \\\n")
        requirement = Requirement(head)
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), entry
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, len(hashes)))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_exact_versions_by_hash_and_names_no_address(name: str) -> None:
    text = (ROOT / "deploy" / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for lines in pinned(name).values():
        for requirement, hashes in lines:
            assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), requirement
            assert hashes, requirement


def test_everything_the_project_asks_for_is_locked_and_fits() -> None:
    every = [*PROJECT["dependencies"], *(text for texts in PROJECT["optional-dependencies"].values() for text in texts)]
    for name, asked in (("worker.lock", PROJECT["dependencies"]), ("all.lock", every)):
        locked = pinned(name)
        for text in asked:
            requirement = Requirement(text)
            lines = locked.get(canonicalize_name(requirement.name))
            assert lines, f"{name} lacks {requirement}: make lock"
            for line, _ in lines:
                version = str(line.specifier).removeprefix("==")
                assert requirement.specifier.contains(version), f"{name}: {line} does not fit {requirement}: make lock"


def test_a_worker_gets_the_same_versions_and_of_the_extras_signatures_only() -> None:
    worker, every = pinned("worker.lock"), pinned("all.lock")
    for name, lines in worker.items():
        assert [str(line) for line, _ in lines] == [str(line) for line, _ in every[name]]
    extras = {
        canonicalize_name(Requirement(text).name)
        for extra in ("training", "explain", "demo", "dev")
        for text in PROJECT["optional-dependencies"][extra]
    }
    assert not extras & worker.keys()
    assert "cryptography" in worker  # a worker that is given a key must be able to use it


def test_the_extras_named_on_the_command_line_exist_and_bring_the_package() -> None:
    distribution = {"sklearn": "scikit-learn", "tensorflow": "tensorflow"}
    for package, extra in cli.EXTRA_OF_PACKAGE.items():
        brought = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"][extra]}
        assert distribution.get(package, package) in brought


# Written in parts, so that this file does not find itself.
FOREIGN = {
    "a path of one machine": re.compile("|".join(["/" + "work/", "/" + "root/", "/home/" + r"\w+/", "/" + "Users/"])),
    "the address of a registry": re.compile(
        "|".join(
            ["pypi" + r"\.org", "pythonhosted" + r"\.org", "repo1?" + r"\.maven\.", "maven" + r"\.apache\.org/maven2"]
        )
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_repository_names_nothing_of_elsewhere(what: str) -> None:
    found = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        if FOREIGN[what].search(line)
    ]
    assert found == []


def test_the_top_level_is_the_agreed_one() -> None:
    agreed = {
        ".ci",
        ".gitignore",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "deploy",
        "docs",
    }
    agreed |= {"pyproject.toml", "schemas", "stream", "tests", "training"}
    assert {path.parts[0] for path, _ in text_files()} == agreed


def test_modules_are_short_enough_to_read() -> None:
    long = {
        str(path): lines
        for path, text in text_files()
        if path.suffix == ".py" and path.parts[0] in {"stream", "training", "deploy"}
        if (lines := text.count("\n")) > MODULE_LINES_MAX
    }
    assert long == {}, "ask what two things each of them holds"
