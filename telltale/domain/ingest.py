"""The one door for data into a domain: batches are examined, kept, and answered one by one."""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

import grpc
import structlog
from grpc import aio

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.api.mesh.v1.ingest_pb2 import (
    Ack,
    ChainsRequest,
    ChainsResponse,
    PushRequest,
    PushResponse,
    Refusal,
    RefusalReason,
)
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestServicer
from telltale.domain.access import Access, asking
from telltale.domain.cedar import Decision, Principal
from telltale.domain.examiner import Examiner
from telltale.domain.log import Candidate, ProductLog
from telltale.domain.products import Products
from telltale.errors import BatchRefused, InvalidInput, LimitExceeded, Unavailable
from telltale.naming import SpiffeId
from telltale.rpc.auth import caller
from telltale.seal.verify import Verifier
from telltale.wire import has_more_fields

log = structlog.get_logger(__name__)

_SERVICE = "telltale.api.mesh.v1.Ingest"
# Requests of one stream that may wait for the disk: bounds memory, hides the time of an fsync.
_PIPELINE = 8
# Requests of all streams that are examined or wait for the disk: bounds memory, however many sources.
_REQUESTS_ON_THE_WAY = 64
_MAX_BATCHES = 1_000
# A request up to this size is examined where it is: a signature and a parse take less than the way to a
# thread and back, and hold up others for a fraction of a millisecond.
_AT_ONCE_BYTES, _AT_ONCE_BATCHES = 16 << 10, 2
_MAX_CERTIFICATES = 64
# A source needs one stream, and another while it renews itself or its old connection is not known to be dead.
# Each may keep `_PIPELINE` requests in memory, and the memory belongs to all sources.
_STREAMS_PER_SOURCE = 4
# One more stream of a source.
ADMIT = "admit"
# A source that is refused for ever must not fill the disk with log lines.
_COMPLAIN_SECONDS = 10.0
_MAX_COMPLAINED = 1_000

# Told of every refusal: the header as far as it was readable, what was wrong, and who sent it.
Report = Callable[[Header, BatchRefused, SpiffeId], None]


