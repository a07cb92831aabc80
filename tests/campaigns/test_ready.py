"""Each ready-made campaign tells its story on a small log, through the decoder, absorb and decide."""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from stream.campaigns.cli import READY
from stream.campaigns.control import compile_campaigns
from stream.campaigns.files import load
from stream.campaigns.logs import log_of
from stream.campaigns.simulate import Given, Simulation, simulate
from stream.core.decide import Reason
from stream.core.response import HEADS, Feature, Response, to_document
from stream.core.row import DAY_MS, Rows
from stream.kafka.codec import Click, Customer, Order, OrderLine
from stream.kafka.control import InForce
from stream.scoring.scorer import Scored
from stream.shop.fields import SourceValue

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
NOON_MS = 1_794_312_000_000  # 2026-11-10 12:00 UTC, a Tuesday


def test_noon() -> None:
    assert dt.datetime.fromtimestamp(NOON_MS / 1000, dt.UTC) == dt.datetime(2026, 11, 10, 12, tzinfo=dt.UTC)


class Interest:
    """A model whose P(purchase) is a tenth for each event of the user, so that a story can say it."""

    hex = "0" * 64

    def score(self, steps: NDArray[np.uint8], users: NDArray[np.uint64], rows: Rows) -> Scored:
        assert len(steps) == len(rows) == len(users)
        return Scored(np.minimum(rows["seq"] / 10, 1).astype(np.float32)[:, None], np.zeros(len(rows), np.uint64))


class Story:
    """A log that is told event by event."""

    def __init__(self) -> None:
        self.values: list[tuple[str, SourceValue]] = []

    def click(self, user: str, kind: str, time_ms: int, **fields: Any) -> None:
        id_ = f"e{len(self.values)}"
        self.values.append(("clickstream", Click(event_id=id_, user_id=user, time_ms=time_ms, kind=kind, **fields)))  # type: ignore[arg-type]

    def send_back(self, user: str, time_ms: int) -> None:
        """The latest order of all comes back."""
        order = next(value for source, value in reversed(self.values) if source == "orders")
        returned = msgspec.structs.replace(order, event_id=f"e{len(self.values)}", time_ms=time_ms, kind="returned")
        assert returned.user_id == user
        self.values.append(("orders", returned))

    def order(self, user: str, time_ms: int, total_minor: int = 4_000, brand: str | None = None) -> None:
        id_ = f"e{len(self.values)}"
        line = OrderLine(product_id="p", brand=brand, quantity=1, unit_price_minor=total_minor)
        order = Order(
            event_id=id_, user_id=user, time_ms=time_ms, kind="placed", order_id=id_, lines=[line],
            total_minor=total_minor, currency="EUR",
        )  # fmt: skip
        self.values.append(("orders", order))

    def profile(self, user: str, **fields: Any) -> None:
        id_ = f"e{len(self.values)}"
        time_ms = NOON_MS - 100 * DAY_MS
        self.values.append(("customers", Customer(event_id=id_, user_id=user, time_ms=time_ms, **fields)))

    def told(self, name: str, response: Response | None = None, **changes: Any) -> Simulation:
        """What the campaign does; nobody is held out."""
        document = ready(name) | {"holdout": 0} | changes
        record = document | ({"learned": to_document(response)} if response else {})
        campaigns, refused = compile_campaigns({document["id"]: json.dumps(record).encode()})
        assert refused == []
        log, dead = log_of(self.values, "EUR")
        assert dead == 0
        self.users = [user.decode() for user in log.users]
        return simulate(log, InForce(Interest(), campaigns), response)  # type: ignore[arg-type]

    def offers(self, name: str, **changes: Any) -> list[tuple[str, int]]:
        """(user, time) of each offer."""
        return [(self.users[given.user], given.time_ms) for given in self.told(name, **changes).offers]


def ready(name: str) -> dict[str, Any]:
    loaded = load(READY / f"{name}.yaml", "EUR")
    assert loaded.faults == []
    (document,) = loaded.documents
    assert document["id"] == name
    return document


def one(offers: Sequence[Given]) -> Given:
    (given,) = offers
    return given


