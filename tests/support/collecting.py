"""A sink that is a list, and collectors that do as a test says."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from google.protobuf.message import Message

from agent.collectors import Collector, CollectorFactory, Host
from telltale.api.mesh.v1.batch_pb2 import Loss
from telltale.source.source import Part


class Published(NamedTuple):
    """One call of the sink."""

    product: str
    records: tuple[Message, ...]
    removed: tuple[Message, ...] = ()
    losses: tuple[Loss, ...] = ()
    snapshot: bool = False
    parts: tuple[Part, ...] = ()


@dataclass
class ListSink:
    """Keeps what is published, unless it is `full`, and refuses it while `broken` holds an exception."""

    published: list[Published] = field(default_factory=list)
    holes_declared: int = 0
    broken: Exception | None = None
    full: bool = False

    async def publish(
        self,
        product: str,
        records: Sequence[Message],
        *,
        removed: Sequence[Message] = (),
        losses: Sequence[Loss] = (),
    ) -> bool:
        return self._keep(Published(product, tuple(records), tuple(removed), tuple(losses)))

    async def publish_encoded(
        self, product: str, parts: Sequence[Part], *, losses: Sequence[Loss] = ()
    ) -> bool:
        return self._keep(Published(product, (), losses=tuple(losses), parts=tuple(parts)))

    async def snapshot(self, product: str, records: Sequence[Message]) -> bool:
        return self._keep(Published(product, tuple(records), snapshot=True))

    def _keep(self, published: Published) -> bool:
        if self.broken is not None:
            raise self.broken
        if not self.full:
            self.published.append(published)
        return not self.full

    def take(self) -> list[Published]:
        """What came since the last time."""
        published, self.published = self.published, []
        return published


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def collector(
    product: str, collect: Callable[[], Iterable[Message]], *, seconds: float = 3600.0
) -> CollectorFactory:
    """A collector of a product that yields what the function returns."""

    class Told(Collector):
        def __init__(self, host: Host) -> None:
            self.product = product
            self.interval = timedelta(seconds=seconds)

        def collect(self) -> Iterable[Message]:
            return collect()

    return Told
