"""`python -m tests.simulation [SCHEDULES [SEED]]`: how many schedules a minute, and one hash of all that happened."""

import hashlib
import resource
import sys
import time

from tests.simulation.schedules import run_all


def main() -> None:
    given = [int(one) for one in sys.argv[1:]]
    n, seed = [*given, *(200, 0)[len(given) :]]
    found = hashlib.sha256()
    wrong = events = 0
    began_s = time.perf_counter()
    for ran in run_all(range(seed, seed + n)):
        events += ran.drawn
        found.update(ran.trace.encode())
        if ran.said:
            wrong += 1
            print(f"SIMULATION_SEED={ran.seed}", *ran.said, sep="\n")
    wall_s = time.perf_counter() - began_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = used.ru_utime + used.ru_stime
    print(f"{n} schedules, {wrong} went wrong; {events / n:.0f} draws each; {n / wall_s * 60:.0f} a minute, "
          f"{n / used_s * 60:.0f} a minute of CPU; trace {found.hexdigest()[:16]}")  # fmt: skip
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
