"""A receiver: takes what devices send, seals it as observed, and pushes it. It binds what its manifest lists.

`python -m agent.receiver` runs it until SIGTERM or SIGINT; with `--check` it tells whether it is healthy.
"""

import asyncio
import sys

import structlog

from agent.collectors.network.exporters import Exporters
from agent.outlet import Outlet
from agent.receiver.flows.table import Allowlist
from agent.receiver.lane import PRODUCT, FlowLane
from agent.receiver.manifest import Manifest, read_manifest
from agent.receiver.ports import Ports
from agent.runner import Runner
from agent.settings import ReceiverSettings
from agent.telling import Telling, check, telling
from telltale import process
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.settings import read_or_exit

log = structlog.get_logger(__name__)


async def run(settings: ReceiverSettings, stopping: asyncio.Event) -> None:
    """Runs a receiver until `stopping` is set."""
    manifest = await asyncio.to_thread(read_manifest, settings.manifest)
    async with asyncio.TaskGroup() as tasks:
        receiving = tasks.create_task(_receive(settings, manifest))
        await stopping.wait()
        receiving.cancel()


async def _receive(settings: ReceiverSettings, manifest: Manifest) -> None:
    async with (
        telling(settings, Origin.ORIGIN_OBSERVED) as told,
        Ports([port.listen for port in manifest.flows]) as ports,
    ):
        lane = _lane(settings, manifest, told, ports)
        collectors = [lambda host: Exporters(lane.exporters)]
        runner = Runner(collectors, told.contracts, told.source, told.host)
        listens = [str(address) for address in ports.addresses]
        log.info("receiver listens", source=str(told.spiffe_id), ports=listens)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lane.run())
            tasks.create_task(runner.run())


def _lane(settings: ReceiverSettings, manifest: Manifest, told: Telling, ports: Ports) -> FlowLane:
    contract = next(contract for contract in told.contracts if contract.name == PRODUCT)
    allowed = [Allowlist(port.exporters) for port in manifest.flows]
    return FlowLane(ports, allowed, contract, Outlet(contract, told.source), told.host, settings.state)


if __name__ == "__main__":
    settings = read_or_exit(ReceiverSettings, "A receiver: takes what devices send, and pushes it.")
    if "--check" in sys.argv[1:]:
        raise SystemExit(check(settings))
    process.run(lambda stopping: run(settings, stopping))
