"""Looks for products that are new on the mesh and gives each its tables, before anybody sends a batch of it.

So a question about a quiet product has an empty answer, not an error.
"""

import asyncio
from collections.abc import Collection

import structlog

from services.writer.settings import WriterSettings
from services.writer.store import Store
from telltale import naming
from telltale.consume.session import audiences
from telltale.contract.image import Image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.pull import pull
from telltale.contract.schema import Schema
from telltale.errors import InvalidInput, TelltaleError
from telltale.identity.workload import Workload
from telltale.rpc.client import call_metadata

# Where a product appears, others follow: the next look comes this soon, and the pauses double from there.
_SHORTEST_PAUSE_SECONDS = 1.0

_log = structlog.get_logger("telltale.writer")


async def foresee_for_ever(me: Workload, settings: WriterSettings, store: Store) -> None:
    """Makes tables for what the gateway reflects, again and again."""
    seen: dict[str, bytes] = {}
    pause = _SHORTEST_PAUSE_SECONDS
    while True:
        try:
            files = await _reflected(me, settings)
            if files != seen:
                await _foresee(files, settings.products, store)
                seen = files
                pause = _SHORTEST_PAUSE_SECONDS
        except TelltaleError as failed:
            _log.warning("cannot look for new products now", gateway=settings.gateway, error=str(failed))
        await asyncio.sleep(min(pause, settings.catalog_seconds))
        pause = min(2 * pause, settings.catalog_seconds)


async def _reflected(me: Workload, settings: WriterSettings) -> dict[str, bytes]:
    platform = naming.trust_domain(naming.PLATFORM, me.trust.mesh)
    metadata = await call_metadata(me, platform, *audiences(me, settings.products))
    # Opened anew for each look: a renewed certificate comes with the next channel.
    async with me.channel(settings.gateway, naming.server_name("gateway", platform)) as channel:
        return await pull(channel, metadata)


async def _foresee(files: dict[str, bytes], patterns: tuple[str, ...], store: Store) -> None:
    for contract, schema in await asyncio.to_thread(_products, files.values(), patterns):
        try:
            await store.foresee(contract, schema)
        except InvalidInput as wrong:
            _log.warning("a product gets no table", product=contract.name, error=str(wrong))


def _products(files: Collection[bytes], patterns: tuple[str, ...]) -> list[tuple[Contract, Schema]]:
    """The products that are to be stored, held to the same bounds and rules as those of batches."""
    image = Image.of_files(files)
    schemas = {
        contract.name: Schema.parse(Schema.of(image, contract).data)
        for contract in contracts_in(image)
        if naming.matches(contract.name, patterns)
    }
    return [(schema.contract(name), schema) for name, schema in schemas.items()]
