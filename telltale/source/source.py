"""A source of data products: publishes records by sealing them into the spool, from where they are pushed."""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Self

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from telltale.api.mesh.v1.batch_pb2 import Header, Loss, LossReason, Origin, SealedBatch, Snapshot
from telltale.api.mesh.v1.product_pb2 import Kind
from telltale.contract.image import Image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import Schema
from telltale.errors import InvalidInput
from telltale.identity.workload import Workload
from telltale.seal.sealing import MAX_PAYLOAD_BYTES, MAX_RECORDS, seal
from telltale.source.drafts import Draft, Sealed
from telltale.source.keeping import SpoolFull
from telltale.source.pusher import Pusher
from telltale.source.spool import Spool, Usage
from telltale.wire import fields

# A batch is closed at these sizes. It costs its way mostly as a batch and not by its records, so they are the
# contract's own; tags and lengths of the records take the rest of the bytes. Nothing waits for one to fill.
BATCH_RECORDS = MAX_RECORDS
BATCH_BYTES = MAX_PAYLOAD_BYTES - (64 << 10)
# Field numbers of a product's Records message.
_RECORDS, _REMOVED = 1, 2


@dataclass(frozen=True)
class SourceSettings:
    """Where a source keeps and sends its batches.

    path: file of the spool. address: `host:port` of the domain service. trust_domain: of that service.
    max_bytes: bound of the spool. drain: how long closing waits for acks.
    """

    path: Path
    address: str
    trust_domain: str
    max_bytes: int = 1 << 30
    drain: timedelta = timedelta(seconds=3)
    origin: Origin = Origin.ORIGIN_AUTHENTICATED


@dataclass(frozen=True)
class Part:
    """The payload of one batch to be: a Records message, how many records, first and last event time."""

    payload: bytes
    records: int
    first: Timestamp | None
    last: Timestamp | None

    @classmethod
    def of(cls, payload: bytes, records: int, first_ns: int, last_ns: int) -> Self:
        """With event times in nanoseconds since 1970."""
        first, last = (divmod(unix_ns, 10**9) for unix_ns in (first_ns, last_ns))
        return cls(
            payload,
            records,
            Timestamp(seconds=first[0], nanos=first[1]),
            Timestamp(seconds=last[0], nanos=last[1]),
        )


# Carries only what its header declares.
_EMPTY = Part(b"", 0, None, None)


