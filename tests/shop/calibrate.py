"""Recomputes what stream/shop/calibration.py holds, from the recorded logs.

    python -m tests.shop.calibrate FOLDER

prints the constants; the test beside it compares them.
"""

import csv
import gzip
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("pv", "cart", "fav", "buy")
FIRST_S = 1_511_539_200  # 2017-11-25 00:00 UTC+8
LAST_S = FIRST_S + 9 * 86_400
SESSION_GAP_S = 1_800
QUANTILES = (*(i / 20 for i in range(20)), 0.99, 1.0)


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))


def quantiles(values: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(v) for v in np.quantile(values, QUANTILES, method="higher"))


def taobao(folder: Path) -> dict[str, Any]:
    """Who does what in which order, in sessions that end with half an hour of silence."""
    log = [(int(u), int(t), KINDS.index(k), int(i), int(c)) for u, i, c, k, t in rows(folder / "taobao_users.csv.gz")]
    log = sorted(event for event in log if FIRST_S <= event[1] < LAST_S)
    sessions: list[list[tuple[int, int, int, int, int]]] = []
    for event in log:
        previous = sessions[-1][-1] if sessions else None
        if previous is None or event[0] != previous[0] or event[1] - previous[1] > SESSION_GAP_S:
            sessions.append([])
        sessions[-1].append(event)
    after_first, first, same_category = np.zeros((4, 4), int), np.zeros(4, int), 0
    gaps = []
    viewed_in_session = bought = viewed_ever = 0
    ever: dict[int, set[int]] = {}
    for session in sessions:
        first[session[0][2]] += 1
        here: set[int] = set()
        seen = ever.setdefault(session[0][0], set())
        for before, event in zip([None, *session], session, strict=False):
            if before is not None:
                after_first[before[2], event[2]] += 1
                gaps.append(event[1] - before[1])
                same_category += before[4] == event[4]
            if event[2] == KINDS.index("buy"):
                bought += 1
                viewed_in_session += event[3] in here
                viewed_ever += event[3] in seen
            here.add(event[3])
            seen.add(event[3])
    users = Counter(event[0] for event in log)
    visits = Counter(session[0][0] for session in sessions)
    buys = Counter(event[0] for event in log if event[2] == KINDS.index("buy"))
    hours = np.bincount([(event[1] // 3600 + 8) % 24 for event in log], minlength=24)
    return {
        "KIND_COUNTS": tuple(int(n) for n in np.bincount([event[2] for event in log])),
        "FIRST_KINDS": tuple(int(n) for n in first),
        "NEXT_KINDS": tuple(tuple(int(n) for n in row) for row in after_first),
        "SESSION_EVENTS": quantiles(np.array([len(session) for session in sessions])),
        "GAP_S": quantiles(np.array(gaps)),
        "VISITS_9D": quantiles(np.array(list(visits.values()))),
        "VISITS_9D_MEAN": round(len(sessions) / len(users), 3),
        "SAME_CATEGORY": round(same_category / len(gaps), 3),
        "BOUGHT_SEEN_IN_SESSION": round(viewed_in_session / bought, 3),
        "BOUGHT_SEEN_BEFORE": round(viewed_ever / bought, 3),
        "BUYERS_9D": round(len(buys) / len(users), 3),
        "BUYS_9D_VARIANCE_TO_MEAN": round(dispersion([buys[user] for user in users]), 2),
        "HOUR_EVENTS": tuple(int(n) for n in hours),
    }


def dispersion(counts: Sequence[int]) -> float:
    return float(np.var(counts) / np.mean(counts))


def rees46(folder: Path) -> dict[str, Any]:
    """Prices in minor units, as far as they are known."""
    header, *log = rows(folder / "rees46_views.csv.gz")
    price, kind = header.index("price"), header.index("event_type")
    prices = np.array([int(r[price].replace(".", "")) for r in log if r[kind] == "view"])
    return {"PRICE_MINOR": quantiles(prices[prices > 0])}


def completejourney(folder: Path) -> dict[str, Any]:
    """How many of those who got a campaign redeemed a coupon of it."""
    _, *targeted = rows(folder / "completejourney_campaigns.csv.gz")
    header, *redeemed = rows(folder / "completejourney_coupon_redemptions.csv.gz")
    campaign, household = header.index("campaign_id"), header.index("household_id")
    pairs = {(c, h) for c, h in targeted}
    taken = {(r[campaign], r[household]) for r in redeemed} & pairs
    return {"TARGETED": len(pairs), "REDEEMED": len(taken)}


def figures(folder: Path) -> dict[str, Any]:
    return taobao(folder) | rees46(folder) | completejourney(folder)


if __name__ == "__main__":
    for name, value in figures(Path(sys.argv[1])).items():
        print(f"{name} = {value}")
