"""`make faults`: the whole suite, into var/faults.json. FAULTS, SEED and MINUTES in the environment change it.

KINDS=kill,broker_kill hunts with some kinds alone.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.judge import judge
from tests.faults.suite import Suite

OUT = Path(__file__).resolve().parents[2] / "var" / "faults.json"
FAULTS = 200
MINUTES_MAX = 32.0
"""Nothing is injected after this; what is under way then is brought to its end and judged."""


def run(
    folder: Path, seed: int, n: int, minutes_max: float, only: Collection[str] = ()
) -> tuple[Suite, dict[str, Any]]:
    """One run and its report."""
    suite = Suite(folder, seed, say=lambda line: print(line, flush=True))
    began_s = time.monotonic()
    with suite.running():
        for kind in suite.plan(n, only):
            if time.monotonic() - began_s > 60 * minutes_max:
                print(f"time is up after {suite.faults.total()} of {n} faults")
                break
            suite.inject(kind)
        suite.end()
        verdict = judge(suite.shop, suite.models, all_swept=not suite.faults["clock_jump"])
    ended = [text for seat in suite.seats for text in seat.ended]
    for text in (*verdict.said, *suite.stuck, *ended):
        print(text, file=sys.stderr)
    p50, p99 = np.percentile(suite.recovery_s, [50, 99]).round(2).tolist() if suite.recovery_s else (None, None)
    found = verdict._asdict()
    del found["said"]
    return suite, {
        "seed": seed,
        "faults": dict(sorted(suite.faults.items())),
        "kill_points": dict(sorted(suite.points.items())),
        "missed": suite.missed,
        **found,
        "stuck": len(suite.stuck),
        "ended": len(ended),
        "recovery_s": {"p50": p50, "p99": p99},
        "minutes": round((time.monotonic() - began_s) / 60, 1),
    }


def main() -> int:
    """Exit code 1 when anything is wrong."""
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"seed {seed}; SEED={seed} repeats the plan")
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    n, minutes = int(os.environ.get("FAULTS", FAULTS)), float(os.environ.get("MINUTES", MINUTES_MAX))
    only = [kind for kind in os.environ.get("KINDS", "").split(",") if kind]
    _, report = run(folder, seed, n, minutes, only)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    wrong = any(report[bad] for bad in ("lost", "duplicated", "mismatched_rows", "stuck", "ended"))
    if wrong:
        print(f"the broker's data, the workers' logs and disks are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
