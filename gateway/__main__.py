"""The gateway: catalog, router, fan-out. Run as `python -m gateway`."""

import asyncio

from gateway.serving import serving_gateway
from gateway.settings import GatewaySettings
from telltale import process
from telltale.buffers import keep_freed_buffers
from telltale.identity.workload import Workload
from telltale.settings import read_or_exit
from telltale.source.telemetry import self_metrics


async def run(settings: GatewaySettings, stopping: asyncio.Event) -> None:
    """Serves until `stopping` is set."""
    async with (
        Workload.open(settings) as me,
        self_metrics(me, "gateway", settings.state, settings.platform) as telemetry,
        serving_gateway(me, settings, telemetry.audit),
    ):
        await stopping.wait()


if __name__ == "__main__":
    gateway = read_or_exit(GatewaySettings, "The gateway: catalogs data products and fans them out.")
    keep_freed_buffers()
    process.run(lambda stopping: run(gateway, stopping))
