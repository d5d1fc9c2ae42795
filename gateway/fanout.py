"""How one subscriber follows one product: from the ring while it keeps up, from the owner's log otherwise.

A subscriber that is behind reads the owner's log until the ring holds everything after its position, and
goes on from there by position. Who is slow falls out of the ring and never holds up who is fast.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence

import structlog

from gateway import metrics
from gateway.feed import Feed
from gateway.frames import Batch, FrameReader, FrameWriter, Item, Missing, Reached, mark_frame
from telltale.api.mesh.v1.batch_pb2 import GapReason, Position
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.errors import TelltaleError
from telltale.rpc.client import backoff

log = structlog.get_logger(__name__)

# Cost is per message: large enough to make it small, small enough for fair turns.
FRAME_BYTES = 1024 * 1024
# Frames of owners' logs that wait for one subscriber. The domains of this kit make them of 1 MiB or of one
# batch; the connection takes at most 8 MiB.
MAX_WAITING_FRAMES = 4
# How long a read may keep its turn without an answer: it is then at the log's end, and costs nothing.
_TURN_SECONDS = 0.5


class Subscriber:
    """One stream to one subscriber: what all products on it share."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.room = asyncio.Semaphore(MAX_WAITING_FRAMES)
        self.frames = FrameWriter()


