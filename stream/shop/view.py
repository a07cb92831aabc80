"""What the demo shows while it runs: a panel on a terminal, a line every few seconds elsewhere."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream.shop.live import Live, percentile
from stream.shop.scrape import Sample

SCREEN_EVERY_S = 0.5
LINE_EVERY_S = 5.0
RATE_OVER_S = 5.0


@dataclass
class View:
    """Shows the state of the demo, not more often than an eye needs."""

    console: Console
    hint: str = ""
    stages: list[tuple[str, float]] = field(default_factory=list)
    """Names of what was begun, and when."""
    _started_s: float = field(default_factory=time.monotonic)
    _shown_s: float = 0
    _applied: deque[tuple[float, int]] = field(default_factory=deque)
    _screen: Screen | None = None
    _last: tuple[Live | None, Sample] = (None, Sample())

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._screen = Screen(console=self.console, auto_refresh=False, transient=False)
            self._screen.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._screen:
            self._screen.update(self._panel(*self._last), refresh=True)
            self._screen.stop()

    @property
    def elapsed_s(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._started_s

    def stage(self, name: str) -> None:
        """Something new begins."""
        self.stages.append((name, self.elapsed_s))
        if not self._screen:
            self.console.print(f"[{self.elapsed_s:5.1f} s] {name}", markup=False, highlight=False)

    def show(self, live: Live | None, sample: Sample) -> None:
        """Bring what is shown up to date."""
        now_s = time.monotonic()
        self._last = live, sample
        self._applied.append((now_s, sample.applied))
        while now_s - self._applied[0][0] > RATE_OVER_S:
            self._applied.popleft()
        if now_s - self._shown_s < (SCREEN_EVERY_S if self._screen else LINE_EVERY_S):
            return
        self._shown_s = now_s
        if self._screen:
            self._screen.update(self._panel(live, sample), refresh=True)
        elif live:
            self.console.print(self._line(live, sample), markup=False, highlight=False, soft_wrap=True)

    def _rate(self) -> float:
        (from_s, before), (to_s, after) = self._applied[0], self._applied[-1]
        return (after - before) / (to_s - from_s) if to_s > from_s else 0.0

    def _line(self, live: Live, sample: Sample) -> str:
        campaigns = live.shop.coupons.campaigns.values()
        return (
            f"[{self.elapsed_s:5.1f} s] {self._rate():,.0f} events/s, lag {sample.total('offerstream_lag_events'):,}, "
            f"p99 {percentile(live.latencies_ms, 0.99):.0f} ms, offers {sum(c.offers for c in campaigns):,}, "
            f"redeemed {sum(c.redeemed for c in campaigns):,}, spent {money(sum(c.spent_minor for c in campaigns))}, "
            f"{earned_text(live.shop.ledger.earned())}"
        )

    def _panel(self, live: Live | None, sample: Sample) -> Panel:
        stages = Text()
        for i, (name, at_s) in enumerate(self.stages):
            running = i == len(self.stages) - 1
            stages.append(f"{at_s:6.1f} s  {name}\n", style="bold" if running else "dim")
        parts: list[Text | Table] = [stages]
        if live:
            parts += [self._traffic(live, sample), _campaigns(live), Text(earned_text(live.shop.ledger.earned()))]
        if self.hint:
            parts.append(Text(self.hint, style="dim"))
        return Panel(Group(*parts), title=f"Offerstream, {self.elapsed_s:.0f} s", title_align="left")

    def _traffic(self, live: Live, sample: Sample) -> Table:
        table = Table(
            *("events/s", "applied", "duplicate", "dead", "lag", "latency p50", "p99", "model"),
            box=None,
            header_style="dim",
        )
        table.add_row(
            f"{self._rate():,.0f}",
            f"{sample.applied:,}",
            f"{sample.duplicate:,}",
            f"{sample.dead:,}",
            f"{sample.total('offerstream_lag_events'):,}",
            f"{percentile(live.latencies_ms, 0.5):.0f} ms",
            f"{percentile(live.latencies_ms, 0.99):.0f} ms",
            ", ".join(hash_[:8] for hash_ in sample.models) or "none",
        )
        return table


def _campaigns(live: Live) -> Table:
    table = Table(
        *("campaign", "offers", "redeemed", "expired", "budget spent", "earned against holdout"),
        box=None,
        header_style="dim",
    )
    groups = live.shop.ledger.compare()
    for name, campaign in sorted(live.shop.coupons.campaigns.items()):
        group = groups.get(name)
        table.add_row(
            name,
            f"{campaign.offers:,}",
            f"{campaign.redeemed:,}",
            f"{campaign.expired:,}",
            money(campaign.spent_minor),
            f"{money(group.earned_minor)} ± {money(2 * group.earned_error_minor)}" if group else "",
        )
    return table


def earned_text(earned: Mapping[str, Any]) -> str:
    """What the offers earned, measured and true, with twice the standard error."""
    return (
        f"earned against holdout {money(earned['by_holdout_minor'])} ± {money(2 * earned['by_holdout_error_minor'])}, "
        f"truly {money(earned['true_minor'])}"
    )


def money(minor: float) -> str:
    """In major units."""
    return f"{minor / 100:,.2f}"
