"""The row: all that is kept of one user, as one fixed-width numpy record, and its packed form.

Rows of a partition stand in one array of `ROW`; a field of that array is a column (`rows["spend_minor"]`). The packed
form, used in the changelog and in RocksDB, leaves out the 8-byte words that are zero, so a new user costs some 300
bytes and not the full width.

**What is stored is the state.** Steps are 8-bit and the hidden state is float16 here already, so packing and unpacking
changes no bit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.core.events import N_KINDS, N_KINDS_WINDOWED

ROW_FORMAT = 2
"""First byte of a packed row. A change of `ROW` takes a new number and a reader for the old one."""

FORMATS_READ = frozenset({1, ROW_FORMAT})
"""Formats that `unpack` reads: those that a changelog may still hold."""

N_FENCES = 8  # places in the fence: source topics, with room for those to come
N_STEPS = 32  # T: steps kept for rebuilding the hidden state
N_FEATURES = 16  # F: features of a step
N_STATE = 100  # halves of recurrent state: LSTM(50) has h and c
N_RECENT_IDS = 16  # event ids remembered against duplicates
N_RECENT_PRODUCTS = 16
N_AFFINITIES = 8  # categories, and brands, kept by the space-saving sketch
N_OFFER_DAYS = 32  # days of the shop for which offers are counted, for caps

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# Rolling windows in event time: name -> (tiles, tile length). A window's length is the product; a count is short by at
# most one tile.
WINDOWS: dict[str, tuple[int, int]] = {
    "1h": (6, 10 * 60_000),
    "1d": (8, 3 * HOUR_MS),
    "7d": (7, DAY_MS),
    "30d": (10, 3 * DAY_MS),
}

ROW = np.dtype(
    [
        # time and order
        ("last_ms", "i8"),  # latest event time of the steps: the row's clock; 0 = no step yet
        ("first_ms", "i8"),  # earliest event time of the steps
        ("seq", "u8"),  # steps applied to this row
        ("fence", "i8", (N_FENCES,)),  # next offset to apply, by source; 0 = none applied
        # the model's state
        ("model", "u8"),  # first 8 bytes of the SHA-256 of the model that `state` belongs to; 0 = none
        ("state", "f2", (N_STATE,)),
        ("step_pos", "u1"),  # where the next step goes
        ("step_count", "u1"),  # steps held, at most N_STEPS
        # single bytes: of the profile, and where the next entries of the rings go
        ("offer_used", "u1"),  # `open_cost` is what the last offer took off, not what is reserved
        ("consent", "u1"),
        ("objection", "u1"),
        ("tier", "u1"),
        ("recent_ids_pos", "u1"),
        ("recent_products_pos", "u1"),
        # session
        ("session", "u8"),
        ("session_start_ms", "i8"),
        ("session_events", "u4"),
        ("dwell_s", "u4"),  # saturates
        # orders
        ("first_buy_ms", "i8"),
        ("spend_minor", "i8"),  # paid, of orders placed
        ("refund_minor", "i8"),  # of orders cancelled or returned
        ("discount_minor", "i8"),
        ("orders_discounted", "u4"),
        ("searches_empty", "u4"),  # searches that found nothing
        ("rating_sum", "u4"),  # of 1 to 5
        ("offers_made", "u4"),
        ("offer_last_ms", "i8"),  # decision time of the last offer made
        # profile: the latest customers record by event time
        ("profile_ms", "i8"),
        ("registered_ms", "i8"),
        ("birthday", "u2"),
        # offers: see stream.core.caps and stream.core.budget
        ("offer_day", "u2"),  # day of the shop, since 1970, of the newest count in `offer_days`
        ("open_campaign", "u4"),  # low bits of the salt of the campaign whose budget `open_cost` is reserved from
        # by kind
        ("kind_total", "u4", (N_KINDS,)),  # since ever
        ("kind_last_ms", "i8", (N_KINDS,)),  # recency
        ("category", "u4", (N_AFFINITIES,)),
        ("category_weight", "u4", (N_AFFINITIES,)),
        ("brand", "u4", (N_AFFINITIES,)),
        ("brand_weight", "u4", (N_AFFINITIES,)),
        ("recent_products", "u4", (N_RECENT_PRODUCTS,)),
        ("recent_ids", "u8", (N_RECENT_IDS,)),  # see absorb.identity
        # windows: counts per tile and kind; the tile of time t stands at place (t // tile) % tiles
        *((f"count_{name}", "u2", (tiles, N_KINDS_WINDOWED)) for name, (tiles, _) in WINDOWS.items()),
        ("steps", "u1", (N_STEPS, N_FEATURES)),
        # since format 2; what format 1 had stands before
        ("offer_days", "u1", (N_OFFER_DAYS // 2,)),  # offers made by day, 4 bits each
        ("open_offer", "u4"),  # low bits of the hash of the id of the offer that money is reserved for; 0 = none
        ("open_cost", "u4"),  # reserved, or where `offer_used` is set, spent; in minor units
    ]
)
WORDS = ROW.itemsize // 8
if ROW.itemsize % 8:  # the packed form counts in words
    raise AssertionError(ROW.itemsize)

_MASK_BYTES = (WORDS + 7) // 8
_HEAD_BYTES = 1 + _MASK_BYTES
if (
    _HEAD_BYTES % 8 or WORDS % 8
):  # so that a packed row is a whole number of words, and each bit of the mask has its word
    raise AssertionError(WORDS)
_NO_WORD = bytes(8)
_WORDS_1 = 309  # of format 1, which were the first of today's: in the same head

_POSITIONS = {
    "step_pos": N_STEPS,
    "step_count": N_STEPS + 1,
    "recent_ids_pos": N_RECENT_IDS,
    "recent_products_pos": N_RECENT_PRODUCTS,
}

Rows = NDArray[np.void]
"""An array of `ROW`."""


class RowFormatError(ValueError):
    """A packed row cannot be read: other format, or cut. The store sets the file aside; it is never guessed at."""


def new_rows(n: int) -> Rows:
    """`n` rows of users that nothing is known of."""
    return np.zeros(n, ROW)


def overlay(record: np.dtype[np.void], names: Sequence[str], scalar: str, shape: tuple[int, ...]) -> np.dtype[np.void]:
    """A dtype for `records.view(...)["all"]`: fields that stand side by side in a record as one array [N, *shape]."""
    at = begin = record.fields[names[0]][1]  # type: ignore[index]  # a structured type has fields
    for name in names:
        field, offset = record.fields[name][:2]  # type: ignore[index]
        if offset != at or field.base != np.dtype(scalar):
            raise AssertionError(name)
        at += field.itemsize
    if at - begin != np.dtype((scalar, shape)).itemsize:
        raise AssertionError(shape)
    return np.dtype({"names": ["all"], "formats": [(scalar, shape)], "offsets": [begin], "itemsize": record.itemsize})


def gather(records: NDArray[np.void], at: NDArray[np.int64]) -> NDArray[np.void]:
    """A copy of the rows, or events, at the places `at`.

    numpy copies records field by field; as raw bytes they move in one piece, 2 to 4 times as fast.
    """
    return records.view(_raw(records))[at].view(records.dtype)


def scatter(records: NDArray[np.void], at: NDArray[np.int64], new: NDArray[np.void]) -> None:
    """Write rows to the places `at`, which are distinct; see `gather`."""
    records.view(_raw(records))[at] = new.view(_raw(records))


def _raw(records: NDArray[np.void]) -> np.dtype[np.void]:
    return np.dtype((np.void, records.dtype.itemsize))


def pack(rows: Rows) -> list[bytes]:
    """Packed rows: format byte, bit mask of the words that are not zero, those words.

    Args:
        rows: ROW [N].

    Returns:
        N byte strings, in order.
    """
    n = len(rows)
    words = np.ascontiguousarray(rows).view("u8").reshape(n, WORDS)
    mask = words != 0
    heads = np.empty((n, _HEAD_BYTES), "u1")
    heads[:, 0] = ROW_FORMAT
    heads[:, 1:] = np.packbits(mask, axis=1, bitorder="little")
    ends = np.cumsum(_n_words(heads) * 8).tolist()
    body = words[mask].tobytes()
    return [
        head + body[start:end]
        for head, start, end in zip(heads.view(f"V{_HEAD_BYTES}")[:, 0].tolist(), [0, *ends], ends, strict=False)
    ]


def unpack(packed: Sequence[bytes]) -> Rows:
    """Rows from their packed form.

    Returns:
        ROW [N]: a view into a wider array, copied by whoever keeps it.

    Raises:
        RowFormatError: another format, or bytes that `pack` does not write. (Flipped bits within the words are for the
            checksums of Kafka and of the store to find.)
    """
    n = len(packed)
    lengths = np.fromiter(map(len, packed), "i8", n)
    if (lengths < _HEAD_BYTES).any():
        raise RowFormatError(f"a packed row of {lengths.min()} bytes, too short for its head of {_HEAD_BYTES}")
    formats = {p[0] for p in packed}
    if formats - FORMATS_READ:
        text = f"packed rows of format {sorted(formats - FORMATS_READ)}, this version reads {sorted(FORMATS_READ)}"
        raise RowFormatError(text)
    if (lengths % 8).any():
        raise RowFormatError("a packed row that is no whole number of words")
    words = np.frombuffer(b"".join(packed), "u8")
    starts = (np.cumsum(lengths) - lengths) // 8
    heads = words[starts[:, None] + np.arange(_HEAD_BYTES // 8)].view("u1")
    # Format 1 ends before the fields that are new, which are 0 then.
    beyond = 1 in formats and (heads[heads[:, 0] == 1, -1] >> (_WORDS_1 % 8)).any()
    if beyond or (_n_words(heads) * 8 + _HEAD_BYTES != lengths).any():
        raise RowFormatError("a packed row whose length does not fit its mask")
    # The heads go along, as words before the row's, so that all bytes move at once.
    filled = np.ones((n, _HEAD_BYTES // 8 + WORDS), bool)
    filled[:, _HEAD_BYTES // 8 :] = np.unpackbits(heads[:, 1:], axis=1, count=WORDS, bitorder="little")
    unpacked = np.zeros(filled.shape, "u8")
    unpacked[filled] = words
    rows: Rows = unpacked[:, _HEAD_BYTES // 8 :].view(ROW)[:, 0]
    for field, size in _POSITIONS.items():
        if (rows[field] >= size).any():
            raise RowFormatError(f"a packed row whose {field} is {rows[field].max()}, beyond {size - 1}")
    return rows


def last_ms_of(packed: Sequence[bytes]) -> NDArray[np.int64]:
    """`ROW["last_ms"]` of packed rows, int64 [n], without unpacking them: their first word.

    Raises:
        RowFormatError: one is too short.
    """
    words = b"".join([p[_HEAD_BYTES : _HEAD_BYTES + 8] if p[1] & 1 else _NO_WORD for p in packed])
    if len(words) != 8 * len(packed):
        raise RowFormatError("a packed row that ends within its first word")
    return np.frombuffer(words, "i8")


def _n_words(heads: NDArray[np.uint8]) -> NDArray[np.int64]:
    n_words: NDArray[np.int64] = np.bitwise_count(heads[:, 1:]).sum(axis=1, dtype=np.int64)
    return n_words