class Follower:
    """One product on a subscriber's stream; `run` catches up, `take` hands over what is next."""

    def __init__(
        self,
        feed: Feed,
        subscriber: Subscriber,
        turns: asyncio.Semaphore,
        cursor: Sequence[Position] = (),
        start: Start = Start.START_EARLIEST,
    ) -> None:
        self.feed = feed
        self._subscriber = subscriber
        # Reads of the owner's log that may go on at once; first come, first served.
        self._turns = turns
        self._start = start
        # What was handed over or waits for it; before that, what the subscriber says it has.
        self._positions = {position.log: position.offset for position in cursor}
        # What was handed over when something waits.
        self._handed = self._positions
        # Whether the positions are from the owner: a subscriber may name any.
        self._proven = False
        # Whether a gap was the last thing handed over: only the owner knows what comes next.
        self._in_gap = False
        # Whether that was because the log is another one: offsets then begin anew.
        self._replaced = False
        # Number of the ring's item that is next; None when behind.
        self._number: int | None = None
        self._behind = asyncio.Event()
        self._waiting: deque[tuple[Missing | None, list[Batch]]] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        # Who starts at the latest is told where that is, so that it can come back before anything arrived.
        self._placeless = start == Start.START_LATEST and not self._positions
        self._mark: Reached | None = None
        if self._placeless and feed.ring.log:
            self._number = feed.ring.next
            self._place(Reached(feed.ring.log, feed.ring.head))

    @property
    def live(self) -> bool:
        """Whether the subscriber reads the ring."""
        return self._number is not None

    @property
    def cursor(self) -> list[Position]:
        """Where the subscriber stands."""
        return [
            Position(product=self.feed.product, log=log, offset=offset)
            for log, offset in (self._handed if self._waiting else self._positions).items()
        ]

    async def run(self) -> None:
        """Catches up whenever the subscriber is behind the ring, until cancelled."""
        self.feed.ring.wakes(self._subscriber.wake)
        self.feed.subscribers += 1
        attributes = {"product": self.feed.product}
        metrics.SUBSCRIPTIONS.add(1, attributes)
        try:
            while True:
                if self._number is None and not self._join():
                    metrics.CATCH_UPS.add(1, attributes)
                    await self._catch_up()
                self._subscriber.wake.set()
                await self._behind.wait()
                self._behind.clear()
        finally:
            metrics.SUBSCRIPTIONS.add(-1, attributes)
            self.feed.subscribers -= 1
            self.feed.ring.forgets(self._subscriber.wake)
            if self._waiting:
                self._positions = self._handed
                self._waiting.clear()
                self._subscriber.room.release()

    def take(self) -> bytes | None:
        """The next frame for the subscriber; None when there is none now."""
        if self._mark is not None:
            mark, self._mark = self._mark, None
            return mark_frame(self.feed.product, mark)
        if self._waiting:
            missing, batches = self._waiting.popleft()
            if batches:
                self._handed = {batches[-1].log: batches[-1].offset}
            if not self._waiting:
                self._subscriber.room.release()
                self._drained.set()
            return self._frame(missing, batches)
        ring = self.feed.ring
        while self._number is not None:
            if self._number < ring.first:
                self._number = None
                self._behind.set()
                return None
            piece = ring.piece(self._number, FRAME_BYTES)
            if piece is None:
                return None
            self._number = piece.next
            missing = piece.missing
            if missing is not None and self._has(missing):
                missing = None
            if missing is not None:
                self._lost(missing)
            batches = [batch for batch in piece.batches if self._is_next(batch)]
            if missing is not None or batches:
                return self._frame(missing, batches)
        return None

    def _frame(self, missing: Missing | None, batches: Sequence[Batch]) -> bytes:
        frame = self._subscriber.frames.frame(batches, missing)
        metrics.BYTES_OUT.add(len(frame), {"product": self.feed.product})
        return frame

    def _is_next(self, batch: Batch) -> bool:
        """Moves on to a batch after the subscriber's position; the owner's log may be ahead of the ring."""
        if not self._replaced and batch.offset <= self._positions.get(batch.log, 0):
            return False
        self._positions = {batch.log: batch.offset}
        self._proven, self._in_gap, self._replaced = True, False, False
        return True

    def _has(self, missing: Missing) -> bool:
        """Whether the subscriber has in time, from the log itself, what the upstream came too late for."""
        resumed = missing.gap.resumed
        return missing.gap.reason in (
            GapReason.GAP_REASON_RETENTION,
            GapReason.GAP_REASON_DAMAGED,
        ) and 0 < resumed.offset <= self._positions.get(resumed.log, 0)

    def _lost(self, missing: Missing) -> None:
        """The position stays until the next batch: who breaks off here is told of the gap again."""
        self._in_gap = True
        self._replaced = missing.gap.reason == GapReason.GAP_REASON_LOG_REPLACED

    def _join(self) -> bool:
        """Goes on from the ring when it holds everything after the subscriber's position."""
        self._number = self._way_in()
        if self._number is None:
            return False
        self._positions = {self.feed.ring.log: self._positions.get(self.feed.ring.log, 0)}
        return True

    def _way_in(self) -> int | None:
        """Number of the ring's item that follows the subscriber's position, if all that follows is there."""
        ring = self.feed.ring
        if not ring.log or self._in_gap:
            return None
        # Without a position the subscriber wants everything that is kept, which is what follows offset 0,
        # or what comes after the latest, which the owner tells where the ring does not.
        offset = self._positions.get(ring.log) if self._positions or self._placeless else 0
        if offset is None or (offset > ring.head and not self._proven):
            return None
        return ring.after(ring.log, offset)

    async def _catch_up(self) -> None:
        failures = 0
        while True:
            before = self._positions
            try:
                if await self._read_history():
                    return
                # The stream is to be opened anew, as from time to time it is.
                failures = 0
                continue
            except TelltaleError as error:
                # Whatever an owner says, the subscriber's other products go on.
                log.info("catch-up ended", product=self.feed.product, reason=str(error), failures=failures)
            failures = 1 if self._positions is not before else failures + 1
            await asyncio.sleep(backoff(failures))

    async def _read_history(self) -> bool:
        """Hands over what the owner's log has; True when the subscriber has reached the ring."""
        reader = FrameReader(self.feed.product)
        async with contextlib.aclosing(self.feed.history.read(self.cursor, self._start)) as frames:
            while not self._join():
                await self._drained.wait()
                if not await self._read_on(frames, reader):
                    return False
            return True

    async def _read_on(self, frames: AsyncGenerator[bytes, None], reader: FrameReader) -> bool:
        """Reads one frame, in turn, or until the ring has what follows; False at the end of the stream."""
        room = self._subscriber.room
        await room.acquire()
        taken = True
        read = asyncio.create_task(_next(frames))
        try:
            async with self._turns:
                await asyncio.wait({read}, timeout=_TURN_SECONDS)
            if not read.done():
                # At the end of the log: others may use the room and the turn until something comes.
                room.release()
                taken = False
                await self._frame_or_ring(read)
                if not read.done():
                    return True
                await room.acquire()
                taken = True
            data = read.result()
            if data is not None:
                self._hold(list(reader.read(data)))
                # What waits keeps the room until it is handed over.
                taken = not self._waiting
            return data is not None
        finally:
            if taken:
                room.release()
            if not read.done():
                read.cancel()
                await asyncio.wait({read})
            if not read.cancelled():
                # When we were cancelled ourselves nobody else asks how it ended.
                read.exception()

    async def _frame_or_ring(self, read: "asyncio.Task[bytes | None]") -> None:
        """Waits for either. On a product without news the ring may begin after the subscriber was there."""
        grown = asyncio.Event()
        read.add_done_callback(lambda _: grown.set())
        self.feed.ring.wakes(grown)
        try:
            while not read.done() and self._way_in() is None:
                await grown.wait()
                grown.clear()
        finally:
            self.feed.ring.forgets(grown)

    def _place(self, reached: Reached) -> None:
        """The owner says where the subscriber stands, all of which it has."""
        offset = reached.offset
        if self._proven and not self._replaced:
            offset = max(offset, self._positions.get(reached.log, 0))
        self._positions = {reached.log: offset}
        self._proven, self._in_gap, self._replaced = True, False, False
        if self._placeless:
            self._placeless, self._mark = False, reached

    def _hold(self, items: Iterable[Item]) -> None:
        """Keeps what was read for `take`, in pieces of fair size. Nothing waits when it is called."""
        self._handed = self._positions
        missing: Missing | None = None
        batches: list[Batch] = []
        size = 0
        for item in items:
            match item:
                case Missing():
                    self._keep(missing, batches)
                    missing, batches, size = item, [], 0
                    self._lost(item)
                case Batch():
                    if not self._is_next(item):
                        continue
                    cost = item.cost(batches[-1] if batches else None)
                    if batches and size + cost > FRAME_BYTES:
                        self._keep(missing, batches)
                        missing, batches, size = None, [], 0
                    batches.append(item)
                    size += cost
                case Reached():
                    self._place(item)
        self._keep(missing, batches)
        if self._waiting:
            self._drained.clear()
        if self._waiting or self._mark is not None:
            self._subscriber.wake.set()

    def _keep(self, missing: Missing | None, batches: list[Batch]) -> None:
        if missing is not None or batches:
            self._waiting.append((missing, batches))


async def _next(frames: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(frames, None)
