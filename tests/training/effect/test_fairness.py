import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from training.cli import cli
from training.effect.fairness import by_group, depth, price_dispersion
from training.records import Decision, Line, Offer, Order

T = 1_700_000_000_000


def decision(user: str, *, holdout: bool = False) -> Decision:
    return Decision(user, user, T, "none", ["ten"], 1.0, holdout, "policy_none", "cart", None, "00")


def offer(user: str, percent: float) -> Offer:
    return Offer(user, user, "cart", "ten", "percent", T, percent=percent)


def shop(rates: dict[str, float], users: int = 2_000) -> tuple[list[Decision], list[Offer], dict[str, str]]:
    rng = np.random.default_rng(1)
    decisions, offers, group_of = [], [], {}
    for group, rate in rates.items():
        for n in range(users):
            user = f"{group}{n}"
            group_of[user] = group
            decisions.append(decision(user))
            if rng.random() < rate:
                offers.append(offer(user, 10.0 if group == "a" else 5.0))
    return decisions, offers, group_of


def test_rates_and_depths_of_groups() -> None:
    said = by_group(*shop({"a": 0.5, "b": 0.25}), parity_min=0.8)["cart"]
    assert said["groups"]["a"]["users"] == 2_000
    for group, rate in (("a", 0.5), ("b", 0.25)):
        low, high = said["groups"][group]["offer_rate"]["ci"]
        assert low < rate < high
    assert said["groups"]["b"]["mean_depth"]["value"] == pytest.approx(0.05)
    assert said["parity_of_rates"]["ci"][0] < 0.5 < said["parity_of_rates"]["ci"][1]
    assert said["parity_of_depths"]["value"] == pytest.approx(0.5)
    assert said["verdict"] == dict.fromkeys(("rates", "depths", "offers_per_decision"), "outside the bound")


def test_what_a_campaigns_own_bound_holds_to_is_counted_by_decision() -> None:
    """As many users of both groups get an offer, those of one after three times as many decisions."""
    decisions, offers, group_of = shop({"a": 0.5, "b": 0.5})
    more = [decision(user) for user, group in group_of.items() if group == "b" for _ in range(2)]
    withheld = msgspec.structs.replace(decision("b0"), reason="parity")
    elsewhere = msgspec.structs.replace(decision("a0"), eligible=["none"])
    said = by_group([*decisions, *more, withheld, elsewhere], offers, group_of, parity_min=0.8)["cart"]
    assert said["verdict"]["rates"] == "within the bound"
    assert said["verdict"]["offers_per_decision"] == "outside the bound"
    got = sum(group_of[one.user_id] == "b" for one in offers)
    assert said["groups"]["b"]["offers_per_decision"]["value"] == pytest.approx(got / 6_001)
    assert {name: (one["decisions"], one["withheld"]) for name, one in said["groups"].items()} == {
        "a": (2_000, 0),
        "b": (6_001, 1),
    }


def test_equal_groups_are_within_the_bound_and_small_ones_cannot_tell() -> None:
    decisions, offers, group_of = shop({"a": 0.5, "c": 0.5})
    assert by_group(decisions, offers, group_of, 0.8)["cart"]["verdict"]["rates"] == "within the bound"
    few = shop({"b": 0.5, "c": 0.5}, 20)
    assert by_group(*few, parity_min=0.8)["cart"]["verdict"]["rates"] == "the data cannot tell"
    assert "one group" in by_group(decisions, offers, {}, 0.8)["cart"]["verdict"]["rates"]


def test_users_who_are_held_out_by_lot_are_no_unfairness() -> None:
    decisions, offers, group_of = shop({"a": 1.0, "b": 1.0}, 50)
    held = [decision(f"b-held{n}", holdout=True) for n in range(50)]
    group_of |= {one.user_id: "b" for one in held}
    assert by_group([*decisions, *held], offers, group_of, 0.8)["cart"]["groups"]["b"]["users"] == 50


def test_depth_of_what_tells_one() -> None:
    assert depth(offer("u", 15.0)) == 0.15
    assert depth(Offer("o", "u", "c", "a", "coupon", T, value_minor=500, min_spend_minor=5_000)) == 0.1
    assert np.isnan(depth(Offer("o", "u", "c", "a", "free_shipping", T)))


def test_prices_of_one_product_lie_as_far_apart_as_its_discounts() -> None:
    def order(n: int, product: str, listed: int, discount: int) -> Order:
        lines = [Line(product, 1, listed)]
        return Order(f"{product}{n}", "u", T, "placed", f"{n}", listed - discount, lines, discount)

    orders = [order(n, "same", 1_000 + n, 0) for n in range(20)]  # its list price rises for everybody
    orders += [order(n, "spread", 1_000, 200 * (n % 2)) for n in range(20)]
    orders += [order(n, "rare", 1_000, 100 * n) for n in range(3)]
    said = price_dispersion(orders)
    assert [one["product_id"] for one in said] == ["spread", "same"]
    assert said[0]["share_of_list_price"] == pytest.approx({"mean": 0.9, "deviation": 0.1, "p10": 0.8, "p90": 1.0})
    assert said[1]["share_of_list_price"]["deviation"] == 0


def test_the_command_takes_groups_that_the_stream_does_not_know(tmp_path: Path) -> None:
    decisions, offers, group_of = shop({"a": 0.5, "b": 0.25}, 300)
    for name, records in (("decisions", decisions), ("offers", offers)):
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(msgspec.json.encode(one) for one in records))
    audit = tmp_path / "audit.csv"
    audit.write_text("user_id,group\n" + "".join(f"{user},{group}\n" for user, group in group_of.items()))
    args = ["fairness", "--log", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*args, "--groups", str(audit)])
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "out" / "fairness.json").read_text())
    assert said["campaigns"]["cart"]["verdict"]["rates"] == "outside the bound"
    audit.write_text("user_id\nu\n")
    done = CliRunner().invoke(cli, [*args, "--groups", str(audit)])
    assert done.exit_code == 1
    assert "audit.csv, line 1: no column group" in done.output
