"""Hands sealed findings to the service's own product log, one batch at a time, until each is acked."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Never, TypeVar

import structlog

from services.analysis.outbox import Outbox, Pending
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse, RefusalReason
from telltale.rpc.client import backoff

_T = TypeVar("_T")
# Runs something in the thread that owns the state.
Run = Callable[[Callable[[], _T]], Awaitable[_T]]
Accept = Callable[[PushRequest], Awaitable[PushResponse]]

# An empty batch this often shows that the analysis lives; the product promises one in 300 s.
HEARTBEAT_SECONDS = 100.0
# Refusals that the same records overcome at the start of a new chain.
_ANOTHER_CHAIN = (
    RefusalReason.REFUSAL_REASON_FORK,
    RefusalReason.REFUSAL_REASON_STALE_EPOCH,
    RefusalReason.REFUSAL_REASON_BROKEN_CHAIN,
    RefusalReason.REFUSAL_REASON_SIGNATURE,
)

_log = structlog.get_logger("services.analysis")


class Publisher:
    """Publishes what an outbox holds. `newest_epoch` asks the log for the newest epoch of this source."""

    def __init__(
        self,
        outbox: Outbox,
        run: "Run[Pending | None]",
        accept: Accept,
        newest_epoch: Callable[[], Awaitable[int]],
    ) -> None:
        self._outbox = outbox
        self._run = run
        self._accept = accept
        self._newest_epoch = newest_epoch
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is something to publish."""
        self._news.set()

    async def run(self) -> Never:
        """Publishes for ever; an empty batch when there was nothing for a while."""
        while True:
            self._news.clear()
            await self.publish()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                await self._run(lambda: self._outbox.seal(empty=True))

    async def publish(self) -> None:
        """Publishes until the outbox is empty."""
        refused = 0
        while (pending := await self._run(self._outbox.pending)) is not None:
            response = await self._accept(
                PushRequest(batches=[pending.batch], certificates=pending.certificates)
            )
            if response.acks:
                await self._run(self._outbox.acked)
                refused = 0
                continue
            refusal = response.refusals[0]
            _log.error(
                "findings not published",
                reason=RefusalReason.Name(refusal.reason),
                detail=refusal.detail,
            )
            if refusal.reason in _ANOTHER_CHAIN:
                above = await self._newest_epoch()
                await self._run(lambda above=above: self._outbox.begin_chain(above))  # type: ignore[misc]
            if refused:
                await asyncio.sleep(backoff(refused))
            refused += 1