class Source:
    """Publishes records of the products that `image` describes. Use as `async with`."""

    def __init__(self, me: Workload, settings: SourceSettings, image: Image) -> None:
        self._me = me
        self._settings = settings
        self._contracts = {contract.name: contract for contract in contracts_in(image)}
        self._schemas = {name: Schema.of(image, contract) for name, contract in self._contracts.items()}
        self._spool = Spool(settings.path, settings.max_bytes)
        self._pusher = Pusher(
            me,
            self._spool,
            settings.address,
            settings.trust_domain,
            {name: schema.data for name, schema in self._schemas.items()},
            self._reseal,
        )
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # A new spool starts its chains above all that an earlier spool of this source can have made.
        self._epoch = time.time_ns() // 1_000_000
        self._tasks = asyncio.TaskGroup()
        self._holes_declared = 0
        self.records_published = 0
        # Given up, oldest first, for newer ones.
        self.batches_shed = 0
        # Of kinds that are not shed, when there was no room.
        self.records_lost = 0

    async def __aenter__(self) -> Self:
        await self._spool.__aenter__()
        await self._tasks.__aenter__()
        self._running = [self._tasks.create_task(work) for work in (self._pusher.run(), self._spool.watch())]
        return self

    async def __aexit__(self, *exception: object) -> None:
        try:
            await self._pusher.drained(self._settings.drain.total_seconds())
        finally:
            for task in self._running:
                task.cancel()
            try:
                await self._tasks.__aexit__(None, None, None)
            finally:
                await self._spool.__aexit__(None, None, None)

    @property
    def products(self) -> frozenset[str]:
        return frozenset(self._contracts)

    @property
    def holes_declared(self) -> int:
        """Grows whenever batches were given up: inventories need a new snapshot then."""
        return self._holes_declared + self._pusher.batches_refused

    async def usage(self) -> Usage:
        return await self._spool.usage()

    @property
    def last_ack(self) -> float | None:
        """Unix time of the last ack, None before the first."""
        return self._pusher.last_ack

    async def publish(
        self,
        product: str,
        records: Sequence[Message],
        *,
        removed: Sequence[Message] = (),
        losses: Sequence[Loss] = (),
    ) -> bool:
        """Seals records and keeps them; they are pushed, in order, as soon as the domain can be reached.

        False when the spool is full: they are not kept, and declared as lost with the product's next batch.
        Publishing nothing is a sign of life: a batch without records.
        """
        contract = self._contract(product)
        async with self._locks[product]:
            parts = list(_parts(contract, records, removed)) or [_EMPTY]
            return await self._append(contract, parts, None, losses)

    async def publish_encoded(
        self, product: str, parts: Sequence[Part], *, losses: Sequence[Loss] = ()
    ) -> bool:
        """Like publish, for whoever encodes many records at a time, each part within a batch's bounds."""
        contract = self._contract(product)
        async with self._locks[product]:
            return await self._append(contract, parts or [_EMPTY], None, losses)

    async def snapshot(self, product: str, records: Sequence[Message]) -> bool:
        """Publishes everything that an inventory has; it replaces this source's state as a whole.

        False when the spool is full.
        """
        contract = self._contract(product)
        async with self._locks[product]:
            parts = list(_parts(contract, records, ())) or [_EMPTY]
            return await self._append(contract, parts, Snapshot(id=uuid.uuid4().hex))

    def _contract(self, product: str) -> Contract:
        contract = self._contracts.get(product)
        if contract is None:
            known = ", ".join(sorted(self._contracts))
            raise InvalidInput(f"{product} is no product of this source; it has {known}")
        return contract

    async def _append(
        self,
        contract: Contract,
        parts: Sequence[Part],
        snapshot: Snapshot | None,
        losses: Sequence[Loss] = (),
    ) -> bool:
        seals = []
        for index, part in enumerate(parts):
            place = None
            if snapshot is not None:
                place = Snapshot(id=snapshot.id, end=index == len(parts) - 1, index=index)
            seals.append(lambda draft, part=part, place=place: self._seal(contract, draft, part, place))
        count = sum(part.records for part in parts)
        sheddable = contract.kind == Kind.KIND_SAMPLES
        try:
            shed, _ = await self._spool.append(
                contract.name, self._epoch, seals, sheddable=sheddable, losses=losses
            )
        except SpoolFull:
            self.records_lost += count
            loss = Loss(records=count, reason=LossReason.LOSS_REASON_BOUND, detail="the spool was full")
            for one in (*losses, loss):
                await self._spool.lose(contract.name, one)
            # A lost delta leaves the inventory wrong until the next snapshot.
            self._holes_declared += 1
            return False
        self.records_published += count
        self._holes_declared += shed
        self.batches_shed += shed
        self._pusher.wake()
        return True

    def _seal(self, contract: Contract, draft: Draft, part: Part, place: Snapshot | None) -> Sealed:
        header = Header(
            product=contract.name,
            source=str(self._me.spiffe_id),
            record_count=part.records,
            first_event_time=part.first,
            last_event_time=part.last,
            schema_sha256=self._schemas[contract.name].sha256,
            snapshot=place,
            losses=draft.losses,
            origin=self._settings.origin,
        )
        return self._finish(header, draft, part.payload)

    def _reseal(self, draft: Draft, batch: SealedBatch) -> Sealed:
        return self._finish(Header.FromString(batch.header), draft, batch.payload)

    def _finish(self, header: Header, draft: Draft, payload: bytes) -> Sealed:
        header.epoch = draft.epoch
        header.sequence = draft.sequence
        header.previous_header_sha256 = draft.previous_header_sha256
        del header.holes[:]
        header.holes.extend(draft.holes)
        credentials = self._me.credentials
        # A clock that was set back behind the certificate is wrong by the authority's word, and nobody would
        # take what was sealed then.
        earliest = int(credentials.not_before.timestamp()) * 1_000_000_000
        header.sealed_time.FromNanoseconds(max(time.time_ns(), earliest))
        return Sealed(
            seal(credentials, header, payload),
            header.record_count,
            credentials.certificates,
            late=not credentials.not_before <= header.sealed_time.ToDatetime(UTC) <= credentials.not_after,
        )


def _parts(contract: Contract, records: Sequence[Message], removed: Sequence[Message]) -> Iterator[Part]:
    """Cuts records into payloads of bounded size."""
    chunk: list[tuple[int, bytes]] = []
    size = 0
    times: list[tuple[int, int]] = []
    numbered = [(_RECORDS, record) for record in records] + [(_REMOVED, record) for record in removed]
    for number, record in numbered:
        encoded = record.SerializeToString()
        if chunk and (len(chunk) >= BATCH_RECORDS or size + len(encoded) > BATCH_BYTES):
            yield _part(chunk, times)
            chunk, size, times = [], 0, []
        chunk.append((number, encoded))
        size += len(encoded)
        if record.HasField(contract.time_field):
            moment = getattr(record, contract.time_field)
            times.append((moment.seconds, moment.nanos))
    if chunk:
        yield _part(chunk, times)


def _part(chunk: Sequence[tuple[int, bytes]], times: Sequence[tuple[int, int]]) -> Part:
    payload = b"".join(
        fields(number, [encoded for kind, encoded in chunk if kind == number])
        for number in (_RECORDS, _REMOVED)
    )
    if not times:
        return Part(payload, len(chunk), None, None)
    first, last = min(times), max(times)
    return Part(
        payload,
        len(chunk),
        Timestamp(seconds=first[0], nanos=first[1]),
        Timestamp(seconds=last[0], nanos=last[1]),
    )
