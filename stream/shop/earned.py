"""What policies earned in the simulated shop: a copy of the process for each, and the summary over seeds."""

import os
import pickle
import traceback
from collections.abc import Callable, Mapping
from statistics import mean, stdev
from typing import Any, NamedTuple

ROWS = "rows"
"""Beside the policies' names: the best that can be reached from rows."""


class Earned(NamedTuple):
    """What one policy did in one shop."""

    margin_minor: float
    spent_minor: int
    offers: int
    redeemed: int
    price: float
    """Lambda at the end."""
    expected_minor: float = 0.0
    """What the offers earn on average over all draws, by what only the simulation knows."""


def forked(task: Callable[[], Earned]) -> Earned:
    """Do something in a copy of this process: it begins with everything as it is here, and changes nothing here.

    Raises:
        RuntimeError: it failed.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(task(), pipe)
            code = 0
        except BaseException:  # noqa: BLE001 this process ends here, whatever it was
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError("a policy could not be judged; its error stands above")
    earned: Earned = pickle.loads(told)  # noqa: S301 what this very program wrote
    return earned


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and its 95 % interval by Student's t, in major units of money."""
    n = len(values)
    centre = mean(values) / 100
    half = _T975[min(n - 1, len(_T975)) - 1] * stdev(values) / 100 / n**0.5 if n > 1 else 0.0
    return {"value": round(centre, 2), "ci": [round(centre - half, 2), round(centre + half, 2)]}


_T975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
"""Student's t, 97.5 %, by degrees of freedom."""


def share(parts: list[float], wholes: list[float]) -> dict[str, Any]:
    """Ratio of two sums over seeds, and its 95 % interval (delta method, Student's t)."""
    n, whole = len(parts), sum(wholes)
    ratio = sum(parts) / whole if whole else 0.0
    rests = [part - ratio * of for part, of in zip(parts, wholes, strict=True)]
    half = 0.0
    if n > 1 and whole:
        half = _T975[min(n - 1, len(_T975)) - 1] * stdev(rests) * n**0.5 / abs(whole)
    return {"value": round(ratio, 4), "ci": [round(ratio - half, 4), round(ratio + half, 4)]}


def summary(found: list[dict[str, Any]], days: Mapping[str, int]) -> dict[str, Any]:
    """What var/shop.json holds."""

    def of(name: str) -> list[Earned]:
        return [f["policies"][name] for f in found]

    def told(name: str) -> dict[str, Any]:
        return {
            "incremental_margin": interval([e.margin_minor for e in of(name)]),
            "spent": round(mean(e.spent_minor for e in of(name)) / 100, 2),
            "offers": round(mean(e.offers for e in of(name)), 1),
            "redeemed": round(mean(e.redeemed for e in of(name)), 1),
            "expected_margin": interval([e.expected_minor for e in of(name)]),
        }

    def realised(name: str) -> list[float]:
        return [e.margin_minor for e in of(name)]

    def expected(name: str) -> list[float]:
        return [e.expected_minor for e in of(name)]

    return {
        "seeds": [f["seed"] for f in found],
        "currency": "EUR",
        "days": dict(days),
        "budget": round(mean(f["budget_minor"] for f in found) / 100, 2),
        "learning_cost": interval([-f["learning"].margin_minor for f in found]),
        "from_cold_start": interval([f["learning"].margin_minor + f["policies"]["profit"].margin_minor for f in found]),
        "policies": {name: told(name) for name in found[0]["policies"] if name != ROWS},
        "reachable_from_rows": told(ROWS),
        "profit_share_of_oracle": share(realised("profit"), realised("oracle")),
        "expected_share_of_oracle": share(expected("profit"), expected("oracle")),
        "rows_expected_share_of_oracle": share(expected(ROWS), expected("oracle")),
        "profit_over_threshold": share(realised("profit"), realised("threshold")),
    }
