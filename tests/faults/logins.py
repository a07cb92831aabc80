"""Logins under faults: guests with a past turn out to be members, all the time, whatever else is going on."""

import json
import time
from collections import Counter, defaultdict
from random import Random

import numpy as np

from stream.core.merge import is_blank
from tests.core import oracle
from tests.core.test_merge import OF_THE_SET
from tests.e2e import logs
from tests.e2e.expect import oracle_event
from tests.e2e.harness import Event, Place, Read, Site, event

MEMBERS = 20


class Logins:
    """Publishes guests' and members' events and their logins, and judges what became of them."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._draw = Random(seed)
        self._member_of: dict[str, str] = {}
        self._sent: list[tuple[Event, Place]] = []

    def piece(self) -> None:
        """A guest looks around, and turns out to be a member who is not idle either."""
        n = len(self._member_of)
        guest, member = f"guest-{n}", f"member-{n % MEMBERS}"
        now_ms = time.time_ns() // 1_000_000
        log = logs.shop_log(self._draw, 12, [guest, member], now_ms, f"login-{n}", duplicates=0)
        self._sent += zip(log, self._site.publish(log), strict=True)
        self._member_of[guest] = member
        self._login(guest, f"login-{n}")

    def again(self) -> None:
        """Each logs in once more: topics have no order, so some of a guest's events may have come after the first."""
        for n, guest in enumerate(self._member_of):
            self._login(guest, f"again-{n}")

    def _login(self, guest: str, event_id: str) -> None:
        member, now_ms = self._member_of[guest], time.time_ns() // 1_000_000
        one = event("identities", event_id=event_id, user_id=member, time_ms=now_ms, anonymous_id=guest)
        self._site.put_to_partition(self._site.settings.topic("identities"), member.encode(), one.value or b"")

    def knows(self, record: Read) -> bool:
        """Whether a record speaks of a guest or a member."""
        return (record.key or b"").startswith((b"guest-", b"member-"))

    def judge(self, rows: dict[bytes, np.void], decisions: list[Read]) -> list[str]:
        """What is wrong with the members' rows, a line each.

        Args:
            rows: all rows.
            decisions: on guests' and members' events.
        """
        past: dict[str, list[oracle.Event]] = defaultdict(list)
        for i, (one, place) in enumerate(sorted(self._sent, key=lambda sent: sent[1])):
            id_ = json.loads(one.value or b"")["user_id"]
            past[self._member_of.get(id_, id_)].append(oracle_event(one, place)._replace(event_id=i + 1))
        said = []
        for member, events in past.items():
            wanted, row = oracle.row(events), rows.get(member.encode())
            wrong = [name for name in OF_THE_SET if row is None or row[name].tolist() != wanted[name]]
            if wrong:
                seq = "no row" if row is None else f"{row['seq']} steps, must be {wanted['seq']}"
                said.append(f"row of {member!r}: {seq}; {wrong}")
        for guest in self._member_of:
            row = rows.get(guest.encode())
            if row is not None and not is_blank(np.array([row]))[0]:
                said.append(f"row of {guest!r}: it was not merged")
        triggers = Counter(tuple(record.json["trigger"].values()) for record in decisions)
        said += [f"decision on {trigger} repeated" for trigger, n in triggers.items() if n > 1]
        return said
