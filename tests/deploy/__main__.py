"""`make deploy-test`: get helm and promtool, then run the tests of this folder.

Where a tool cannot be had, its tests are skipped and the last lines say so; in CI (CI=true) that is a failure.
"""

import subprocess
import sys
from pathlib import Path

from tests.deploy import tools


def main() -> int:
    """Exit code: pytest's."""
    tools.get_all()
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-m", "pytest", "-q", str(here), *sys.argv[1:]]
    return subprocess.run(command, cwd=tools.ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
