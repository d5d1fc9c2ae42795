"""What a collector is: one facet of the source, read when the runner says so.

A collector reads; the runner owns timing, failures, counting and, for inventories, the comparison with the
last state. Reading stands apart from parsing in every collector, so that tests feed captured text.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agent.positions import Positions
from agent.status import AgentStatus
from telltale.errors import TelltaleError


class Collector(Protocol):
    """Reads one facet of the source. Must not write, spawn or dial. Collectors subclass it."""

    product: str
    interval: timedelta
    # What the last reading lacks and why, in one sentence; empty when it was whole.
    limited: str = ""

    def collect(self) -> Iterable[Message]:
        """Yields the product's records as they are now; for an inventory the whole current state.

        A `Loss` among them declares records that should be there and are not. Yielding nothing is no error.
        Raises CannotCollect when this host does not let it read, anything else when reading failed. Runs in
        a thread, and never twice at once.
        """
        ...


@runtime_checkable
class Watcher(Collector, Protocol):
    """A collector that the kernel tells where that is permitted, and that looks by `collect` elsewhere."""

    def watch(self) -> AsyncGenerator[Iterable[Message], None]:
        """Yields what happened, burst by burst, for ever; losses among the records as in `collect`.

        An async generator on the event loop: it must not block, and releases what it opened in `finally`.
        Raises CannotCollect when this host does not permit it: the runner then reports the reason, calls
        `collect` at the interval instead and tries `watch` again now and then. The two never run at once.
        """
        ...


class CannotCollect(TelltaleError):
    """This host does not let the collector read. The message says who denied what, and what would help."""


@dataclass(frozen=True)
class Host:
    """The source as its collectors see it: where its files are, and what the agent knows of itself."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    etc: Path = Path("/etc")
    var: Path = Path("/var")
    run: Path = Path("/run")
    usr: Path = Path("/usr")
    agent: AgentStatus = field(default_factory=AgentStatus)
    # Where the collectors of growing files left off; the runner keeps it on disk.
    positions: Positions = field(default_factory=Positions)


# What a tuple of collectors holds: their classes, each made with the host it is to read.
CollectorFactory = Callable[[Host], Collector]


def timestamp(unix_ns: int | None = None) -> Timestamp:
    """The moment of Unix nanoseconds; now when none are given."""
    seconds, nanos = divmod(time.clock_gettime_ns(time.CLOCK_REALTIME) if unix_ns is None else unix_ns, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)
