"""What a worker says of itself on /metrics."""

import re
import threading
import urllib.request
from collections import Counter
from http.client import HTTPException

INTERVAL_S = 0.5
TIMEOUT_S = 2.0


_SAMPLE = re.compile(r"(?P<name>offerstream_\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Sample:
    """One reading of a worker's metrics."""

    def __init__(self, text: str = "") -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        # The library's parser takes 30 ms, and holds up the shop, which publishes beside it.
        for line in text.splitlines():
            found = _SAMPLE.fullmatch(line)
            if found:
                self._values[found["name"], tuple(_LABEL.findall(found["labels"] or ""))] = float(found["value"])

    def total(self, name: str, **labels: str) -> int:
        """Sum over all label values that are not given."""
        wanted = set(labels.items())
        return int(sum(value for (key, has), value in self._values.items() if key == name and wanted <= set(has)))

    def by(self, name: str, label: str) -> Counter[str]:
        """Sums by the values of one label."""
        found: Counter[str] = Counter()
        for (key, labels), value in self._values.items():
            if key == name:
                found[dict(labels)[label]] += int(value)
        return found

    @property
    def applied(self) -> int:
        """Events applied."""
        return self.total("offerstream_events_total", outcome="applied")

    @property
    def duplicate(self) -> int:
        """Events that came again."""
        return self.total("offerstream_events_total", outcome="duplicate")

    @property
    def dead(self) -> int:
        """Events refused."""
        return self.total("offerstream_events_total", outcome="dead")

    @property
    def taken(self) -> int:
        """Events of which the worker has made something: applied, dropped or refused."""
        return self.applied + self.duplicate + self.dead

    @property
    def models(self) -> list[str]:
        """Hashes of the models in force."""
        return [hash_ for hash_, value in self.by("offerstream_model_info", "hash").items() if value and hash_]


class Scraper:
    """Reads a worker's metrics twice a second, on a thread of its own; `latest` is what it last said."""

    def __init__(self, port: int) -> None:
        self.latest = Sample()
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def read(self) -> Sample:
        """What it says now, or last said."""
        text = self._get()
        if text is not None:
            self.latest = Sample(text)
        return self.latest

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self.read()

    def _get(self) -> str | None:
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - loopback
                text: str = answer.read().decode()
                return text
        except (OSError, HTTPException):
            return None
