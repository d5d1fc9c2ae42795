"""The mesh at one moment, as `telltale up` and `telltale status` show it: plain facts, already measured."""

from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from telltale.cli.supervisor import ChildStatus

# Long enough to average products that speak every ten seconds.
_RATE_WINDOW = 30.0
# Looks of which a product remembers what came in; an hour of them.
_MOST_WAITING = 3600


@dataclass(frozen=True)
class ProductView:
    """One data product. Spans are seconds; None is not known."""

    name: str
    kind: str
    state: str
    state_since: datetime | None
    # Records that came in, as far as the gateway and the database tell.
    received: int
    # Records that the database has taken in.
    stored: int | None
    # Records a second.
    rate: float | None
    # Age of the newest event.
    freshness: float | None
    # How long the oldest batch waits that came in and is not stored, as far as it was noticed.
    lag: float | None


@dataclass(frozen=True)
class FindingView:
    """One finding of the analysis."""

    time: str
    severity: str
    # Whether it still holds: `open` or `ended`.
    state: str
    entity: str
    title: str


@dataclass(frozen=True)
class GapView:
    """Gaps of one kind in what the database has of a product: something can no longer be had."""

    product: str
    # Why, in the contract's word: `retention`, `log_replaced` or `damaged`.
    reason: str
    gaps: int
    # When the last of them was noticed.
    noticed: str


@dataclass(frozen=True)
class Snapshot:
    """Everything that is shown. `problem` says why the catalog is not known now."""

    products: tuple[ProductView, ...] = ()
    processes: tuple[ChildStatus, ...] = ()
    findings: tuple[FindingView, ...] = ()
    findings_total: int = 0
    problem: str = ""
    gaps: tuple[GapView, ...] = ()

    @property
    def received(self) -> int:
        return sum(product.received for product in self.products)

    @property
    def stored(self) -> int:
        return sum(product.stored or 0 for product in self.products)

    def as_json(self) -> dict[str, Any]:
        """The summary as one JSON object."""
        return {
            "products": [
                {
                    **asdict(product),
                    "state_since": product.state_since.isoformat() if product.state_since else None,
                }
                for product in self.products
            ],
            "records_in": self.received,
            "records_stored": self.stored,
            "findings": self.findings_total,
            "gaps": [asdict(gap) for gap in self.gaps],
            "latest_findings": [asdict(finding) for finding in self.findings],
            "processes": [asdict(process) for process in self.processes],
        }


@dataclass
class Rates:
    """Records a second of each product, over the last half minute."""

    _counts: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def of(self, product: str, count: int, now: float) -> float | None:
        """Takes a counter's reading; None until there are two."""
        readings = self._counts.setdefault(product, deque())
        if readings and count < readings[-1][1]:
            # The gateway started again and counts from nothing.
            readings.clear()
        readings.append((now, count))
        while len(readings) > 2 and now - readings[0][0] > _RATE_WINDOW:
            readings.popleft()
        (then, first), (_, last) = readings[0], readings[-1]
        return (last - first) / (now - then) if now > then else None


@dataclass
class Lags:
    """How long received batches wait to be stored: of a slow product the interval between two is no delay."""

    _waiting: dict[str, deque[datetime]] = field(default_factory=dict)

    def of(self, product: str, received: datetime, stored: datetime, now: datetime) -> float:
        """Takes the received times of the latest batch that came in and of the latest that is stored."""
        waiting = self._waiting.setdefault(product, deque(maxlen=_MOST_WAITING))
        if received > stored and (not waiting or received > waiting[-1]):
            # When there is no room, the middle of a long wait goes, not its start.
            if len(waiting) == _MOST_WAITING:
                waiting.pop()
            waiting.append(received)
        while waiting and waiting[0] <= stored:
            waiting.popleft()
        return max(0.0, (now - waiting[0]).total_seconds()) if waiting else 0.0
