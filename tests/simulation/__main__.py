"""`python -m tests.simulation [SCHEDULES [SEED]]`: how many schedules a minute, and one hash of all that happened."""

import hashlib
import sys
import time

from tests.simulation.schedules import folder, run


def main() -> None:
    given = [int(one) for one in sys.argv[1:]]
    n, seed = [*given, *(200, 0)[len(given) :]]
    found = hashlib.sha256()
    wrong = events = 0
    with folder() as disks:
        run(disks, 0)  # imports, and what is made once
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for one in range(seed, seed + n):
            world, said = run(disks, one)
            events += world.loop.drawn
            found.update(world.trace().encode())
            if said:
                wrong += 1
                print(f"SIMULATION_SEED={one}", *said, sep="\n")
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    print(f"{n} schedules, {wrong} went wrong; {events / n:.0f} draws each; {n / wall_s * 60:.0f} a minute, "
          f"{n / cpu_s * 60:.0f} a minute of CPU; trace {found.hexdigest()[:16]}")  # fmt: skip
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
