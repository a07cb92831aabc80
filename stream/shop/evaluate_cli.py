"""`make shop-eval`: what policies earn in simulated shops, on the stream's own code, into var/shop.json.

Each seed's figures are written beside it when they are there, so that a run that was cut off goes on with --resume.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stream.shop.earned import Earned, summary
from stream.shop.evaluate import HISTORY_DAYS, JUDGED_DAYS, LEARNING_DAYS, POLICIES, REFERENCE_SHOPS, one_seed, told_of


def main() -> None:
    """Judge the policies over some seeds, and write the summary."""
    parser = argparse.ArgumentParser(prog="make shop-eval", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--customers", type=int, default=2_500)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="seeds at a time")
    parser.add_argument("--shifts", type=float, default=0.0, help="share of customers who become like others half-way")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument(
        "--resume", action="store_true", help="take over seeds that were done before, by the same settings"
    )
    parser.add_argument("--json", type=Path, default=Path("var/shop.json"))
    arguments = parser.parse_args()
    needed = {"none", "threshold", "profit", "oracle"}
    if not needed <= set(arguments.policies):
        parser.error(f"--policies: {', '.join(sorted(needed))} are needed")
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    parts = {seed: arguments.json.with_name(f"{arguments.json.stem}-seed{seed}.json") for seed in seeds}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    left = [seed for seed in seeds if not (arguments.resume and parts[seed].exists())]
    began_s = time.monotonic()
    if left:
        with ProcessPoolExecutor(min(arguments.processes, len(left))) as pool:
            _say(f"{len(left)} seeds to do; first what rows can tell of customers, in shops of their own")
            parts_told = list(pool.map(partial(told_of, customers=arguments.customers), REFERENCE_SHOPS))
            facts, types = (np.concatenate(part) for part in zip(*parts_told, strict=True))
            judged = partial(
                one_seed, customers=arguments.customers, names=tuple(arguments.policies), told=(facts, types)
            )
            waiting = {pool.submit(judged, seed, shifts=arguments.shifts): seed for seed in left}
            for n, done in enumerate(as_completed(waiting), 1):
                one = done.result()
                parts[one["seed"]].write_text(json.dumps(_plain(one)) + "\n", "utf-8")
                minutes = (time.monotonic() - began_s) / 60
                _say(f"seed {one['seed']}: {one['seconds']:.0f} s; {n} of {len(left)} after {minutes:.1f} minutes")
    found = [_from_plain(json.loads(parts[seed].read_text("utf-8"))) for seed in seeds]
    result = summary(found, {"history": HISTORY_DAYS, "learning": LEARNING_DAYS, "judged": JUDGED_DAYS})
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    _show(result)


def _plain(one: dict[str, Any]) -> dict[str, Any]:
    policies = {name: earned._asdict() for name, earned in one["policies"].items()}
    return {**one, "learning": one["learning"]._asdict(), "policies": policies}


def _from_plain(one: dict[str, Any]) -> dict[str, Any]:
    policies = {name: Earned(**earned) for name, earned in one["policies"].items()}
    return {**one, "learning": Earned(**one["learning"]), "policies": policies}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(result: dict[str, Any]) -> None:
    for name, policy in result["policies"].items():
        low, high = policy["incremental_margin"]["ci"]
        value = policy["incremental_margin"]["value"]
        print(f"{name:12} {value:10,.2f}  [{low:10,.2f}, {high:10,.2f}]  spent {policy['spent']:10,.2f}")
    for what, one in (
        ("best from rows", result["reachable_from_rows"]["incremental_margin"]),
        ("learning cost", result["learning_cost"]),
        ("from cold start", result["from_cold_start"]),
    ):
        print(f"{what} {one['value']:,.2f}  [{one['ci'][0]:,.2f}, {one['ci'][1]:,.2f}]")
    print(
        f"budget {result['budget']:,.2f}; profit / threshold {_told(result['profit_over_threshold'])}; of the oracle's:"
    )
    print(f"  realised {_told(result['profit_share_of_oracle'])}")
    print(f"  by expectation {_told(result['expected_share_of_oracle'])}")
    print(f"  best from rows, by expectation {_told(result['rows_expected_share_of_oracle'])}")


def _told(share: dict[str, Any]) -> str:
    return f"{share['value']:.1%} [{share['ci'][0]:.1%}, {share['ci'][1]:.1%}]"


if __name__ == "__main__":
    main()
