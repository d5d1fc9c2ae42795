"""A host agent: collects, seals, spools and pushes. It binds no port and runs no command.

`python -m agent` runs it until SIGTERM or SIGINT; `python -m agent --check` tells whether it is healthy.
"""

import asyncio
import sys
from collections.abc import Iterable

import structlog

from agent.collectors import CollectorFactory
from agent.collectors.servers import COLLECTORS
from agent.runner import Runner
from agent.settings import AgentSettings
from agent.telling import check, telling
from telltale import process
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.contract.image import Image
from telltale.settings import read_or_exit

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
    async with telling(settings, Origin.ORIGIN_AUTHENTICATED, image) as told:
        runner = Runner(
            collectors,
            told.contracts,
            told.source,
            told.host,
            products=settings.collect,
            intervals=settings.intervals,
        )
        log.info("agent collects", source=str(told.spiffe_id), products=sorted(runner.lanes))
        await runner.run()


if __name__ == "__main__":
    settings = read_or_exit(AgentSettings, "A host agent: collects, seals, spools and pushes.")
    if "--check" in sys.argv[1:]:
        raise SystemExit(check(settings))
    process.run(lambda stopping: run(settings, stopping))
