"""Subscribe and Watch of every product: from the cursor on, then live, in frames of joined batches."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol

from telltale.api.mesh.v1.batch_pb2 import Gap, GapReason, Position, Sync
from telltale.api.mesh.v1.stream_pb2 import Start, SubscribeRequest, WatchRequest
from telltale.contract.product import Contract
from telltale.domain.access import Access
from telltale.domain.clearance import Clearance
from telltale.domain.log import ProductLog
from telltale.domain.rows import Entry, Found
from telltale.errors import InvalidInput
from telltale.wire import field, fields, message

# Cost is per message: batches travel together up to this size, which one large batch has as well. A hop of
# 1 MiB costs 4.2 ms of CPU in messages of 64 KiB, 3.1 in those of 256 KiB and 2.3 in one.
_FRAME_BYTES = 1 << 20
# Of one cursor: a product has a log or a few.
_MAX_POSITIONS = 10_000
# Field numbers of a frame.
_BATCHES, _CERTIFICATES, _GAP, _SYNC = 1, 2, 3, 4


class Subscriptions:
    """Streams a product's log as bytes of its own frame message."""

    def __init__(self, log: ProductLog, access: Access) -> None:
        self._log = log
        self._access = access

    async def subscribe(self, contract: Contract, request: SubscribeRequest) -> AsyncIterator[bytes]:
        """The caller needs `subscribe`, and to `see` every field: sealed batches are delivered whole."""
        self._access.require_whole(contract)
        frames = _SealedFrames(self._log)
        start = await self._start(contract.name, request)
        if start.lost is not None:
            yield await self._gap(GapReason.GAP_REASON_LOG_REPLACED, start.lost, 0)
        async for frame in self._tail(contract.name, start.offset, start.known_pruned, frames, synced=False):
            yield frame

    async def watch(self, contract: Contract, request: WatchRequest) -> AsyncIterator[bytes]:
        """The caller needs `subscribe`; who may not `see` every field gets masked copies."""
        self._access.require("subscribe", contract)
        clearance = self._access.shown(contract)
        product = contract.name
        extent = await self._log.extent(product)
        through = extent.latest
        frames: _Frames = _MaskedFrames(clearance) if clearance.masked else _SealedFrames(self._log)
        offset = 0
        while found := await self._log.state_after(product, offset, through, _FRAME_BYTES):
            if found.damaged:
                yield await self._damage(product, offset, found)
                offset = found.damaged[-1]
                continue
            offset = found.entries[-1].offset
            yield await frames.of(found.entries)
        yield self._sync(product, through)
        async for frame in self._tail(product, through, extent.pruned_through, frames, synced=True):
            yield frame

    async def _tail(
        self, product: str, offset: int, known_pruned: int, frames: "_Frames", *, synced: bool
    ) -> AsyncIterator[bytes]:
        """Everything after an offset, for ever. known_pruned: what the reader need not be told is gone."""
        through = (await self._log.extent(product)).latest
        while True:
            if not synced and offset >= through:
                synced = True
                yield self._sync(product, offset)
            # Taken before looking: what arrives while looking wakes us too.
            arrival = self._log.arrival(product)
            found = await self._log.look(product, offset, _FRAME_BYTES)
            pruned = found.pruned_through
            if pruned > max(offset, known_pruned):
                # Also in mid-stream: a reader may be slower than retention.
                asked = Position(product=product, log=self._log.id, offset=offset)
                yield await self._gap(GapReason.GAP_REASON_RETENTION, asked, pruned)
                offset = pruned
                continue
            if found.damaged:
                yield await self._damage(product, offset, found)
                offset = found.damaged[-1]
                continue
            if not found.entries:
                await arrival.wait()
                continue
            offset = found.entries[-1].offset
            yield await frames.of(found.entries)

    async def _start(self, product: str, request: SubscribeRequest) -> "_Start":
        count = len(request.cursor.positions)
        if count > _MAX_POSITIONS:
            raise InvalidInput(f"the cursor has {count} positions; at most {_MAX_POSITIONS} are taken")
        for position in request.cursor.positions:
            if position.product != product:
                raise InvalidInput(f"the cursor names {position.product[:99]!r}; this stream is of {product}")
        positions = [one for one in request.cursor.positions if one.log == self._log.id]
        if len(positions) > 1:
            raise InvalidInput(f"the cursor names the log {self._log.id} more than once")
        extent = await self._log.extent(product)
        if positions and positions[0].offset <= extent.latest:
            return _Start(positions[0].offset, 0)
        if request.cursor.positions:
            # Another log's position, or one past the end of this log: it was replaced or rolled back.
            lost = (positions or request.cursor.positions)[0]
            return _Start(0, extent.pruned_through, lost)
        if request.start == Start.START_LATEST:
            return _Start(extent.latest, extent.pruned_through)
        return _Start(0, extent.pruned_through)

    def _sync(self, product: str, offset: int) -> bytes:
        """The frame that says: what was there is sent, what follows is live."""
        sync = Sync(position=Position(product=product, log=self._log.id, offset=offset))
        return field(_SYNC, sync.SerializeToString())

    async def _damage(self, product: str, offset: int, found: Found) -> bytes:
        asked = Position(product=product, log=self._log.id, offset=offset)
        return await self._gap(GapReason.GAP_REASON_DAMAGED, asked, found.damaged[-1])

    async def _gap(self, reason: GapReason, asked: Position, after: int) -> bytes:
        """The frame that says what is missing behind a position, and where the stream goes on."""
        following = await self._log.after(asked.product, after, 0, 1)
        offset = following[0].offset if following else 0
        resumed = Position(product=asked.product, log=self._log.id, offset=offset)
        gap = Gap(
            reason=reason, product=asked.product, log=asked.log, after_offset=asked.offset, resumed=resumed
        )
        return field(_GAP, gap.SerializeToString())


@dataclass(frozen=True)
class _Start:
    """Where a stream begins. known_pruned: as for `_tail`. lost: what was asked for and cannot be had."""

    offset: int
    known_pruned: int
    lost: Position | None = None


class _Frames(Protocol):
    """Joins the batches of one stream into frames."""

    async def of(self, entries: Iterable[Entry]) -> bytes: ...


class _SealedFrames:
    """Batches as they were sealed; a signer's certificates travel before its first batch."""

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
        # Signers share their issuer.
        unsent = [(_CERTIFICATES, der) for der in dict.fromkeys(certificates)]
        return message([*unsent, *((_BATCHES, batch) for batch in batches)])


class _MaskedFrames:
    """Copies for one reader. They are signed by nobody, so no certificates travel with them."""

    def __init__(self, clearance: Clearance) -> None:
        self._clearance = clearance

    async def of(self, entries: Iterable[Entry]) -> bytes:
        # Opening payloads would hold up everybody else on the loop.
        masked = await asyncio.to_thread(
            lambda: [self._clearance.masked_batch(entry.batch) for entry in entries]
        )
        return fields(_BATCHES, masked)
