"""The one source through which a process tells the platform of itself."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from google.protobuf.message import Message

from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Loss
from telltale.contract.image import Image, own_image
from telltale.contract.product import contracts_in
from telltale.identity.workload import Workload
from telltale.source.source import Source, SourceSettings

_SPOOL_BYTES = 64 << 20
# What is left then waits in the spool for the next start.
_DRAIN = timedelta(seconds=1)


class Publish(Protocol):
    """`Source.publish`, as far as it is needed here."""

    async def __call__(
        self, product: str, records: Sequence[Message], *, losses: Sequence[Loss] = ()
    ) -> object: ...


@asynccontextmanager
async def own_source(me: Workload, state: Path, platform: str) -> AsyncIterator[Source]:
    """Pushes to the platform's domain service while the body runs.

    state: the process's directory, where the spool is kept. platform: `host:port` of that service.
    """
    settings = SourceSettings(
        path=state / "telemetry.db",
        address=platform,
        trust_domain=naming.trust_domain(naming.PLATFORM, me.trust.mesh),
        max_bytes=_SPOOL_BYTES,
        drain=_DRAIN,
    )
    async with Source(me, settings, own_image(naming.PLATFORM)) as source:
        yield source


def half_of_freshness(image: Image, product: str) -> timedelta:
    """How long a product may stay without a batch and surely keep its promise."""
    (freshness,) = (one.options.freshness for one in contracts_in(image) if one.name == product)
    return freshness.ToTimedelta() / 2
