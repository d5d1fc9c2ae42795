"""A domain's log of one product in memory, behind the interface by which the gateway reads domains."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from telltale import wire
from telltale.api.mesh.v1.batch_pb2 import (
    Delivery,
    Gap,
    GapReason,
    Header,
    Position,
    SealedBatch,
    SealedFrame,
    Sync,
)
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.errors import Unavailable

PRODUCT = "servers.disk_usage"


@dataclass
class FakeLog:
    """Appends, breaks, forgets and is replaced on command. `chance` decides how much a read takes."""

    chance: random.Random
    product: str = PRODUCT
    payload_bytes: int = 40
    log: str = "log-1"
    generation: int = 1
    batches: list[tuple[int, int]] = field(default_factory=list)  # offset, number
    pruned_through: int = 0
    offset: int = 0
    number: int = 0
    appended: list[tuple[str, int]] = field(default_factory=list)  # everything that ever was: log, offset
    firsts: set[tuple[str, int]] = field(default_factory=set)  # each that was the earliest at some time
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    # Streams that were opened before this count are broken.
    _era: int = 0

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.number += 1
            self.offset += self.chance.randint(1, 3)
            self.batches.append((self.offset, self.number))
            self.appended.append((self.log, self.offset))
        self._wake()

    def prune(self, keep: int) -> None:
        """Retention passes over all but the last batches."""
        cut = len(self.batches) - keep
        if cut > 0:
            self.pruned_through = self.batches[cut - 1][0]
            del self.batches[:cut]
            self._wake()

    def replace(self) -> None:
        """The log is lost; another one takes its place."""
        self.generation += 1
        self.log = f"log-{self.generation}"
        self.batches, self.offset, self.pruned_through = [], 0, 0
        self.cut()

    def cut(self) -> None:
        """Breaks every open stream, as a restart does."""
        self._era += 1
        self._wake()

    def _wake(self) -> None:
        if self.batches:
            self.firsts.add((self.log, self.batches[0][0]))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
        era = self._era
        offset, gap = self._start(cursor, start)
        if gap is not None:
            yield SealedFrame(gap=gap).SerializeToString()
        through = self._latest()
        told = False
        while True:
            await asyncio.sleep(0)
            if era != self._era:
                raise Unavailable("the stream was cut")
            changed = self._changed
            ready = [batch for batch in self.batches if batch[0] > offset]
            if offset < self.pruned_through:
                raise Unavailable("retention passed over the reader")
            if not told and offset >= through:
                told = True
                position = Position(product=self.product, log=self.log, offset=offset)
                yield SealedFrame(sync=Sync(position=position)).SerializeToString()
            elif ready:
                ready = ready[: self.chance.randint(1, 6)]
                offset = ready[-1][0]
                yield SealedFrame(batches=[self._sealed(*batch) for batch in ready]).SerializeToString()
            else:
                await changed.wait()

    def _start(self, cursor: Sequence[Position], start: Start) -> tuple[int, Gap | None]:
        latest = self._latest()
        if not cursor:
            return (latest if start == Start.START_LATEST else self.pruned_through), None
        own = [position for position in cursor if position.log == self.log]
        reason, lost = GapReason.GAP_REASON_LOG_REPLACED, cursor[0]
        if own and own[0].offset <= latest:
            if own[0].offset >= self.pruned_through:
                return own[0].offset, None
            reason, lost = GapReason.GAP_REASON_RETENTION, own[0]
        first = self.batches[0][0] if self.batches else 0
        resumed = Position(product=self.product, log=self.log, offset=first)
        gap = Gap(
            reason=reason, product=self.product, log=lost.log, after_offset=lost.offset, resumed=resumed
        )
        return self.pruned_through, gap

    def _latest(self) -> int:
        return self.batches[-1][0] if self.batches else self.pruned_through

    def _sealed(self, offset: int, number: int) -> SealedBatch:
        header = Header(
            product=self.product, source="spiffe://servers.test/agent/a", sequence=number, record_count=1
        )
        return SealedBatch(
            header=header.SerializeToString(),
            signature=b"signature",
            # A field that no record knows: valid in every product's payload.
            payload=wire.field(15, bytes(self.chance.randint(0, self.payload_bytes))),
            delivery=Delivery(log=self.log, offset=offset).SerializeToString(),
        )
