"""A domain's service and authority that turn on their agents, and say everything that can be said."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from telltale import wire
from telltale.api.mesh.v1.authority_pb2 import IssueTokenRequest, IssueTokenResponse
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import (
    Ack,
    ChainsResponse,
    PushRequest,
    PushResponse,
    Refusal,
    RefusalReason,
)
from telltale.identity.keys import thumbprint
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator, CertificateAuthenticator, caller
from telltale.rpc.server import serving
from tests.support.mesh import Mesh

TEXTS = ("", "\x1b[31m", "../../../etc/passwd", "https://192.0.2.1/run", "$(reboot)", "x" * 100_000)
NUMBERS = (0, 1, (1 << 31) - 1, -1, (1 << 63) - 1, (1 << 64) - 1)
_SMALL = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_ENUM)
# Fields of a contract that nobody has agreed on.
ORDERS = wire.field(1_000, b"run: reboot") + wire.field(1_001, b"collect: /etc/shadow")


def everything(descriptor: Descriptor) -> Iterator[bytes]:
    """The message with every field set to something hostile, once for each hostile value, as bytes."""
    for text, number in itertools.zip_longest(TEXTS, NUMBERS, fillvalue=""):
        message = GetMessageClass(descriptor)()
        _fill(message, str(text), number if isinstance(number, int) else 7)
        yield message.SerializeToString() + ORDERS


def _fill(message: Message, text: str, number: int) -> None:
    for one in message.DESCRIPTOR.fields:
        if one.message_type is not None:
            inner = getattr(message, one.name)
            _fill(inner.add() if one.is_repeated else inner, text, number)
            continue
        value: object = number % (1 << 64) if one.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else number
        if one.cpp_type == FieldDescriptor.CPPTYPE_INT64:
            value = min(number, (1 << 63) - 1)
        elif one.cpp_type in _SMALL:
            value = number % (1 << 31)
        elif one.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            value = bool(number)
        elif one.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            value = text if one.type == FieldDescriptor.TYPE_STRING else text.encode()
        if one.is_repeated:
            getattr(message, one.name).extend([value] * 3)
        else:
            setattr(message, one.name, value)


Answers = Callable[[PushRequest], Iterator[bytes]]


def _honest(request: PushRequest) -> PushResponse:
    headers = [Header.FromString(batch.header) for batch in request.batches]
    return PushResponse(
        acks=[Ack(product=one.product, epoch=one.epoch, sequence=one.sequence) for one in headers]
    )


def _nonsense(request: PushRequest) -> Iterator[bytes]:
    yield from everything(PushResponse.DESCRIPTOR)


def _of_its_own_batches(request: PushRequest) -> Iterator[bytes]:
    """Refuses what was sent for reasons that do not exist, with every other field hostile."""
    for number, text in enumerate(TEXTS):
        response = _honest(request)
        refusals = [
            Refusal(
                product=ack.product,
                epoch=ack.epoch,
                sequence=ack.sequence,
                reason=90 + number,  # type: ignore[arg-type]  # none that the contract has
                detail=text,
                final=number % 2 == 0,
            )
            for ack in response.acks
        ]
        yield PushResponse(refusals=refusals).SerializeToString() + ORDERS


def _flood(request: PushRequest) -> Iterator[bytes]:
    acks = [Ack(product=f"servers.x{number}", epoch=number, sequence=number) for number in range(10_000)]
    flood = PushResponse(acks=acks).SerializeToString()
    for _ in range(50):
        yield flood


def _empty_acks(request: PushRequest) -> Iterator[bytes]:
    """Millions of them in one message."""
    yield wire.field(1, b"") * (4 << 20)


def _unknown_schemas(request: PushRequest) -> Iterator[bytes]:
    """Asks for schemas, again and again."""
    reason = RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA
    refusals = [
        Refusal(product=ack.product, epoch=ack.epoch, sequence=ack.sequence, reason=reason)
        for ack in _honest(request).acks
    ]
    yield PushResponse(refusals=refusals).SerializeToString() + ORDERS


def _rubbish(request: PushRequest) -> Iterator[bytes]:
    yield b"\xff" * 1_000


def _too_large(request: PushRequest) -> Iterator[bytes]:
    yield wire.field(1_000, bytes(9 << 20))


HOSTILITIES: tuple[Answers, ...] = (
    _nonsense,
    _of_its_own_batches,
    _flood,
    _empty_acks,
    _unknown_schemas,
    _rubbish,
    _too_large,
)


@dataclass
class HostileService:
    """Serves the domain's agents: first every hostility in turn, then honestly."""

    mesh: Mesh
    # One stream each.
    left: list[Answers] = field(default_factory=lambda: list(HOSTILITIES))
    heads: list[bytes] = field(
        # Repeated fields of messages that are joined are joined too.
        default_factory=lambda: [b"\xff", b"".join(everything(ChainsResponse.DESCRIPTOR)), _many_heads()]
    )
    batches: list[tuple[Header, SealedBatch]] = field(default_factory=list)
    # Method and the caller's identity.
    calls: set[tuple[str, str]] = field(default_factory=set)
    # Set when it has been honest for a while.
    believed: asyncio.Event = field(default_factory=asyncio.Event)
    # Answers that are no tokens; one after each that is one.
    tokens: list[bytes] = field(default_factory=lambda: [b"\xff", *everything(IssueTokenResponse.DESCRIPTOR)])
    tokens_asked: int = 0
    service: int = 0
    authority: int = 0

    def _called(self, method: str) -> None:
        self.calls.add((method, str(caller().peer)))

    async def chains(self, request: bytes, context: Any) -> bytes:
        self._called("Chains")
        return self.heads.pop() if self.heads else b""

    async def register(self, request: bytes, context: Any) -> bytes:
        self._called("Register")
        return b"\x0a\x04none" + ORDERS

    async def push(self, requests: AsyncIterator[PushRequest], context: Any) -> AsyncIterator[bytes]:
        self._called("Push")
        await context.send_initial_metadata((("location", "https://192.0.2.1/"), ("alt-svc", "h2=:1")))
        first = True
        async for request in requests:
            if first and self.left and not self.heads:
                for answer in self.left.pop(0)(request):
                    yield answer
                # The stream ends with it, and with pushback that asks for a call to somewhere else.
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "1"), ("location", "dns:///evil")))
                return
            first = False
            yield _honest(request).SerializeToString()
            if self.heads or self.tokens:
                return
            self.batches += [(Header.FromString(batch.header), batch) for batch in request.batches]
            if len(self.batches) >= 20:
                self.believed.set()

    async def token(self, request: bytes, context: Any) -> bytes:
        self._called("IssueToken")
        self.tokens_asked += 1
        if self.tokens and self.tokens_asked % 2 == 0:
            return self.tokens.pop()
        who = caller()
        authority = self.mesh.authorities["servers"]
        issued = authority.issue_token(
            who.peer,
            thumbprint(who.peer_certificate),
            IssueTokenRequest.FromString(request).audiences,
            datetime.now(UTC) + timedelta(minutes=1),
        )
        response = IssueTokenResponse(token=issued.text)
        # Soon over, so that the agent asks again and again.
        response.expire_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=2))
        return response.SerializeToString()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Both on free ports, with the identities of the real ones."""
        names = {"service": self.mesh.server_name("service", "servers")}
        names["authority"] = self.mesh.server_name("authority", "servers")
        workloads = {name: self.mesh.workload("servers", f"/{name}", [dns]) for name, dns in names.items()}
        trust = self.mesh.trust
        audience = self.mesh.trust_domain("servers")
        async with (
            _serve(workloads["service"], Authenticator(trust, audience), self._domain()) as self.service,
            _serve(workloads["authority"], CertificateAuthenticator(trust), self._tokens()) as self.authority,
        ):
            yield

    def _domain(self) -> "list[grpc.GenericRpcHandler[Any, Any]]":
        push = grpc.stream_stream_rpc_method_handler(self.push, PushRequest.FromString)
        ingest = {"Chains": grpc.unary_unary_rpc_method_handler(self.chains), "Push": push}
        schemas = {"Register": grpc.unary_unary_rpc_method_handler(self.register)}
        return [_handlers("Ingest", ingest), _handlers("Schemas", schemas)]

    def _tokens(self) -> "list[grpc.GenericRpcHandler[Any, Any]]":
        return [_handlers("Authority", {"IssueToken": grpc.unary_unary_rpc_method_handler(self.token)})]


def _handlers(service: str, methods: dict[str, Any]) -> "grpc.GenericRpcHandler[Any, Any]":
    return grpc.method_handlers_generic_handler(f"telltale.api.mesh.v1.{service}", methods)


def _serve(me: Workload, authenticator: Any, handlers: list[Any]) -> Any:
    return serving(
        me, "127.0.0.1:0", authenticator, lambda server: server.add_generic_rpc_handlers(handlers), grace=0.2
    )


def _many_heads() -> bytes:
    """Chains of products that the agent does not have, as many as a message holds."""
    response = ChainsResponse()
    for number in range(50_000):
        response.chains.add(product=f"servers.p{number}", epoch=number + 1, sequence=1)
    return response.SerializeToString()