class Ingest(IngestServicer):
    """Serves `Ingest`. The examiner is shared by all streams; the log orders what they bring."""

    def __init__(
        self, log: ProductLog, products: Products, access: Access, verifier: Verifier, report: Report
    ):
        self._log = log
        self._examiner = Examiner(products, access, verifier)
        self._access = access
        self._report = report
        self._verifying = asyncio.Lock()
        self._on_the_way = asyncio.Semaphore(_REQUESTS_ON_THE_WAY)
        # Of sources that have a request here. First come, first served among sources, not among requests:
        # however many a flooding source sends, each other waits for one of its at a time.
        self._turns: WeakValueDictionary[SpiffeId, asyncio.Lock] = WeakValueDictionary()
        self._streams: Counter[SpiffeId] = Counter()
        self._complained: OrderedDict[SpiffeId, float] = OrderedDict()

    def add_to(self, server: aio.Server) -> None:
        """Registers the service: the generated code would parse a message of any number of parts."""
        push = grpc.stream_stream_rpc_method_handler(self.Push, parse, PushResponse.SerializeToString)
        chains = grpc.unary_unary_rpc_method_handler(
            self.Chains, ChainsRequest.FromString, ChainsResponse.SerializeToString
        )
        methods = {"Push": push, "Chains": chains}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))

    async def Chains(
        self, request: ChainsRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> ChainsResponse:
        """Needs `push` on a product."""
        source = self._source()
        return ChainsResponse(chains=await self._log.heads(str(source)))

    async def Push(
        self, request_iterator: AsyncIterator[PushRequest], context: "aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[PushResponse]:
        """Needs `push` on each batch's product."""
        source = self._source()
        with self._admitted(source):
            # Tells the source that it may write: written to earlier, an aborted call would lose its status.
            await context.send_initial_metadata(())
            answers: asyncio.Queue[_Answer | None] = asyncio.Queue()
            room = asyncio.Semaphore(_PIPELINE)
            reader = asyncio.create_task(self._take(source, request_iterator, answers, room))
            try:
                while (answer := await answers.get()) is not None:
                    yield await self._respond(source, answer)
                    room.release()
                await reader
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    @contextlib.contextmanager
    def _admitted(self, source: SpiffeId) -> Iterator[None]:
        if self._streams[source] >= _STREAMS_PER_SOURCE:
            refused = LimitExceeded(
                "streams_per_source",
                f"{source} has {_STREAMS_PER_SOURCE} push streams here; end one of them, and if they are not"
                " yours enrol anew: somebody else uses your identity",
            )
            self._access.record(Principal(source), ADMIT, "", Decision(False, str(refused)))
            raise refused
        self._streams[source] += 1
        try:
            yield
        finally:
            self._streams[source] -= 1
            if not self._streams[source]:
                del self._streams[source]

    async def accept(self, source: SpiffeId, request: PushRequest) -> PushResponse:
        """Takes batches that were sealed in this very process, exactly as if they had come by the wire."""
        return await self._respond(source, await self._examine(source, request, {}))

    def _source(self) -> SpiffeId:
        who = caller()
        if who.peer != who.principal:
            refused = InvalidInput("a push cannot be forwarded; call the domain service itself")
            self._access.record(asking(), "push", "", Decision(False, str(refused)))
            raise refused
        self._access.require_any(asking(), "push")
        return who.peer

    async def _take(
        self,
        source: SpiffeId,
        requests: AsyncIterator[PushRequest],
        answers: "asyncio.Queue[_Answer | None]",
        room: asyncio.Semaphore,
    ) -> None:
        before: dict[str, tuple[int, int]] = {}
        try:
            async for request in requests:
                await room.acquire()
                answers.put_nowait(await self._examine(source, request, before))
        finally:
            # Must not wait: nobody reads the answers any more when the stream was cancelled.
            answers.put_nowait(None)

    async def _examine(
        self, source: SpiffeId, request: PushRequest, before: dict[str, tuple[int, int]]
    ) -> "_Answer":
        turn = self._turns.setdefault(source, asyncio.Lock())
        async with turn:
            await self._on_the_way.acquire()
            try:
                # One thread at a time: the verifier remembers certificates and is not made for two.
                async with self._verifying:
                    if _is_small(request):
                        examined = self._examiner.examine(source, request, before)
                    else:
                        examined = await asyncio.to_thread(self._examiner.examine, source, request, before)
                kept = self._log.append([one for one in examined if isinstance(one, Candidate)])
            except BaseException:
                self._on_the_way.release()
                raise
        # When the disk has them, whether or not the source reads its answer.
        kept.add_done_callback(lambda _: self._on_the_way.release())
        return _Answer(examined, kept)

    async def _respond(self, source: SpiffeId, answer: "_Answer") -> PushResponse:
        response = PushResponse()
        try:
            kept = iter(await answer.kept)
        except Unavailable as failed:
            kept = iter([_unavailable(failed)] * len(answer.examined))
        for one in answer.examined:
            if isinstance(one, Candidate):
                header, refused = one.header, next(kept)
            else:
                header, refused = one
            if refused is None:
                response.acks.append(
                    Ack(product=header.product, epoch=header.epoch, sequence=header.sequence)
                )
                continue
            response.refusals.append(
                Refusal(
                    product=header.product,
                    epoch=header.epoch,
                    sequence=header.sequence,
                    reason=refused.reason,
                    detail=refused.detail,
                    final=refused.final,
                )
            )
            self._report(header, refused, source)
        self._complain(source, response.refusals)
        return response

    def _complain(self, source: SpiffeId, refusals: Sequence[Refusal]) -> None:
        """One line for a source now and then; every refusal is a record of its own besides."""
        now = time.monotonic()
        if not refusals or now < self._complained.get(source, -_COMPLAIN_SECONDS) + _COMPLAIN_SECONDS:
            return
        self._complained[source] = now
        self._complained.move_to_end(source)
        if len(self._complained) > _MAX_COMPLAINED:
            self._complained.popitem(last=False)
        first = refusals[0]
        log.warning(
            "batches refused",
            source=str(source),
            batches=len(refusals),
            product=first.product[:200],
            sequence=first.sequence,
            reason=RefusalReason.Name(first.reason),
            detail=first.detail[:500],
        )


class _Answer:
    """One request on its way to the disk."""

    def __init__(
        self,
        examined: "list[Candidate | tuple[Header, BatchRefused]]",
        kept: "asyncio.Future[list[BatchRefused | None]]",
    ) -> None:
        self.examined = examined
        self.kept = kept


def parse(data: bytes) -> PushRequest:
    """Reads a message of a source; raises InvalidInput when it has too many parts."""
    # Told before it is parsed: 8 MiB of empty batches would become 360 MiB.
    if not has_more_fields(data, _MAX_BATCHES + _MAX_CERTIFICATES):
        request = PushRequest.FromString(data)
        if len(request.batches) <= _MAX_BATCHES and len(request.certificates) <= _MAX_CERTIFICATES:
            return request
    raise InvalidInput(f"a message holds at most {_MAX_BATCHES} batches and {_MAX_CERTIFICATES} certificates")


def _is_small(request: PushRequest) -> bool:
    """Whether looking at it is quick: certificates cost more than a batch does."""
    return (
        not request.certificates
        and len(request.batches) <= _AT_ONCE_BATCHES
        and request.ByteSize() <= _AT_ONCE_BYTES
    )


def _unavailable(failed: Unavailable) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_UNAVAILABLE, str(failed), final=False)
