"""Pushes what lies in the spool to the domain service over one long stream, and forgets what is acked."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
import structlog
from grpc import aio

from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import (
    ChainsRequest,
    PushRequest,
    PushResponse,
    Refusal,
    RefusalReason,
)
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.errors import TelltaleError
from telltale.identity.workload import Workload
from telltale.naming import server_name
from telltale.rpc.client import backoff, call_metadata
from telltale.seal.sealing import sha256
from telltale.source.spool import Resealer, Spool, Spooled

log = structlog.get_logger(__name__)

# One message of a push: batches up to this size travel together.
_MESSAGE_BYTES = 256 << 10
_MESSAGE_BATCHES = 256
# Batches that may wait for their acks: bounds what is sent again after a break.
_WINDOW = 1_024
# A stream is opened anew well before its token, of 15 minutes at most, expires.
_STREAM_LIFE = timedelta(minutes=6)
_CALL_SECONDS = 10.0


class _Retry(Exception):
    """The stream has to be opened again."""


@dataclass
class _Stream:
    """What one Push stream has sent and not yet heard of."""

    sent: deque[Spooled] = field(default_factory=deque)
    last_id: int = 0
    certificates: set[bytes] = field(default_factory=set)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False


class Pusher:
    """Moves batches from a spool to a domain service for as long as it runs."""

    def __init__(
        self,
        me: Workload,
        spool: Spool,
        address: str,
        trust_domain: str,
        schemas: Mapping[bytes, bytes],
        reseal: Resealer,
    ) -> None:
        self._me = me
        self._spool = spool
        self._address = address
        self._trust_domain = trust_domain
        self._schemas = schemas
        self._reseal = reseal
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._unreachable = asyncio.Event()
        self.batches_refused = 0
        self.last_ack: float | None = None

    def wake(self) -> None:
        """Something new lies in the spool."""
        self._idle.clear()
        self._wake.set()

    async def drained(self, timeout: float) -> None:
        """Waits until everything is acked; not when nobody takes it, and at most for the time given."""
        ends = [asyncio.create_task(event.wait()) for event in (self._idle, self._unreachable)]
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        usage = await self._spool.usage()
        if usage.batches:
            log.info("batches stay in the spool for the next start", batches=usage.batches)

    async def run(self) -> None:
        """Connects, pushes, and connects again, until cancelled."""
        attempt = 0
        while True:
            before = self.last_ack
            try:
                await self._connect_and_push()
                attempt = 0
                continue
            except* (aio.AioRpcError, TelltaleError, _Retry, TimeoutError) as broken:
                # Progress since the last attempt makes the next one an ordinary reconnect.
                attempt = 0 if self.last_ack != before else attempt + 1
                log.info("push interrupted", service=self._address, reason=_reason(broken))
            finally:
                self._spool.mark_in_flight(0)
            self._unreachable.set()
            await asyncio.sleep(backoff(attempt))

    async def _connect_and_push(self) -> None:
        name = server_name("service", self._trust_domain)
        channel = self._me.channel(self._address, name)
        try:
            metadata = await call_metadata(self._me, self._trust_domain)
            stub = IngestStub(channel)
            known = await stub.Chains(ChainsRequest(), metadata=metadata, timeout=_CALL_SECONDS)
            renewed = await self._spool.rechain(known.chains, time.time_ns() // 1_000_000, self._reseal)
            if renewed:
                log.warning("chains start anew above what the domain knows", products=renewed)
            schemas = SchemasStub(channel)
            for data in self._schemas.values():
                request = RegisterSchemaRequest(file_descriptor_set=data)
                await schemas.Register(request, metadata=metadata, timeout=_CALL_SECONDS)
            await self._push(stub, metadata)
        finally:
            await channel.close(None)

    async def _push(self, stub: IngestStub, metadata: tuple[tuple[str, str], ...]) -> None:
        stream = _Stream()
        stream.room.set()
        call = stub.Push(metadata=metadata)
        try:
            # A server that refuses the call ends it before its initial metadata; written to earlier,
            # the call would lose the status.
            async with asyncio.timeout(_CALL_SECONDS):
                await call.initial_metadata()
            self._unreachable.clear()
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(call, stream))
                await self._read(call, stream)
                if not stream.closing:
                    raise _Retry(f"the stream ended: {await call.details() or await call.code()}")
                writer.cancel()
        finally:
            call.cancel()

    async def _write(self, call: "aio.StreamStreamCall[PushRequest, PushResponse]", stream: _Stream) -> None:
        try:
            async with asyncio.timeout(_STREAM_LIFE.total_seconds()):
                async for batches in self._next(stream):
                    request = PushRequest(certificates=_unseen(stream, batches))
                    for spooled in batches:
                        request.batches.append(SealedBatch.FromString(spooled.batch))
                    await call.write(request)
        except TimeoutError:
            stream.closing = True
            await call.done_writing()

    async def _next(self, stream: _Stream) -> AsyncIterator[list[Spooled]]:
        """What is to be sent next, when there is something and room for it."""
        while True:
            self._wake.clear()
            await stream.room.wait()
            batches = await self._spool.after(stream.last_id, _MESSAGE_BYTES, _MESSAGE_BATCHES)
            if not batches:
                if not stream.sent:
                    self._idle.set()
                await self._wake.wait()
                continue
            self._idle.clear()
            stream.last_id = batches[-1].id
            self._spool.mark_in_flight(stream.last_id)
            stream.sent.extend(batches)
            if len(stream.sent) >= _WINDOW:
                stream.room.clear()
            yield batches

    async def _read(self, call: "aio.StreamStreamCall[PushRequest, PushResponse]", stream: _Stream) -> None:
        async for response in call:
            answered = {(ack.product, ack.epoch, ack.sequence) for ack in response.acks}
            acked = [entry.id for entry in stream.sent if _key(entry) in answered]
            if acked:
                await self._spool.forget(acked)
                self.last_ack = time.time()
            refusals = {(entry.product, entry.epoch, entry.sequence): entry for entry in response.refusals}
            for entry in [entry for entry in stream.sent if _key(entry) in refusals]:
                await self._refused(entry, refusals[_key(entry)])
            done = answered | refusals.keys()
            stream.sent = deque(entry for entry in stream.sent if _key(entry) not in done)
            if len(stream.sent) < _WINDOW:
                stream.room.set()
            if not stream.sent:
                self._wake.set()

    async def _refused(self, spooled: Spooled, refusal: Refusal) -> None:
        reason = RefusalReason.Name(refusal.reason)
        if not refusal.final:
            raise _Retry(f"{spooled.product} {spooled.sequence}: {reason}: {refusal.detail}")
        log.error(
            "batch refused",
            product=spooled.product,
            sequence=spooled.sequence,
            reason=reason,
            detail=refusal.detail,
        )
        self.batches_refused += 1
        await self._spool.refuse(spooled, refusal)


def _key(spooled: Spooled) -> tuple[str, int, int]:
    return spooled.product, spooled.epoch, spooled.sequence


def _unseen(stream: _Stream, batches: list[Spooled]) -> list[bytes]:
    """Certificates that this stream has not carried yet."""
    new = []
    for spooled in batches:
        for der in spooled.certificates:
            digest = sha256(der)
            if digest not in stream.certificates:
                stream.certificates.add(digest)
                new.append(der)
    return new


def _reason(broken: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = broken
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, aio.AioRpcError):
        code: grpc.StatusCode = first.code()
        return f"{code.name}: {first.details()}"
    return str(first) or type(first).__name__
