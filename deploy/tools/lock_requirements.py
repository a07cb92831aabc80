"""Write all.lock (every extra) and worker.lock (what a worker needs) in deploy/requirements from pyproject.toml.

Called by `make lock`. uv resolves once for every platform and Python allowed (`--universal`), which pip's
own tools do not; what it writes is plain requirements with hashes that any pip installs, and no address of any registry
is in it. The worker's lock takes its versions from the other one, so both agree.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# A developer's own index, mirror or local wheels may serve the resolution, but must not shape or enter the file.
SHAPING = ("PIP_FIND_LINKS", "UV_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL")


def compile_lock(name: str, *options: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in SHAPING}
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--upgrade", "--universal"]
    command += ["--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", *options, "--output-file", f"deploy/requirements/{name}"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    compile_lock("all.lock", "--all-extras")
    # What a worker is deployed with can check signatures of models, whether it is given a key or not.
    compile_lock("worker.lock", "--extra", "signing", "--constraint", "deploy/requirements/all.lock")


if __name__ == "__main__":
    main()
