"""What the agent knows of itself: how each collector fares and what waits in the spool."""

import enum
from dataclasses import dataclass, field


class State(enum.Enum):
    """How a collector fares."""

    OK = "ok"
    # It reads by a lesser way, or not everything.
    DEGRADED = "degraded"
    # Reading fails, and is tried again at every interval.
    FAILING = "failing"
    # The host does not let it read; it is tried again now and then.
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class CollectorStatus:
    """One collector. `reason` says what is wrong or missing; it is empty when nothing is."""

    product: str
    interval_seconds: float
    state: State
    reason: str
    since_unix_ns: int
    last_duration_seconds: float
    runs: int
    failures: int
    records: int
    lost: int


@dataclass(frozen=True)
class SpoolStatus:
    """What is not acked yet, and what a full spool has cost since the start.

    shed: batches of samples that were given up for newer ones. lost: records of other kinds, without room.
    """

    bytes: int = 0
    batches: int = 0
    limit_bytes: int = 0
    shed: int = 0
    lost: int = 0


@dataclass
class AgentStatus:
    """The agent's own state. It is written on the event loop and read from the collectors' threads."""

    collectors: dict[str, CollectorStatus] = field(default_factory=dict)
    spool: SpoolStatus = SpoolStatus()

    def every_collector(self) -> tuple[CollectorStatus, ...]:
        return tuple(self.collectors.values())

    @property
    def records(self) -> int:
        """Records collected since the agent started."""
        return sum(status.records for status in self.every_collector())

    @property
    def lost(self) -> int:
        """Records known to be lost before they were sealed, as far as they can be counted."""
        return sum(status.lost for status in self.every_collector())
