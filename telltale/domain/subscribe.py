"""Subscribe and Watch of every product: from the cursor on, then live, in frames of joined batches."""

from collections.abc import AsyncIterator, Iterable

from telltale.api.mesh.v1.batch_pb2 import Gap, GapReason, Position, Sync
from telltale.api.mesh.v1.stream_pb2 import Start, SubscribeRequest, WatchRequest
from telltale.contract.product import Contract
from telltale.domain.access import Access
from telltale.domain.log import Entry, ProductLog
from telltale.errors import InvalidInput
from telltale.wire import field, fields

# Cost is per message: batches travel together up to this size.
_FRAME_BYTES = 256 << 10
# Field numbers of a frame.
_BATCHES, _CERTIFICATES, _GAP, _SYNC = 1, 2, 3, 4


class Subscriptions:
    """Streams a product's log as bytes of its own frame message."""

    def __init__(self, log: ProductLog, access: Access) -> None:
        self._log = log
        self._access = access

    async def subscribe(self, contract: Contract, request: SubscribeRequest) -> AsyncIterator[bytes]:
        """The caller needs `subscribe`."""
        self._access.require("subscribe", contract)
        offset, gap = await self._start(contract.name, request)
        frames = _Frames(self._log)
        if gap is not None:
            yield field(_GAP, gap.SerializeToString())
        async for frame in self._tail(contract.name, offset, frames, synced=False):
            yield frame

    async def watch(self, contract: Contract, request: WatchRequest) -> AsyncIterator[bytes]:
        """The caller needs `subscribe`."""
        self._access.require("subscribe", contract)
        product = contract.name
        through = (await self._log.extent(product)).latest
        frames = _Frames(self._log)
        offset = 0
        while entries := await self._log.state_after(product, offset, through, _FRAME_BYTES):
            offset = entries[-1].offset
            yield await frames.of(entries)
        yield self._sync(product, through)
        async for frame in self._tail(product, through, frames, synced=True):
            yield frame

    async def _tail(
        self, product: str, offset: int, frames: "_Frames", *, synced: bool
    ) -> AsyncIterator[bytes]:
        through = (await self._log.extent(product)).latest
        while True:
            if not synced and offset >= through:
                synced = True
                yield self._sync(product, offset)
            # Taken before looking: what arrives while looking wakes us too.
            arrival = self._log.arrival(product)
            entries = await self._log.after(product, offset, _FRAME_BYTES)
            if not entries:
                await arrival.wait()
                continue
            offset = entries[-1].offset
            yield await frames.of(entries)

    async def _start(self, product: str, request: SubscribeRequest) -> tuple[int, Gap | None]:
        """The offset to go on after, and what is missing before it."""
        positions = [one for one in request.cursor.positions if one.log == self._log.id]
        for position in request.cursor.positions:
            if position.product != product:
                raise InvalidInput(f"the cursor names {position.product}; this stream is of {product}")
        extent = await self._log.extent(product)
        if len(positions) > 1:
            raise InvalidInput(f"the cursor names the log {self._log.id} more than once")
        if positions and positions[0].offset <= extent.latest:
            asked = positions[0].offset
            if asked >= extent.pruned_through:
                return asked, None
            return extent.pruned_through, self._gap(
                GapReason.GAP_REASON_RETENTION, product, self._log.id, asked, extent.earliest
            )
        if request.cursor.positions:
            # Another log's position, or one past the end of this log: it was replaced or rolled back.
            lost = (positions or request.cursor.positions)[0]
            return 0, self._gap(
                GapReason.GAP_REASON_LOG_REPLACED, product, lost.log, lost.offset, extent.earliest
            )
        return (extent.latest if request.start == Start.START_LATEST else 0), None

    def _sync(self, product: str, offset: int) -> bytes:
        """The frame that says: what was there is sent, what follows is live."""
        sync = Sync(position=Position(product=product, log=self._log.id, offset=offset))
        return field(_SYNC, sync.SerializeToString())

    def _gap(self, reason: GapReason, product: str, log: str, after: int, resumed: int) -> Gap:
        position = Position(product=product, log=self._log.id, offset=resumed)
        return Gap(reason=reason, product=product, log=log, after_offset=after, resumed=position)


class _Frames:
    """Joins entries into frames of one stream; a signer's certificates travel before its first batch."""

    def __init__(self, log: ProductLog) -> None:
        self._log = log
        self._sent: set[str] = set()

    async def of(self, entries: Iterable[Entry]) -> bytes:
        certificates: list[bytes] = []
        batches = []
        for entry in entries:
            if entry.signer not in self._sent:
                self._sent.add(entry.signer)
                certificates += await self._log.certificates_of(entry.signer)
            batches.append(entry.batch)
        return fields(_CERTIFICATES, certificates) + fields(_BATCHES, batches)