def test_a_product_launch_offers_ten_percent_to_whoever_is_likelier_than_not_to_buy() -> None:
    story = Story()
    for n in range(8):  # P is 0.1, 0.2, ...: 0.6 at the sixth
        story.click("keen", "product_view", NOON_MS + n * MINUTE_MS, product_id="new-product")
        story.click("elsewhere", "product_view", NOON_MS + n * MINUTE_MS, product_id="old-product")
    for n in range(5):
        story.click("curious", "product_view", NOON_MS + n * MINUTE_MS, product_id="new-product")
    given = one(story.told("product-launch").offers)
    assert (story.users[given.user], given.time_ms, given.depth_bp) == ("keen", NOON_MS + 5 * MINUTE_MS, 1000)
    assert story.offers("product-launch", until="2026-11-10") == []  # it was over before


def test_retention_gives_twenty_percent_at_the_fourth_order_of_thirty_days() -> None:
    story = Story()
    for n in range(5):
        story.order("loyal", NOON_MS + n * 6 * DAY_MS)
        story.order("seldom", NOON_MS + n * 12 * DAY_MS)
    given = one(story.told("retention").offers)
    # The fifth, too, is one of more than three, but within the seven days of cool-down.
    assert (story.users[given.user], given.time_ms, given.depth_bp) == ("loyal", NOON_MS + 18 * DAY_MS, 2000)


def test_the_linear_depth_is_a_p_plus_b() -> None:
    story = Story()
    for n in range(3):
        story.click("cool", "product_view", NOON_MS + n * MINUTE_MS)
        story.click("warm", "search", NOON_MS - n * MINUTE_MS)
        story.click("warm", "product_view", NOON_MS + n * MINUTE_MS)
    depths = {story.users[given.user]: given.depth_bp for given in story.told("linear-depth").offers}
    assert depths == {"cool": round((0.3 * 0.3 + 0.05) * 10_000), "warm": round((0.3 * 0.6 + 0.05) * 10_000)}


def test_frequent_buyers_get_a_coupon() -> None:
    story = Story()
    for user, n_orders in (("frequent", 4), ("regular", 3)):
        story.click(user, "page_view", NOON_MS - 40 * DAY_MS)  # not new any more
        for n in range(n_orders):
            story.order(user, NOON_MS - (20 - n) * DAY_MS)
        story.click(user, "product_view", NOON_MS)
    given = one(story.told("frequent-coupon").offers)
    assert (story.users[given.user], given.value_minor, given.time_ms) == ("frequent", 500, NOON_MS)


def test_newcomers_have_two_hours() -> None:
    story = Story()
    for user in ("new", "buyer", "regular"):
        if user == "buyer":
            story.order(user, NOON_MS - DAY_MS)
        if user == "regular":
            story.click(user, "page_view", NOON_MS - 40 * DAY_MS)
        for n in range(4):
            story.click(user, "product_view", NOON_MS + n * MINUTE_MS, session_id="s")
    given = one(story.told("newcomers").offers)
    assert (story.users[given.user], given.time_ms) == ("new", NOON_MS + 2 * MINUTE_MS)
    assert given.until_ms - given.time_ms == 2 * HOUR_MS


def test_a_birthday_gift_comes_within_three_days_of_the_day() -> None:
    story = Story()
    for n in range(8, 17):  # 8 to 16 November, a visit a day, customers of 12 November and of another day
        time_ms = NOON_MS + (n - 10) * DAY_MS
        for user in ("scorpio", "aries"):
            story.click(user, "page_view", time_ms)
    story.profile("scorpio", birthday="11-12", consent=True)
    story.profile("aries", birthday="04-12", consent=True)
    given = one(story.told("birthday").offers)
    assert (story.users[given.user], given.time_ms) == ("scorpio", NOON_MS - DAY_MS)  # the first visit: on the 9th
    every_day = story.offers("birthday", cool_down={"after_offer": "1h"})
    assert [time_ms for _, time_ms in every_day] == [NOON_MS + (n - 10) * DAY_MS for n in range(9, 16)]


def test_the_member_day_is_for_silver_and_above() -> None:
    story = Story()
    for tier in ("basic", "silver", "platinum"):
        story.profile(tier, tier=tier, consent=True)
        for n in (17, 18, 19):
            story.click(tier, "page_view", NOON_MS + (n - 10) * DAY_MS)
    story.click("stranger", "page_view", NOON_MS + 8 * DAY_MS)
    on_the_18th = NOON_MS + 8 * DAY_MS
    assert sorted(story.offers("member-day")) == [("platinum", on_the_18th), ("silver", on_the_18th)]


