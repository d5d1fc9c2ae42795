"""What host agents and receivers share: an identity, a spool that is pushed, a status for health checks."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from agent import status_file
from agent.collectors import Host
from agent.positions import Positions
from agent.settings import TellingSettings
from agent.status import SpoolStatus
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.contract.image import Image, own_image
from telltale.contract.product import Contract, contracts_in
from telltale.errors import Precondition
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId, domain_of
from telltale.source.source import Source, SourceSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Telling:
    """A source at work."""

    spiffe_id: SpiffeId
    source: Source
    host: Host
    contracts: tuple[Contract, ...]


@asynccontextmanager
async def telling(
    settings: TellingSettings, origin: Origin, image: Image | None = None
) -> AsyncIterator[Telling]:
    """Enrols, opens the spool and pushes; `image` describes its products, by default its domain's."""
    # It believes nobody: it takes no calls and reads no batches.
    async with Workload.open(settings, hears=False) as me:
        trust_domain = me.spiffe_id.trust_domain
        image = image or own_image(domain_of(trust_domain, settings.mesh))
        spool = SourceSettings(
            path=settings.state / "spool.db",
            address=settings.service,
            trust_domain=trust_domain,
            max_bytes=settings.spool_bytes,
            origin=origin,
        )
        host = Host(positions=Positions(settings.state / "positions"))
        async with Source(me, spool, image) as source, asyncio.TaskGroup() as tasks:
            status = tasks.create_task(_tell_status(settings, host, source, me))
            yield Telling(me.spiffe_id, source, host, contracts_in(image))
            status.cancel()


async def _tell_status(settings: TellingSettings, host: Host, source: Source, me: Workload) -> None:
    while True:
        usage = await source.usage()
        host.agent.spool = SpoolStatus(
            usage.bytes, usage.batches, usage.limit_bytes, source.batches_shed, source.records_lost
        )
        ends = me.credentials.not_after.timestamp()
        name = str(me.spiffe_id)
        try:
            await asyncio.to_thread(
                status_file.write, settings.state, host.agent, name, source.last_ack, ends
            )
        except OSError as failed:
            # It collects, and counts what it loses, all the same; to the health check it looks stopped.
            log.warning("the status cannot be written", reason=str(failed))
        await asyncio.sleep(status_file.WRITE_EVERY_SECONDS)


def check(settings: TellingSettings) -> int:
    """For a health check: one line on how it fares, and the exit status."""
    try:
        print(status_file.check(settings.state, time.time()))
    except Precondition as wrong:
        print(f"agent: {wrong}", file=sys.stderr)
        return 1
    return 0
