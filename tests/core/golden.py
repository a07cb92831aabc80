"""Golden packed rows: what a format wrote must be read for ever.

`python -m tests.core.golden` writes the present format's file, once.
"""

import base64
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from stream.core.row import N_FENCES, N_OFFER_DAYS, N_STATE, ROW, ROW_FORMAT, new_rows, pack
from tests.core import oracle
from tests.core.logs import of_user, random_log

FOLDER = Path(__file__).parent / "golden"


def golden_rows() -> list[dict[str, Any]]:
    """Rows told by the oracle, from unknown to crowded, with what model, decisions and store write beside."""
    draw = Random(1)
    rows: list[dict[str, Any]] = [{}]
    for seed, n in ((1, 1), (2, 5), (3, 40), (4, 120)):
        halves = [struct.unpack("<e", struct.pack("<e", draw.uniform(-1, 1)))[0] for _ in range(N_STATE)]
        others = {
            "fence": [draw.randint(0, 2**40) for _ in range(N_FENCES)],
            "model": draw.randint(1, 2**64 - 1),
            "state": halves,
            "offers_made": draw.randint(0, 9),
            "offer_last_ms": draw.randint(0, 2**41),
            "offer_day": draw.randint(0, 2**16 - 1),
            "offer_days": [draw.randint(0, 255) for _ in range(N_OFFER_DAYS // 2)],
            "open_offer": draw.randint(0, 2**32 - 1),
            "open_campaign": draw.randint(0, 2**32 - 1),
            "open_cost": draw.randint(0, 2**32 - 1),
        }
        rows.append(oracle.row(of_user(random_log(Random(seed), n, 1), 0)) | others)
    return rows


def main() -> None:
    told = golden_rows()
    table = new_rows(len(told))
    for row, fields in zip(table, told, strict=True):
        for name, value in fields.items():
            row[name] = value
    path = FOLDER / f"row-{ROW_FORMAT}.json"
    with path.open("x") as file:  # a golden file is never written again
        json.dump(
            {
                "format": ROW_FORMAT,
                "fields": {name: [str(ROW[name].base), ROW[name].shape] for name in ROW.names or ()},
                "rows": [
                    {"packed": base64.b64encode(packed).decode(), "fields": fields}
                    for packed, fields in zip(pack(table), told, strict=True)
                ],
            },
            file,
        )
        file.write("\n")


if __name__ == "__main__":
    main()
