"""The one door for data into a domain: batches are examined, kept, and answered one by one."""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
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
from telltale.contract.product import Contract
from telltale.domain.access import Access
from telltale.domain.log import Candidate, ProductLog
from telltale.domain.payload import open_payload
from telltale.domain.products import Products
from telltale.errors import BatchRefused, InvalidInput, LimitExceeded, TelltaleError, Unavailable
from telltale.naming import SpiffeId
from telltale.rpc.auth import caller
from telltale.seal.sealing import MAX_HEADER_BYTES, sha256
from telltale.seal.verify import Verifier, check_owner, open_header

log = structlog.get_logger(__name__)

# Requests of one stream that may wait for the disk: bounds memory, hides the time of an fsync.
_PIPELINE = 8
_MAX_BATCHES = 1_000
_MAX_CERTIFICATES = 64
# A source needs one stream, and another while it renews itself or its old connection is not known to be dead.
# Each may keep `_PIPELINE` requests in memory, and the memory belongs to all sources.
_STREAMS_PER_SOURCE = 4
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
        self._examiner = _Examiner(products, access, verifier)
        self._access = access
        self._report = report
        self._verifying = asyncio.Lock()
        self._streams: Counter[SpiffeId] = Counter()
        self._complained: OrderedDict[SpiffeId, float] = OrderedDict()

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
            raise LimitExceeded(
                "streams_per_source",
                f"{source} has {_STREAMS_PER_SOURCE} push streams here; end one of them, and if they are not"
                " yours enrol anew: somebody else uses your identity",
            )
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
            raise InvalidInput("a push cannot be forwarded; call the domain service itself")
        self._access.require_any(who.principal, "push")
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
                _check_size(request)
                await room.acquire()
                answers.put_nowait(await self._examine(source, request, before))
        finally:
            # Must not wait: nobody reads the answers any more when the stream was cancelled.
            answers.put_nowait(None)

    async def _examine(
        self, source: SpiffeId, request: PushRequest, before: dict[str, tuple[int, int]]
    ) -> "_Answer":
        # One thread at a time: the verifier remembers certificates and is not made for two.
        async with self._verifying:
            examined = await asyncio.to_thread(self._examiner.examine, source, request, before)
        candidates = [one for one in examined if isinstance(one, Candidate)]
        return _Answer(examined, self._log.append(candidates))

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


class _Examiner:
    """Decides on batches as far as that needs no knowledge of their chain. Runs in a thread."""

    def __init__(self, products: Products, access: Access, verifier: Verifier) -> None:
        self._products = products
        self._access = access
        self._verifier = verifier

    def examine(
        self, source: SpiffeId, request: PushRequest, before: dict[str, tuple[int, int]]
    ) -> list[Candidate | tuple[Header, BatchRefused]]:
        """`before`: epoch and sequence of each product's last batch on the same stream; kept up to date."""
        self._verifier.learn(request.certificates)
        now = datetime.now(UTC)
        return [self._examine_one(source, batch, now, before) for batch in request.batches]

    def _examine_one(
        self, source: SpiffeId, batch: SealedBatch, now: datetime, before: dict[str, tuple[int, int]]
    ) -> Candidate | tuple[Header, BatchRefused]:
        # Exactly the known fields, so that nothing rides along unsigned.
        batch = SealedBatch(header=batch.header, signature=batch.signature, payload=batch.payload)
        try:
            header = open_header(batch)
        except BatchRefused as refused:
            return _readable(batch.header), refused
        if header.source != str(source):
            reason = RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE
            return header, BatchRefused(reason, f"{source} pushes in the name of {header.source}")
        if header.product not in self._products.contracts:
            # Nothing is remembered of it: a source may invent any number of names.
            return header, _not_permitted(source, "push", header.product)
        digest = sha256(batch.header)
        epoch, sequence = before.get(header.product, (0, 0))
        follows = sequence if epoch == header.epoch and sequence < header.sequence else 0
        before[header.product] = header.epoch, header.sequence
        try:
            contract = self._check(batch, header, source, now)
            change = open_payload(contract, header, batch.payload)
        except BatchRefused as refused:
            if not refused.final:
                return header, refused
            # The source itself sent it, so its chain may go on behind it.
            unproven = refused.reason == RefusalReason.REFUSAL_REASON_SIGNATURE
            digest = b"" if unproven else digest
            return Candidate(header, digest, b"", (), refused=refused, follows=follows)
        signer = self._verifier.certificates_of(header)
        return Candidate(header, digest, batch.SerializeToString(), signer, change, follows=follows)

    def _check(self, batch: SealedBatch, header: Header, source: SpiffeId, now: datetime) -> Contract:
        self._verifier.verify(batch, now)
        present = self._products.contracts[header.product]
        action = "replay" if header.replay_run else "push"
        if not self._access.allows(source, action, present):
            raise _not_permitted(source, action, header.product)
        check_owner(header, open_to_all=present.options.open_to_all_trust_domains, mesh=self._access.mesh)
        try:
            return self._products.schema(header.schema_sha256).contract(header.product)
        except TelltaleError as unknown:
            raise BatchRefused(
                RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA,
                f"{unknown}; call Schemas.Register first",
                final=False,
            ) from None


def _check_size(request: PushRequest) -> None:
    if len(request.batches) > _MAX_BATCHES or len(request.certificates) > _MAX_CERTIFICATES:
        raise InvalidInput(
            f"a message holds at most {_MAX_BATCHES} batches and {_MAX_CERTIFICATES} certificates"
        )


def _not_permitted(source: SpiffeId, action: str, product: str) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_PERMISSION,
        f"{source} lacks the permission `{action}` on {product}; ask the product's owner",
    )


def _readable(data: bytes) -> Header:
    """The header of a refused batch as far as it can be read; empty when it is too large to be looked at."""
    if len(data) > MAX_HEADER_BYTES:
        return Header()
    try:
        return Header.FromString(data)
    except DecodeError:
        return Header()


def _unavailable(failed: Unavailable) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_UNAVAILABLE, str(failed), final=False)
