"""A host agent: collects, seals, spools and pushes. It binds no port and runs no command.

`python -m agent` runs it until SIGTERM or SIGINT; `python -m agent --check` tells whether it is healthy.
"""

import asyncio
import sys
import time
from collections.abc import Iterable

import structlog

from agent import status_file
from agent.collectors import CollectorFactory, Host
from agent.collectors.servers import COLLECTORS
from agent.positions import Positions
from agent.runner import Runner
from agent.settings import AgentSettings
from agent.status import SpoolStatus
from telltale import process
from telltale.contract.image import Image, own_image
from telltale.contract.product import contracts_in
from telltale.errors import Precondition
from telltale.identity.workload import Workload
from telltale.naming import domain_of
from telltale.settings import read_or_exit
from telltale.source.source import Source, SourceSettings

log = structlog.get_logger(__name__)


async def run(
    settings: AgentSettings,
    stopping: asyncio.Event,
    collectors: Iterable[CollectorFactory] = COLLECTORS,
    image: Image | None = None,
) -> None:
    """Runs an agent until `stopping` is set; `image` describes its products, by default its domain's."""
    async with asyncio.TaskGroup() as tasks:
        collecting = tasks.create_task(_collect(settings, collectors, image))
        await stopping.wait()
        collecting.cancel()


async def _collect(
    settings: AgentSettings, collectors: Iterable[CollectorFactory], image: Image | None
) -> None:
    # It believes nobody: it takes no calls and reads no batches.
    async with Workload.open(settings, hears=False) as me:
        trust_domain = me.spiffe_id.trust_domain
        image = image or own_image(domain_of(trust_domain, settings.mesh))
        spool = SourceSettings(
            path=settings.state / "spool.db",
            address=settings.service,
            trust_domain=trust_domain,
            max_bytes=settings.spool_bytes,
        )
        host = Host(positions=Positions(settings.state / "positions"))
        async with Source(me, spool, image) as source:
            runner = Runner(
                collectors,
                contracts_in(image),
                source,
                host,
                products=settings.collect,
                intervals=settings.intervals,
            )
            log.info("agent collects", source=str(me.spiffe_id), products=sorted(runner.lanes))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(runner.run())
                tasks.create_task(_tell_status(settings, host, source, me))


async def _tell_status(settings: AgentSettings, host: Host, source: Source, me: Workload) -> None:
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


def _check(settings: AgentSettings) -> int:
    try:
        print(status_file.check(settings.state, time.time()))
    except Precondition as wrong:
        print(f"agent: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    settings = read_or_exit(AgentSettings, "A host agent: collects, seals, spools and pushes.")
    if "--check" in sys.argv[1:]:
        raise SystemExit(_check(settings))
    process.run(lambda stopping: run(settings, stopping))
