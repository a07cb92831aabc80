"""Readers of recorded logs whose formats are known: Taobao, REES46, completejourney.

docs/replay.md has a table per format: which column becomes which field of which topic, currency, time zone and what is
left out.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Literal

from stream.kafka.codec import Click, ClickKind, Order, OrderLine
from stream.shop.fields import (
    ORDER_LINES_MAX,
    QUANTITY_MAX,
    BadLineError,
    Broken,
    Event,
    Item,
    LeftOut,
    Reader,
    broken,
    cells_of,
    columns_of,
    digits,
    minor,
    one_of,
    short,
    utc_ms,
    whole,
)
from stream.shop.lines import Line


def _of_one_product(
    number: int,
    format_: str,
    user_id: str,
    time_ms: int,
    kind: ClickKind | Literal["placed"],
    currency: str,
    *,
    product_id: str,
    category_id: str,
    brand: str | None = None,
    price_minor: int | None = None,
    session_id: str | None = None,
) -> Event:
    """A line that tells of one product: an order of it alone, or a click on it."""
    id_ = f"{format_}:{number}"
    if kind == "placed":
        price = price_minor or 0
        line = OrderLine(
            product_id=product_id, category_id=category_id, brand=brand, quantity=1, unit_price_minor=price
        )
        order = Order(
            event_id=id_, user_id=user_id, time_ms=time_ms, kind="placed", order_id=id_, lines=[line],
            total_minor=price, currency=currency, session_id=session_id,
        )  # fmt: skip
        return Event(number, "orders", order)
    click = Click(
        event_id=id_, user_id=user_id, time_ms=time_ms, kind=kind, session_id=session_id, product_id=product_id,
        category_id=category_id, brand=brand, price_minor=price_minor,
        currency=None if price_minor is None else currency,
    )  # fmt: skip
    return Event(number, "clickstream", click)


# --- Taobao

TAOBAO_FROM_S = 1_511_539_200
"""2017-11-25 00:00, UTC+8: the first of the nine days that the data set describes."""

TAOBAO_UNTIL_S = TAOBAO_FROM_S + 9 * 86_400

_TAOBAO_KINDS: dict[str, ClickKind | Literal["placed"]] = {
    "pv": "product_view",
    "cart": "cart_add",
    "fav": "favourite",
    "buy": "placed",
}
_TAOBAO_COLUMNS = ("user_id", "item_id", "category_id", "behavior", "unix_seconds")


def read_taobao(lines: Iterable[Line], currency: str) -> Iterator[Item]:
    """Taobao UserBehavior, without a header: user_id,item_id,category_id,behavior,unix_seconds. It has no amounts."""
    for number, line in lines:
        try:
            cells = cells_of(line, len(_TAOBAO_COLUMNS))
            user, item, category = (
                digits(cell, column) for cell, column in zip(cells[:3], _TAOBAO_COLUMNS[:3], strict=True)
            )
            kind = one_of(cells[3], "behavior", _TAOBAO_KINDS)
            seconds = int(digits(cells[4], "unix_seconds"))
        except BadLineError as e:
            yield broken(number, e)
            continue
        if not TAOBAO_FROM_S <= seconds < TAOBAO_UNTIL_S:
            yield LeftOut(number, "outside 2017-11-25 to 2017-12-03 (UTC+8)")
            continue
        yield _of_one_product(
            number, "taobao", user, seconds * 1000, kind, currency, product_id=item, category_id=category
        )


# --- REES46

_REES46_COLUMNS = ("event_time", "event_type", "product_id", "category_id", "brand", "price", "user_id", "user_session")
_REES46_KINDS: dict[str, ClickKind | Literal["placed"]] = {
    "view": "product_view",
    "cart": "cart_add",
    "remove_from_cart": "cart_remove",
    "purchase": "placed",
}


def read_rees46(lines: Iterable[Line], currency: str) -> Iterator[Item]:
    """REES46 "multi category store", with header. A purchase line is one order of one product at its price.

    Raises:
        SettingsError: another header.
    """
    rest = iter(lines)
    place = columns_of(rest, _REES46_COLUMNS, "rees46")
    at = [place[c] for c in _REES46_COLUMNS]
    for number, line in rest:
        try:
            cells = cells_of(line, len(place))
            time, event_type, product, category, brand, price, user, session = [cells[i] for i in at]
            time_ms = utc_ms(time, "event_time", " UTC")
            kind = one_of(event_type, "event_type", _REES46_KINDS)
            digits(product, "product_id")
            digits(category, "category_id")
            digits(user, "user_id")
            price_minor = minor(price, "price")
            short(brand, "brand")
            short(session, "user_session")
        except BadLineError as e:
            yield broken(number, e)
            continue
        yield _of_one_product(
            number,
            "rees46",
            user,
            time_ms,
            kind,
            currency,
            product_id=product,
            category_id=category,
            brand=brand or None,
            price_minor=price_minor,
            session_id=session or None,
        )


# --- completejourney

_BASKET_COLUMNS = (
    "household_id",
    "basket_id",
    "product_id",
    "quantity",
    "sales_value",
    "retail_disc",
    "coupon_match_disc",
    "transaction_timestamp",
)
BASKETS_OPEN_MAX = 10_000
"""Baskets of one moment that may be open at a time; the whole data set needs 3."""

BASKETS_REMEMBERED_MAX = 100_000
"""Published baskets that are remembered, to notice one whose lines come back."""


class _Basket:
    """An order that is being put together."""

    __slots__ = ("discount_minor", "household", "line", "lines", "total_minor")

    def __init__(self, line: int, household: str) -> None:
        self.line = line
        self.household = household
        self.lines: list[OrderLine] = []
        self.total_minor = 0
        self.discount_minor = 0


def read_completejourney(lines: Iterable[Line], currency: str) -> Iterator[Item]:
    """The Complete Journey's transactions, with header: one order a basket, its event id of its first line.

    The lines of a basket carry one time and the file is in the order of time, so a basket is complete when the time
    goes on. A line of a basket that was published already (of the last BASKETS_REMEMBERED_MAX) is broken: an order is
    never published in parts unnoticed.

    Raises:
        SettingsError: another header.
    """
    rest = iter(lines)
    place = columns_of(rest, _BASKET_COLUMNS, "completejourney")
    at = [place[c] for c in _BASKET_COLUMNS]
    open_ms = -1
    baskets: dict[str, _Basket] = {}
    done: OrderedDict[str, None] = OrderedDict()
    for number, line in rest:
        try:
            cells = cells_of(line, len(place))
            household, basket, product, quantity, sales, retail, match, time = [cells[i] for i in at]
            digits(household, "household_id")
            digits(basket, "basket_id")
            digits(product, "product_id")
            items = whole(quantity, "quantity", 0, QUANTITY_MAX)
            time_ms = utc_ms(time, "transaction_timestamp")
            if items == 0:
                yield LeftOut(number, "quantity 0")
                continue
            paid_minor = minor(sales, "sales_value")
            discount_minor = minor(retail, "retail_disc") + minor(match, "coupon_match_disc")
        except BadLineError as e:
            yield broken(number, e)
            continue
        if time_ms != open_ms or len(baskets) >= BASKETS_OPEN_MAX:
            yield from _close(baskets, open_ms, currency, done)
            open_ms = time_ms
        order = baskets.get(basket)
        if basket in done:
            yield Broken(number, "basket", f"basket {basket} was published already: its lines do not stand together")
            continue
        if order is None:
            order = baskets[basket] = _Basket(number, household)
        if order.household != household or len(order.lines) >= ORDER_LINES_MAX:
            yield Broken(number, "basket", f"basket {basket}: another household, or over {ORDER_LINES_MAX} lines")
            continue
        # Totals are exact. The unit price is rounded where the price is no multiple of the quantity (fuel).
        price_minor = paid_minor + discount_minor
        unit_minor = (2 * price_minor + items) // (2 * items)
        order.lines.append(OrderLine(product_id=product, quantity=items, unit_price_minor=unit_minor))
        order.total_minor += paid_minor
        order.discount_minor += discount_minor
    yield from _close(baskets, open_ms, currency, done)


def _close(baskets: dict[str, _Basket], time_ms: int, currency: str, done: OrderedDict[str, None]) -> Iterator[Event]:
    for basket, order in baskets.items():
        done[basket] = None
        yield Event(
            order.line,
            "orders",
            Order(
                event_id=f"completejourney:{order.line}",
                user_id=order.household,
                time_ms=time_ms,
                kind="placed",
                order_id=basket,
                lines=order.lines,
                total_minor=order.total_minor,
                discount_minor=order.discount_minor,
                currency=currency,
            ),
        )
    baskets.clear()
    while len(done) > BASKETS_REMEMBERED_MAX:
        done.popitem(last=False)


FORMATS: dict[str, tuple[Reader, str]] = {
    "taobao": (read_taobao, ""),
    "rees46": (read_rees46, ""),
    "completejourney": (read_completejourney, "USD"),
}
"""Known formats: reader, and the currency of the file's amounts ("" = none stated). Any other is a mapping file."""
