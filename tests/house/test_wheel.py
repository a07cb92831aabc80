"""A wheel holds all that runs: an image or an index serves wheels, where a file that was left out is missed last."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("stream", "training")


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in CODE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    done = subprocess.run(
        [*pip, "--wheel-dir", tmp_path, source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = {str(path.relative_to(ROOT)) for name in CODE for path in (ROOT / name).rglob("*") if path.is_file()}
    wanted = {file for file in files if "__pycache__" not in file}
    assert {file for file in wanted if not file.endswith(".py")}, "the packages have files besides code"
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()
