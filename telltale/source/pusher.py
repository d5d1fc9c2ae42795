"""Pushes what lies in the spool to the domain service over one long stream, and forgets what is acked."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping

import grpc
import structlog
from grpc import aio

from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import (
    ChainHead,
    ChainsRequest,
    PushRequest,
    PushResponse,
    Refusal,
    RefusalReason,
)
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.errors import TelltaleError
from telltale.identity.workload import Workload
from telltale.naming import server_name
from telltale.rpc.client import answered, backoff, call_metadata, stream_metadata
from telltale.seal.chain import is_ahead
from telltale.source.answers import IngestStub
from telltale.source.drafts import Resealer
from telltale.source.rows import Spooled
from telltale.source.spool import Spool, reason_name
from telltale.source.stream import PushStream

log = structlog.get_logger(__name__)

# One message of a push: batches up to this size travel together.
_MESSAGE_BYTES = 1 << 20
_MESSAGE_BATCHES = 256
# How long a call may take: twice as long at each attempt, so that a service that a whole fleet calls at once
# answers the more of it the slower it is.
_CALL_SECONDS, _LONGEST_CALL_SECONDS = 10.0, 120.0
# The end of the year 9999 in Unix milliseconds: no honest domain knows a chain that began later, and a chain
# that did could never begin anew.
_LAST_EPOCH = 253_402_300_799_999
# What is kept of a service's sentence on a refusal.
_LONGEST_DETAIL = 500
# A schema that the domain does not take holds up its own product only.
_SCHEMA_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class _Retry(Exception):
    """The stream has to be opened again."""


class _Contested(_Retry):
    """Another holder of this identity has begun later chains."""


class Pusher:
    """Moves batches from a spool to a domain service for as long as it runs."""

    def __init__(
        self,
        me: Workload,
        spool: Spool,
        address: str,
        trust_domain: str,
        schemas: Mapping[str, bytes],
        reseal: Resealer,
    ) -> None:
        """schemas: of each product of the source, as bytes of a FileDescriptorSet."""
        self._me = me
        self._spool = spool
        self._address = address
        self._trust_domain = trust_domain
        self._schemas = schemas
        self._reseal = reseal
        # Epochs of this source's chains, as the domain knew them when this was last connected.
        self._known: dict[str, int] = {}
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
                await self._connect_and_push(_patience(attempt))
                attempt = 0
                continue
            except* (aio.AioRpcError, TelltaleError, _Retry, TimeoutError) as broken:
                # Progress since the last attempt makes the next one an ordinary reconnect. Two holders of one
                # identity both make progress, in turns: they must not make turns as fast as they can.
                contested = broken.subgroup(_Contested) is not None
                attempt = 0 if self.last_ack != before and not contested else attempt + 1
                level = log.warning if contested else log.info
                level("push interrupted", service=self._address, reason=_reason(broken))
            finally:
                self._spool.release()
            self._unreachable.set()
            await asyncio.sleep(backoff(attempt))

    async def _connect_and_push(self, patience: float) -> None:
        """Returns when batches that were held back are to be tried again. patience: seconds for each call."""
        name = server_name("service", self._trust_domain)
        channel = self._me.channel(self._address, name)
        try:
            ingest = IngestStub(channel)
            # Fetched anew for each call: the channel shows the certificate of the moment, the token is its.
            metadata = await call_metadata(self._me, self._trust_domain)
            known = answered(
                await ingest.Chains(ChainsRequest(), metadata=metadata, timeout=patience), self._address
            )
            heads = self._plausible(known.chains)
            self._known = {head.product: head.epoch for head in heads}
            now_ms = time.time_ns() // 1_000_000
            renewed = await self._spool.rechain(heads, now_ms, self._reseal)
            if renewed:
                log.warning("chains start anew above what the domain knows", products=renewed)
            late = await self._spool.reseal_late(heads, now_ms, self._reseal)
            if late:
                log.info("sealed again what was sealed without a valid certificate", products=late)
            # One stream after another, each with its own token.
            told: set[str] = set()
            held: frozenset[str] = frozenset()
            while True:
                unknown, held = await self._push(ingest, patience, held, frozenset(told))
                self._spool.release()
                if not unknown and held:
                    return
                for product in sorted(unknown):
                    await self._register(channel, product, patience)
                told |= unknown
        finally:
            await channel.close(None)

    async def _register(self, channel: aio.Channel, product: str, patience: float) -> None:
        """Tells the domain of a schema. One that it does not take holds up its own product only."""
        request = RegisterSchemaRequest(file_descriptor_set=self._schemas[product])
        metadata = await call_metadata(self._me, self._trust_domain)
        try:
            await SchemasStub(channel).Register(request, metadata=metadata, timeout=patience)
        except aio.AioRpcError as refused:
            if refused.code() not in _SCHEMA_REFUSED:
                raise
            log.warning("schema refused", service=self._address, product=product, reason=refused.details())

    def _plausible(self, heads: Iterable[ChainHead]) -> list[ChainHead]:
        """One head of each product of this source: what else a service claims to know only takes room."""
        found = {
            head.product: head
            for head in heads
            if head.product in self._schemas and 0 < head.epoch < _LAST_EPOCH
        }
        return list(found.values())

    async def _push(
        self, ingest: IngestStub, patience: float, held: frozenset[str], told: frozenset[str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Pushes on one stream, which ends before its token does, or for products whose schema is unknown.

        held: products to hold back from the start. told: those whose schema the domain was told of, to no
        avail if it is unknown still. Returns the products whose schema is unknown, and those held back.
        """
        stream = PushStream(set(held), told)
        metadata, seconds = await stream_metadata(self._me, self._trust_domain)
        call = ingest.Push(metadata=metadata)  # type: ignore[call-arg]  # the stubs want an iterator
        try:
            # A server that refuses the call ends it before its initial metadata; written to earlier,
            # the call would lose the status.
            async with asyncio.timeout(patience):
                await call.initial_metadata()
            self._unreachable.clear()
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(call, stream, seconds))
                await self._read(call, stream)
                if not stream.closing and not stream.unknown:
                    raise _Retry(f"the stream ended: {await call.details() or await call.code()}")
                writer.cancel()
            return frozenset(stream.unknown), frozenset(stream.held)
        finally:
            call.cancel()

    async def _write(
        self, call: "aio.StreamStreamCall[PushRequest, PushResponse]", stream: PushStream, seconds: float
    ) -> None:
        ends = asyncio.get_running_loop().time() + seconds
        try:
            while True:
                # Only the waiting is timed: a write that is cancelled would cancel the whole call.
                batches: list[Spooled] = []
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(ends):
                        batches = await self._next(stream)
                if not batches:
                    stream.closing = True
                    await call.done_writing()
                    return
                request = PushRequest(certificates=stream.unseen(batches))
                for spooled in batches:
                    request.batches.append(SealedBatch.FromString(spooled.batch))
                await call.write(request)
        except asyncio.InvalidStateError:
            # The stream has ended; the reader learns why.
            return

    async def _next(self, stream: PushStream) -> list[Spooled]:
        """What is sent next, when there is something and room for it; nothing once a schema is unknown."""
        while not stream.unknown:
            self._wake.clear()
            await stream.room.wait()
            held = frozenset(stream.held)
            batches = await self._spool.take(stream.last_id, _MESSAGE_BYTES, _MESSAGE_BATCHES, held)
            if not batches:
                if not stream.waits and not self._wake.is_set():
                    self._idle.set()
                await self._wake.wait()
                continue
            self._idle.clear()
            stream.send(batches)
            return batches
        return []

    async def _read(
        self, call: "aio.StreamStreamCall[PushRequest, PushResponse]", stream: PushStream
    ) -> None:
        async for response in call:
            # gRPC yields None for what does not parse.
            if not isinstance(response, PushResponse):
                raise _Retry("the service answered with what is no response")
            found = [stream.answered(ack) for ack in response.acks]
            acked = [spooled.id for spooled in found if spooled is not None]
            if acked:
                await self._spool.forget(acked)
                self.last_ack = time.time()
            for refusal in response.refusals:
                if (spooled := stream.answered(refusal)) is not None:
                    await self._refused(stream, spooled, refusal)
            if not stream.waits:
                self._wake.set()

    async def _refused(self, stream: PushStream, spooled: Spooled, refusal: Refusal) -> None:
        # It goes into a log on the host, which is not the service's to fill.
        reason, detail = reason_name(refusal), refusal.detail[:_LONGEST_DETAIL]
        if not refusal.final:
            if spooled.product in stream.held | stream.unknown:
                return
            if refusal.reason == RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA:
                if spooled.product in self._schemas and spooled.product not in stream.told:
                    stream.unknown.add(spooled.product)
                    self._wake.set()
                    return
                # Its batches wait for the next connection, and a service that knows the schema; others go on.
                stream.held.add(spooled.product)
                log.warning("product held back", product=spooled.product, detail=detail)
                return
            if refusal.reason == RefusalReason.REFUSAL_REASON_FUTURE:
                await self._renew_if_clock_went_back(spooled)
            retry = _Contested if refusal.reason == RefusalReason.REFUSAL_REASON_FORK else _Retry
            raise retry(f"{spooled.product} {spooled.sequence}: {reason}: {detail}")
        if await self._spool.is_late(spooled.id):
            # By this clock's fault, which a seal of another moment mends.
            raise _Retry(f"{spooled.product} {spooled.sequence}: {reason}: it has to be sealed again")
        log.error(
            "batch refused",
            product=spooled.product,
            sequence=spooled.sequence,
            reason=reason,
            detail=detail,
        )
        self.batches_refused += 1
        await self._spool.refuse(spooled, refusal)

    async def _renew_if_clock_went_back(self, refused: Spooled) -> None:
        """Seals a chain anew that a clock ahead of the present one has begun or sealed; it would wait."""
        now_ms = time.time_ns() // 1_000_000
        sealed = await self._spool.sealed_time(refused.id)
        if is_ahead(refused.epoch, now_ms) or (sealed is not None and sealed * 1_000 > now_ms):
            known = self._known.get(refused.product, 0)
            await self._spool.renew(refused.product, now_ms, known, self._reseal)
            log.warning("chain starts anew: this clock was ahead", product=refused.product)


def _patience(attempt: int) -> float:
    return min(_LONGEST_CALL_SECONDS, _CALL_SECONDS * 2.0 ** min(attempt, 16))


def _reason(broken: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = broken
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, aio.AioRpcError):
        code: grpc.StatusCode = first.code()
        return f"{code.name}: {first.details()}"
    return str(first) or type(first).__name__
