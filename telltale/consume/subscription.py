"""A verified subscription to many products through the gateway, for ever.

It reconnects from where it stands, drops what it has had, checks every batch against the consumer's own trust
bundle, and yields items in the order of each product's log. Keeping a cursor over restarts is the consumer's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Cursor, Gap, GapReason, Position, SealedFrame
from telltale.api.mesh.v1.stream_pb2 import Start, StreamSubscribeRequest
from telltale.consume.chains import Chains, KnownChain
from telltale.consume.checking import Checked, check_frame
from telltale.consume.delivered import Item, Missing
from telltale.consume.holding import Holding
from telltale.consume.schemas import SchemaCache
from telltale.consume.session import Session, left_out
from telltale.errors import TelltaleError, Unauthenticated, Unavailable
from telltale.identity.workload import Workload
from telltale.rpc.client import backoff
from telltale.seal.verify import Verifier

# Lists of items that wait for the consumer; a frame is at most 8 MiB. Then the stream is read no further.
_AHEAD = 4
# Products whose sources may be of any trust domain, if their promise says so too: the consumer's own choice,
# because the promise comes with the stream.
OPEN_PRODUCTS = ("mesh.*",)

_log = structlog.get_logger("telltale.consume")


class Subscription(AsyncIterator[list[Item]]):
    """Use as `async with Subscription(...) as stream: async for items in stream: ...`.

    An impatient subscription raises the first error that it meets; a patient one logs it and tries again.
    """

    def __init__(
        self,
        me: Workload,
        gateway: str,
        products: Iterable[str],
        cursor: Cursor | None = None,
        start: Start = Start.START_EARLIEST,
        *,
        chains: Iterable[KnownChain] = (),
        schema_directory: Path | None = None,
        open_products: tuple[str, ...] = OPEN_PRODUCTS,
        patient: bool = True,
    ) -> None:
        self._me = me
        self._gateway = gateway
        self._products = tuple(naming.check_pattern(product) for product in products)
        self._start = start
        self._patient = patient
        self._reached = {(p.product, p.log): p.offset for p in (cursor or Cursor()).positions}
        self._verifier = Verifier(me.trust)
        self._session: Session | None = None
        self._out: asyncio.Queue[list[Item] | BaseException] = asyncio.Queue(_AHEAD)
        self._holding = Holding(
            SchemaCache(self._fetch_schema, schema_directory),
            Chains(chains),
            me.trust.mesh,
            open_products,
            self._out.put,
        )
        self._lifetime = AsyncExitStack()
        self._failed: BaseException | None = None

    async def __aenter__(self) -> Self:
        if unheard := left_out(self._me, self._products):
            _log.warning(
                "more domains than a token may name: these are not heard; subscribe to them apart",
                gateway=self._gateway,
                domains=list(unheard),
            )
        task = asyncio.create_task(self._run(), name="subscription")
        self._lifetime.push_async_callback(_ended, task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lifetime.aclose()

    async def __anext__(self) -> list[Item]:
        if self._failed is not None:
            raise self._failed
        item = await self._out.get()
        if isinstance(item, BaseException):
            self._failed = item
            raise item
        return item

    @property
    def connected(self) -> bool:
        """Whether a stream is open now."""
        return self._session is not None

    async def _run(self) -> None:
        try:
            async with self._holding:
                await self._read_for_ever()
        except asyncio.CancelledError:
            raise
        except BaseExceptionGroup as failed:
            await self._out.put(failed.exceptions[0] if len(failed.exceptions) == 1 else failed)
        except Exception as failed:
            await self._out.put(failed)

    async def _read_for_ever(self) -> None:
        attempt = 0
        while True:
            try:
                self._session = self._session or await self._open()
                frame = await self._session.read()
                if frame is None:
                    await self._reopen(self._session)
                    continue
                attempt = 0
                await self._take(frame)
            except TelltaleError as failed:
                await self._close()
                attempt = await self._pause(failed, attempt)
            except asyncio.CancelledError:
                await self._close()
                raise

    async def _open(self) -> Session:
        session = await Session.open(self._me, self._gateway, self._products)
        session.subscribe(
            StreamSubscribeRequest(products=self._products, cursor=self._cursor(), start=self._start)
        )
        return session

    async def _reopen(self, old: Session) -> None:
        """Opens the next stream before the present one ends. What comes twice is dropped by its position."""
        try:
            self._session = await self._open()
        except TelltaleError as failed:
            # The present stream may outlive a short outage of the authority.
            _log.warning("stream cannot be renewed yet", gateway=self._gateway, error=str(failed))
            old.postpone()
            return
        try:
            await self._session.started()
        finally:
            await old.close()

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _pause(self, failed: TelltaleError, attempt: int) -> int:
        expired = isinstance(failed, Unauthenticated) and "expired" in str(failed) and attempt == 0
        if not self._patient and not expired:
            raise failed
        if not expired:
            _log.warning("stream broken; reconnecting", gateway=self._gateway, error=str(failed))
            await asyncio.sleep(backoff(attempt))
        return attempt + 1

    def _cursor(self) -> Cursor:
        return Cursor(
            positions=[
                Position(product=product, log=log, offset=offset)
                for (product, log), offset in self._reached.items()
            ]
        )

    async def _take(self, frame: SealedFrame) -> None:
        # Verifying takes 0.1 ms and more a batch: not on the loop.
        checked = await asyncio.to_thread(
            check_frame, frame, self._verifier, self._products, datetime.now(UTC)
        )
        if frame.HasField("sync"):
            # Who starts at the latest stands somewhere before anything arrived, and goes on from there.
            place = frame.sync.position
            self._reached.setdefault((place.product, place.log), place.offset)
        arrived: list[Checked | Missing] = []
        if frame.HasField("gap"):
            arrived.append(self._gap(frame.gap))
        arrived += [one for one in checked if self._is_new(one)]
        if arrived:
            await self._holding.take(arrived)

    def _gap(self, gap: Gap) -> Missing:
        if gap.reason == GapReason.GAP_REASON_LOG_REPLACED:
            # Naming it again would bring the same gap with every reconnect.
            self._reached.pop((gap.product, gap.log), None)
        return Missing(gap)

    def _is_new(self, checked: Checked) -> bool:
        position = checked.position
        if not position.log:
            return True
        key = (position.product, position.log)
        if position.offset <= self._reached.get(key, 0):
            return False
        self._reached[key] = position.offset
        return True

    async def _fetch_schema(self, digest: bytes) -> bytes:
        if self._session is None:
            raise Unavailable("there is no stream to the gateway now")
        return await self._session.schema(digest)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
