"""Between the stream and the consumer: batches wait for their schema, later ones of a product behind them.

All leave in the order of their product's log, so that a consumer's cursor never passes one that waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

import structlog

from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.chains import Chains
from telltale.consume.checking import Checked, check_schema, header_digest
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.consume.schemas import SchemaCache
from telltale.contract.product import Contract
from telltale.contract.schema import Schema
from telltale.errors import BatchRefused, TelltaleError
from telltale.rpc.client import backoff
from telltale.seal.chain import Link

# How long a batch waits for its schema, and how many bytes wait in all.
HOLD_SECONDS = 60.0
HOLD_BYTES = 16 << 20
# Digests that nobody knew, remembered for HOLD_SECONDS so that the next batches do not wait as long.
_MOST_UNKNOWN = 1_024

_log = structlog.get_logger("telltale.consume")


class Holding:
    """Resolves schemas, follows chains, and passes lists of items on to `deliver`. Use as `async with`."""

    def __init__(
        self,
        schemas: SchemaCache,
        chains: Chains,
        mesh: str,
        open_products: tuple[str, ...],
        deliver: Callable[[list[Item]], Awaitable[None]],
    ) -> None:
        self._schemas = schemas
        self._chains = chains
        self._mesh = mesh
        self._open_products = open_products
        self._deliver = deliver
        self._queues: dict[str, deque[Checked | Missing]] = {}
        self._bytes = 0
        # Why each digest could not be resolved, and until when nobody asks again.
        self._unknown: dict[bytes, tuple[float, str]] = {}
        self._resolving: dict[bytes, asyncio.Task[None]] = {}
        self._tasks = asyncio.TaskGroup()
        # Whoever takes items out of the queues passes them on before the next one may.
        self._order = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._resolving.values():
            task.cancel()
        await self._tasks.__aexit__(kind, value, trace)

    async def take(self, arrived: Iterable[Checked | Missing]) -> None:
        """Takes what a frame brought, and passes on what need not wait."""
        touched: dict[str, None] = {}
        for item in arrived:
            product = item.product if isinstance(item, Missing) else item.header.product
            self._queues.setdefault(product, deque()).append(item)
            self._bytes += _size(item)
            touched[product] = None
        await self._release(touched)
        if self._bytes > HOLD_BYTES:
            await self._give_up()

    async def _release(self, products: Iterable[str]) -> None:
        async with self._order:
            ready = [item for product in products for item in self._ready(product)]
            if ready:
                await self._deliver(ready)

    def _ready(self, product: str) -> Iterable[Item]:
        queue = self._queues.get(product)
        while queue:
            item = self._finish(queue[0])
            if item is None:
                return
            self._bytes -= _size(queue.popleft())
            yield item
        self._queues.pop(product, None)

    def _finish(self, item: Checked | Missing) -> Item | None:
        """The item as the consumer gets it; None while its schema is being asked for."""
        if isinstance(item, Missing):
            self._chains.gap(item.product)
            return item
        if not item.signed:
            return _delivered(item, None, None, item.refused)
        if item.refused is not None:
            return self._placed(item, None, None, item.refused)
        digest = item.header.schema_sha256
        schema = self._schemas.known(digest)
        if schema is not None:
            try:
                return self._placed(item, schema, self._contract(item, schema), None)
            except BatchRefused as refused:
                return self._placed(item, schema, None, refused)
        until, why = self._unknown.get(digest, (0.0, ""))
        if time.monotonic() < until:
            detail = f"its schema {digest.hex()[:16]} cannot be had: {why}"
            unknown = BatchRefused(RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA, detail)
            return self._placed(item, None, None, unknown)
        if digest not in self._resolving:
            self._resolving[digest] = self._tasks.create_task(self._resolve(digest))
        return None

    def _contract(self, item: Checked, schema: Schema) -> Contract:
        return check_schema(item.header, schema, self._mesh, self._open_products)

    def _placed(
        self, item: Checked, schema: Schema | None, contract: Contract | None, refused: BatchRefused | None
    ) -> Delivered:
        if refused is not None and refused.reason == RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE:
            # A source without a right to the product has no chain in it.
            return _delivered(item, schema, contract, refused)
        place = self._chains.place(item.header, header_digest(item))
        if refused is None and place.link is Link.FORK:
            refused = BatchRefused(
                RefusalReason.REFUSAL_REASON_FORK,
                "it follows another batch than the one known in its place: "
                f"somebody holds a copy of {item.header.source}",
            )
        if refused is None and place.link is Link.STALE:
            refused = BatchRefused(
                RefusalReason.REFUSAL_REASON_STALE_EPOCH, "a later chain of its source is known already"
            )
        return _delivered(
            item, schema, contract, refused, place.link, place.missing, after_gap=place.after_gap
        )

    async def _resolve(self, digest: bytes) -> None:
        deadline = time.monotonic() + HOLD_SECONDS
        attempt = 0
        while True:
            try:
                await self._schemas.get(digest)
                break
            except (TelltaleError, OSError) as failed:
                pause = backoff(attempt)
                attempt += 1
                if time.monotonic() + pause > deadline:
                    self._set_unknown(digest, str(failed))
                    break
                _log.info("schema not at hand yet", schema=digest.hex(), error=str(failed))
                await asyncio.sleep(pause)
        del self._resolving[digest]
        await self._release(list(self._queues))

    async def _give_up(self) -> None:
        """Stops waiting for schemas when too much waits for them."""
        for digest, task in list(self._resolving.items()):
            task.cancel()
            del self._resolving[digest]
            self._set_unknown(digest, f"more than {HOLD_BYTES >> 20} MiB of batches were waiting")
        await self._release(list(self._queues))

    def _set_unknown(self, digest: bytes, why: str) -> None:
        _log.warning("schema unknown; its batches are refused", schema=digest.hex(), error=why)
        self._unknown[digest] = (time.monotonic() + HOLD_SECONDS, why)
        while len(self._unknown) > _MOST_UNKNOWN:
            self._unknown.pop(next(iter(self._unknown)))


def _size(item: Checked | Missing) -> int:
    return 0 if isinstance(item, Missing) else item.size


def _delivered(
    item: Checked,
    schema: Schema | None,
    contract: Contract | None,
    refused: BatchRefused | None,
    link: Link = Link.NEXT,
    missing: tuple[tuple[int, int], ...] = (),
    *,
    after_gap: bool = False,
) -> Delivered:
    return Delivered(
        product=item.header.product,
        header=item.header,
        header_sha256=header_digest(item),
        batch=item.batch,
        position=item.position,
        received_time=item.received_time,
        schema=schema,
        contract=contract,
        refused=refused,
        signed=item.signed,
        link=link,
        missing=missing,
        after_gap=after_gap,
    )