def test_a_sale_event_is_for_everybody_on_its_day_and_once() -> None:
    story = Story()
    for user in ("a", "b"):
        for hour in range(-24, 36, 6):  # 10 November 12:00 on, until the 12th
            story.click(user, "product_view", NOON_MS + DAY_MS + hour * HOUR_MS)
    day_begins_ms = NOON_MS + DAY_MS // 2
    assert sorted(story.offers("sale-event")) == [("a", day_begins_ms), ("b", day_begins_ms)]


def test_a_buyer_of_one_brand_gets_an_offer_for_another_and_uses_it_there() -> None:
    story = Story()
    for user, brand in (("beauty", "aurora"), ("other", "cometa")):
        story.order(user, NOON_MS, brand=brand)
        story.order(user, NOON_MS + DAY_MS, brand="cometa")  # out of scope
        story.order(user, NOON_MS + 2 * DAY_MS, total_minor=6_000, brand="borealis")
    given = one(story.told("cross-brand").offers)
    assert (story.users[given.user], given.time_ms) == ("beauty", NOON_MS)
    assert (given.used_minor, given.basket_minor) == (6_000 * 15 // 100, 6_000)


def test_a_cart_left_behind_is_answered_when_its_owner_comes_back() -> None:
    story = Story()
    for user in ("left", "bought", "hasty", "late"):
        story.click(user, "cart_add", NOON_MS, product_id="p")
    story.order("bought", NOON_MS + 20 * MINUTE_MS)
    for user in ("left", "bought", "hasty"):
        story.click(user, "page_view", NOON_MS + 59 * MINUTE_MS)
    for user in ("left", "bought"):
        story.click(user, "page_view", NOON_MS + 65 * MINUTE_MS)
    story.click("late", "page_view", NOON_MS + 8 * DAY_MS)
    assert story.offers("cart-abandonment") == [("left", NOON_MS + 65 * MINUTE_MS)]


def test_who_only_buys_what_was_left_behind_is_answered_twice_and_then_for_every_fourth_order() -> None:
    """Three users leave a cart behind every 40 days and buy it: one buys nothing else, one sends all else back."""
    story = Story()
    rounds = [NOON_MS + 40 * n * DAY_MS for n in range(7)]
    users = ("provoker", "customer", "returner")
    for noon_ms in rounds:
        for user in users:
            story.click(user, "cart_add", noon_ms)
            story.click(user, "page_view", noon_ms + 65 * MINUTE_MS)
            story.order(user, noon_ms + 70 * MINUTE_MS)  # with the offer, where there is one
        for n in range(4):
            for user in ("customer", "returner"):
                story.order(user, noon_ms + (n + 1) * DAY_MS)
            story.send_back("returner", noon_ms + (n + 1) * DAY_MS + HOUR_MS)
    back_ms = [noon_ms + 65 * MINUTE_MS for noon_ms in rounds]
    found = story.offers("cart-abandonment")
    # Two are free; the four that were bought at full price then earned the third.
    seldom = [back_ms[0], back_ms[1], back_ms[6]]
    assert {user: [at for who, at in found if who == user] for user in users} == {
        "provoker": seldom,
        "customer": back_ms,
        "returner": seldom,
    }
    told = story.told("cart-abandonment").decisions
    assert told[0, Reason.GUARD] == 2 * 4
    unguarded = story.offers("cart-abandonment", guard={"free": 1_000, "per_order": 0})
    assert sorted(unguarded) == sorted((user, at) for user in users for at in back_ms)


def test_two_things_in_the_cart_and_a_likely_purchase_are_nudged() -> None:
    story = Story()
    for n in range(7):
        story.click("likely", "product_view", NOON_MS + n)
    for user in ("likely", "unlikely"):
        story.click(user, "cart_add", NOON_MS + MINUTE_MS)
        story.click(user, "cart_add", NOON_MS + 2 * MINUTE_MS)
    assert story.offers("cart-nudge") == [("likely", NOON_MS + 2 * MINUTE_MS)]


def likes_offers(added: float) -> Response:
    """10 % off wins so many of those who would not buy anyway, other depths in proportion; baskets are of 60.00."""
    heads = {"base": -3.0, "added": float(np.log(added / (1 - added))), "basket": float(np.log(6_000))}
    intercepts = np.array([heads[head] for head in HEADS])
    weights = np.zeros((2, len(HEADS)))
    return Response((Feature("orders"),), np.zeros(1), np.ones(1), intercepts, weights, 1.0, 0.5, 0.0, 7 * DAY_MS)


def test_profit_offers_where_it_pays_and_never_more_than_its_budget() -> None:
    story = Story()
    for n in range(400):
        story.click(f"u{n}", "cart_add", NOON_MS + n * MINUTE_MS, price_minor=6_000)
    changes: dict[str, Any] = {"exploration": 1e-12, "budget": {"total_minor": 50_000, "pacing": "asap"}}
    assert story.told("profit-budget", **changes).offers == []  # nothing is learned yet
    assert story.told("profit-budget", likes_offers(0.001), **changes).offers == []  # nobody cares: no uplift that pays
    found = story.told("profit-budget", likes_offers(0.2), **changes)
    # By hand: gain(d) = won(d) x 6000 x 0.35 - (won(d) + P(0) / 2) x 6000 d, won(d) = (1 - P(0)) x 0.2 x d / 0.1.
    anyway = 1 / (1 + np.exp(3))
    won = {d: (1 - anyway) * 2 * d for d in (0.05, 0.1, 0.15)}
    gains = [won[d] * 6000 * 0.35 - (won[d] + anyway / 2) * 6000 * d for d in won]
    best = int(np.argmax(gains))
    assert gains[best] > 0
    assert {given.arm for given in found.offers} == {best}
    cost_minor = 6_000 * (500, 1000, 1500)[best] // 10_000
    assert [given.value_minor for given in found.offers] == [cost_minor] * (50_000 // cost_minor)
    reasons = {Reason(reason): n for (_, reason), n in found.decisions.items()}
    assert reasons == {Reason.OFFERED: 50_000 // cost_minor, Reason.BUDGET: 400 - 50_000 // cost_minor}


def test_dormant_customers_are_called_back_once_a_month_for_half_a_year() -> None:
    story = Story()
    story.order("gone", NOON_MS)
    story.click("looker", "product_view", NOON_MS)  # has never ordered
    story.order("back", NOON_MS)
    story.click("back", "product_view", NOON_MS + 45 * DAY_MS)  # the silence begins anew
    for day in range(300):
        story.click("regular", "page_view", NOON_MS + day * DAY_MS)
    offers = story.offers("dormant")
    assert {user for user, _ in offers} == {"gone", "back"}
    due_days = {"gone": [30, 60, 90, 120, 150, 180], "back": [30, 75, 105, 135, 165, 195, 225]}
    for user, due in due_days.items():  # each within an hour of falling due, the last one at 180 days of silence
        late_ms = [
            at - NOON_MS - day * DAY_MS for day, (_, at) in zip(due, (o for o in offers if o[0] == user), strict=True)
        ]
        assert all(0 < ms <= HOUR_MS for ms in late_ms), (user, late_ms)
    given = story.told("dormant").offers[0]
    assert (given.value_minor, given.until_ms - given.time_ms) == (1_000, 14 * DAY_MS)
    assert story.offers("dormant", guard={"free": 1, "per_order": 0.0}) == offers  # nobody has used one


def test_an_offer_to_who_was_dormant_can_be_used() -> None:
    story = Story()
    story.order("gone", NOON_MS)
    story.order("gone", NOON_MS + 31 * DAY_MS, total_minor=6_000)
    found = story.told("dormant")
    assert one(found.offers).used_minor == 1_000


def test_every_ready_made_campaign_has_its_story() -> None:
    told = {
        *("product-launch", "retention", "linear-depth", "frequent-coupon", "newcomers", "birthday", "member-day"),
        *("sale-event", "cross-brand", "cart-abandonment", "cart-nudge", "profit-budget", "dormant"),
    }
    assert {file.stem for file in READY.glob("*.yaml")} == told


@pytest.mark.parametrize("name", ["product-launch", "retention"])
def test_without_consent_no_story_ends_with_an_offer(name: str) -> None:
    story = Story()
    story.profile("u", consent=False)
    for n in range(8):
        story.click("u", "product_view", NOON_MS + n * MINUTE_MS, product_id="new-product")
        story.order("u", NOON_MS + n * HOUR_MS)
    assert story.offers(name) == []
