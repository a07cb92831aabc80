"""A recorded log through replay and a worker: nothing is lost, and rows are what the file says."""

import csv
import gzip
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream.core.events import SOURCES, Kind
from stream.shop.replay import replay
from tests.e2e.expect import check_rows, pasts
from tests.e2e.harness import Event, Site

DAY_MS = 86_400_000


class User:
    """What a file says of one user, in plain numbers."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.last_ms: dict[Kind, int] = {}
        self.first_ms = 2**62
        self.spend = self.discount = Decimal(0)
        self.times: dict[Kind, list[int]] = defaultdict(list)

    def saw(self, kind: Kind, time_ms: int) -> None:
        self.kinds[kind] += 1
        self.last_ms[kind] = max(self.last_ms.get(kind, 0), time_ms)
        self.first_ms = min(self.first_ms, time_ms)
        self.times[kind].append(time_ms)


def text(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def taobao(path: Path) -> dict[str, User]:
    kinds = {"pv": Kind.PRODUCT_VIEW, "cart": Kind.CART_ADD, "fav": Kind.FAVOURITE, "buy": Kind.ORDER_PLACED}
    users: dict[str, User] = defaultdict(User)
    for user, _, _, behaviour, seconds in csv.reader(text(path)):
        day = datetime.fromtimestamp(int(seconds) + 8 * 3600, UTC).date().isoformat()
        if "2017-11-25" <= day <= "2017-12-03":
            users[user].saw(kinds[behaviour], int(seconds) * 1000)
    return users


def rees46(path: Path) -> dict[str, User]:
    kinds = {"view": Kind.PRODUCT_VIEW, "cart": Kind.CART_ADD, "purchase": Kind.ORDER_PLACED}
    users: dict[str, User] = defaultdict(User)
    for row in csv.DictReader(text(path)):
        moment = datetime.strptime(row["event_time"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
        users[row["user_id"]].saw(kinds[row["event_type"]], int(moment.timestamp()) * 1000)
        if row["event_type"] == "purchase":
            users[row["user_id"]].spend += Decimal(row["price"])
    return users


def completejourney(path: Path) -> dict[str, User]:
    users: dict[str, User] = defaultdict(User)
    baskets: set[str] = set()
    for row in csv.DictReader(text(path)):
        if row["quantity"] == "0":
            continue
        user = users[row["household_id"]]
        if row["basket_id"] not in baskets:
            baskets.add(row["basket_id"])
            moment = datetime.strptime(row["transaction_timestamp"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            user.saw(Kind.ORDER_PLACED, int(moment.timestamp()) * 1000)
        user.spend += Decimal(row["sales_value"])
        user.discount += Decimal(row["retail_disc"]) + Decimal(row["coupon_match_disc"])
    return users


FILES = {
    "taobao_two_hours": taobao,
    "rees46_views": rees46,
    "completejourney_transactions_300_households": completejourney,
}


def window_30d(times: list[int], now_ms: int) -> int:
    """Events in the ten tiles of three days that end with the present one."""
    return sum(now_ms // (3 * DAY_MS) - 10 < t // (3 * DAY_MS) for t in times)


@pytest.mark.parametrize("name", FILES)
def test_rows_are_what_the_file_says(
    shared_data: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = shared_data / f"{name}.csv.gz"
    for variable, value in site.environment().items():
        monkeypatch.setenv(variable, value)
    summary_path = tmp_path / "summary.json"
    with site.worker() as worker:
        arguments = [str(path), "--format", FILES[name].__name__, "--json", str(summary_path)]
        result = CliRunner().invoke(replay, arguments)
        assert result.exit_code == 0, result.output
        site.wait_applied([worker], timeout_s=180)
        outcomes = worker.outcomes()
    summary = json.loads(summary_path.read_text())
    assert summary["events_published"] == outcomes["applied"]
    assert outcomes["duplicate"] == outcomes["dead"] == outcomes["fenced"] == 0
    assert site.out("offers") == []  # recorded times: nobody gets an offer for what is long past

    # What the file says, whatever the order of application.
    users = FILES[name](path)
    rows = site.rows()
    assert {user.decode() for user in rows} == set(users)
    for user_id, user in users.items():
        row: Any = rows[user_id.encode()]
        now_ms = max(user.last_ms.values())
        assert (int(row["seq"]), int(row["first_ms"]), int(row["last_ms"])) == (
            *(user.kinds.total(), user.first_ms),
            now_ms,
        ), user_id
        assert row["kind_total"].tolist() == [*(user.kinds[kind] for kind in list(Kind)[:-1]), 1], user_id
        for kind, last_ms in user.last_ms.items():
            assert row["kind_last_ms"][kind] == last_ms, user_id
            assert row["count_30d"][:, kind].sum() == window_30d(user.times[kind], now_ms), user_id
        assert int(row["spend_minor"]) == user.spend * 100, user_id
        assert int(row["discount_minor"]) == user.discount * 100, user_id
        assert row["consent"] == 2, user_id

    # Every other field, by the naive oracle in the order in which events were applied: it is slow, so of some users,
    # the busiest among them.
    busiest_first = sorted(users, key=lambda user_id: (-users[user_id].kinds.total(), user_id))
    some = {user_id.encode() for user_id in (*busiest_first[:20], *busiest_first[20 :: len(users) // 2_000 + 1])}
    sent = [
        (Event(source, record.key, record.value), (source, record.partition, record.offset))
        for source in SOURCES
        for record in site.read(site.settings.topic(source))
    ]
    assert len(sent) == summary["events_published"]
    decisions = [record for record in site.out("decisions") if record.key in some]
    past = pasts(site, decisions, [s for s in sent if s[0].key in some])
    check_rows({user: row for user, row in rows.items() if user in some}, past)
