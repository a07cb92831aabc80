"""Which part may import which. The arrows point one way; a cycle or a framework in the core shows here."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# What the trainer takes from the worker: the core (one absorb), the codecs (recorded events in), whole topics, reading
# and checking of model files (a gate that another reader than the worker's passes proves nothing), the formats of
# recorded logs.
TRAINING_MAY = (
    "stream.campaigns.control",
    "stream.campaigns.learn",
    "stream.campaigns.publish",
    "stream.core",
    "stream.errors",
    "stream.explain.shapley",
    "stream.kafka.codec",
    "stream.kafka.decode",
    "stream.kafka.topics",
    "stream.scoring",
    "stream.shop.fields",
    "stream.shop.formats",
    "stream.shop.lines",
    "stream.shop.mapping",
)
# What a worker's install does not have.
NOT_IN_A_WORKER = (
    *("tensorflow", "keras", "tf2onnx", "onnx", "skl2onnx", "sklearn", "statsmodels"),
    *("matplotlib", "pyarrow", "dask", "distributed", "shap"),
)
DEVELOPMENT = ("pytest", "hypothesis", "psutil", "tests")


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file, wherever it stands: at the top, in a function, for type checking only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            base = node.module or ""
            # `from stream import core` names a module too.
            names = [f"{base}.{alias.name}" for alias in node.names if (ROOT / base.replace(".", "/")).is_dir()]
            yield from ((node.lineno, name) for name in names or [base])


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def offences(package: str, *, allowed: tuple[str, ...] | None = None, forbidden: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules(package)
        for line, name in imported(path)
        if within(name, forbidden) or (allowed is not None and not within(name, allowed))
    ]


def test_the_core_is_numpy_and_the_standard_library() -> None:
    assert offences("stream/core", allowed=("numpy", "stream.core", *sys.stdlib_module_names)) == []


def test_the_core_reads_no_clock_no_environment_and_does_no_io() -> None:
    outside = ("os", "time", "io", "random", "secrets", "socket", "logging", "threading", "subprocess", "pathlib")
    assert offences("stream/core", forbidden=outside) == []


def test_a_worker_needs_nothing_of_training_or_of_the_tests() -> None:
    """`stream explain` has an extra of its own, imported late."""
    found = offences("stream", forbidden=("training", *NOT_IN_A_WORKER, *DEVELOPMENT))
    explains = [one for one in found if one.startswith("stream/explain/")]
    assert {one.rsplit(" ", 1)[1] for one in explains} == {"shap", "matplotlib.figure"}
    assert [one for one in found if one not in explains] == []


def test_nothing_of_a_worker_imports_what_explains() -> None:
    paths = [path for path in modules("stream") if path.parent.name != "explain"]
    assert [path for path in paths for _, name in imported(path) if within(name, ("stream.explain",))] == []


def test_the_trainer_takes_from_the_worker_only_what_both_must_share() -> None:
    own = [
        name
        for name in {name for path in modules("training") for _, name in imported(path)}
        if within(name, ("stream",))
    ]
    assert own, "the trainer calls the worker's absorb, so it imports something"
    strays = offences("training", forbidden=DEVELOPMENT)
    strays += [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules("training")
        for line, name in imported(path)
        if within(name, ("stream",)) and name != "stream" and not within(name, TRAINING_MAY)
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import os.path, sys", ["os.path", "sys"]),
        ("from stream import core", ["stream.core"]),
        ("def f():\n    from training import x", ["training.x"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import keras", ["typing", "keras"]),
    ],
)
def test_every_way_of_importing_is_seen(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert [name for _, name in imported(path)] == names


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("from . import x")
    with pytest.raises(AssertionError, match="relative"):
        list(imported(tmp_path / "module.py"))
