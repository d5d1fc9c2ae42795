"""The one door for data into a domain: batches are examined, kept, and answered one by one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message
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
from telltale.api.mesh.v1.product_pb2 import Kind
from telltale.contract.product import Contract
from telltale.contract.schema import message_class
from telltale.domain.access import Access
from telltale.domain.inventory import Change
from telltale.domain.log import Candidate, ProductLog
from telltale.domain.products import Products
from telltale.errors import BatchRefused, InvalidInput, TelltaleError, Unavailable
from telltale.naming import SpiffeId
from telltale.rpc.auth import caller
from telltale.seal.sealing import sha256
from telltale.seal.verify import Verifier, check_owner, open_header

log = structlog.get_logger(__name__)

# Requests of one stream that may wait for the disk: bounds memory, hides the time of an fsync.
_PIPELINE = 8
_MAX_BATCHES = 1_000
_MAX_CERTIFICATES = 64

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
        # Tells the source that it may write: written to earlier, an aborted call would lose its status.
        await context.send_initial_metadata(())
        answers: asyncio.Queue[_Answer | None] = asyncio.Queue(_PIPELINE)
        reader = asyncio.create_task(self._take(source, request_iterator, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield await self._respond(source, answer)
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def accept(self, source: SpiffeId, request: PushRequest) -> PushResponse:
        """Takes batches that were sealed in this very process, exactly as if they had come by the wire."""
        return await self._respond(source, await self._examine(source, request))

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
    ) -> None:
        try:
            async for request in requests:
                _check_size(request)
                await answers.put(await self._examine(source, request))
        finally:
            await answers.put(None)

    async def _examine(self, source: SpiffeId, request: PushRequest) -> "_Answer":
        # One thread at a time: the verifier remembers certificates and is not made for two.
        async with self._verifying:
            examined = await asyncio.to_thread(self._examiner.examine, source, request)
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
            log.warning(
                "batch refused",
                source=str(source),
                product=header.product,
                sequence=header.sequence,
                reason=RefusalReason.Name(refused.reason),
                detail=refused.detail,
            )
            self._report(header, refused, source)
        return response


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
        self, source: SpiffeId, request: PushRequest
    ) -> list[Candidate | tuple[Header, BatchRefused]]:
        self._verifier.learn(request.certificates)
        now = datetime.now(UTC)
        return [self._examine_one(source, batch, now) for batch in request.batches]

    def _examine_one(
        self, source: SpiffeId, batch: SealedBatch, now: datetime
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
        digest = sha256(batch.header)
        try:
            contract = self._check(batch, header, source, now)
            change = change_of(contract, batch.payload) if contract.kind == Kind.KIND_INVENTORY else None
        except BatchRefused as refused:
            if not refused.final:
                return header, refused
            # The source itself sent it, so its chain may go on behind it.
            unproven = refused.reason == RefusalReason.REFUSAL_REASON_SIGNATURE
            return Candidate(header, b"" if unproven else digest, b"", (), refused=refused)
        signer = self._verifier.certificates_of(header)
        return Candidate(header, digest, batch.SerializeToString(), signer, change)

    def _check(self, batch: SealedBatch, header: Header, source: SpiffeId, now: datetime) -> Contract:
        self._verifier.verify(batch, now)
        present = self._products.contracts.get(header.product)
        action = "replay" if header.replay_run else "push"
        if present is None or not self._access.allows(source, action, present):
            raise BatchRefused(
                RefusalReason.REFUSAL_REASON_PERMISSION,
                f"{source} lacks the permission `{action}` on {header.product}; ask the product's owner",
            )
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


def change_of(contract: Contract, payload: bytes) -> Change:
    """What an inventory's payload changes; raises BatchRefused when it is no valid payload."""
    try:
        records: Any = message_class(contract.records).FromString(payload)
    except DecodeError:
        raise BatchRefused(
            RefusalReason.REFUSAL_REASON_MALFORMED, f"the payload is no {contract.records.full_name}"
        ) from None
    return Change(
        {_key(contract, record): record.SerializeToString() for record in records.records},
        [_key(contract, record) for record in records.removed],
    )


def _key(contract: Contract, record: Message) -> bytes:
    """A record's key: a record of which only the KEY fields are set."""
    values: Mapping[str, Any] = {name: getattr(record, name) for name in contract.key_fields}
    return type(record)(**values).SerializeToString(deterministic=True)


def _readable(data: bytes) -> Header:
    """The header of a refused batch as far as it can be read."""
    try:
        return Header.FromString(data)
    except DecodeError:
        return Header()


def _unavailable(failed: Unavailable) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_UNAVAILABLE, str(failed), final=False)
