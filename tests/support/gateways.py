"""A gateway for tests of its consumers: real wire, real identities, and frames that a test decides on."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio

from telltale.api.mesh.v1.batch_pb2 import Delivery, Gap, SealedBatch, SealedFrame, Sync
from telltale.api.mesh.v1.schemas_pb2 import GetSchemaRequest, GetSchemaResponse
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasServicer, add_SchemasServicer_to_server
from telltale.api.mesh.v1.stream_pb2 import StreamSubscribeRequest
from telltale.api.mesh.v1.stream_pb2_grpc import StreamServicer, add_StreamServicer_to_server
from telltale.contract.reflection import SymbolIndex, add_reflection
from telltale.errors import NotFound, Unavailable
from telltale.identity.credentials import Credentials
from telltale.rpc.auth import Authenticator, Context
from telltale.rpc.server import serving
from telltale.seal.sealing import sha256
from tests.support.batches import SCHEMAS
from tests.support.mesh import Mesh


class Gateway(StreamServicer, SchemasServicer):
    """Serves everything in `frames` from the cursor on, then what is added. One log called `a`."""

    def __init__(self) -> None:
        self.frames: list[SealedFrame] = []
        self.schemas = {schema.sha256: schema.data for schema in SCHEMAS.values()}
        # What reflection shows, and how often it was asked.
        self.files: Mapping[str, bytes] = {}
        self.looks = 0
        self.requests: list[StreamSubscribeRequest] = []
        self.offset = 0
        # Ends a stream after as many frames.
        self.break_after: int | None = None
        self._changed = asyncio.Condition()

    async def add(
        self,
        *batches: SealedBatch,
        credentials: Credentials | None = None,
        gap: Gap | None = None,
        sync: Sync | None = None,
    ) -> None:
        """Publishes one frame."""
        certificates = credentials.certificates if credentials else ()
        frame = SealedFrame(certificates=certificates, gap=gap, sync=sync)
        for batch in batches:
            self.offset += 1
            delivery = Delivery(log="a", offset=self.offset)
            delivery.received_time.GetCurrentTime()
            frame.batches.add().CopyFrom(batch)
            frame.batches[-1].delivery = delivery.SerializeToString()
        async with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()

    async def opened(self, streams: int) -> None:
        """Returns when as many streams have been opened in all."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= streams)

    async def learn(self, data: bytes) -> None:
        """Makes a schema known."""
        self.schemas[sha256(data)] = data

    async def Subscribe(
        self, request: StreamSubscribeRequest, context: Context
    ) -> AsyncIterator[SealedFrame]:
        """Sends whole frames again of which the cursor has seen a part, as no real gateway would."""
        async with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        after = max((position.offset for position in request.cursor.positions), default=0)
        sent = 0
        for place in itertools.count():
            async with self._changed:
                while len(self.frames) <= place:
                    await self._changed.wait()
            frame = self.frames[place]
            offsets = [Delivery.FromString(batch.delivery).offset for batch in frame.batches]
            if offsets and offsets[-1] <= after:
                continue
            if self.break_after is not None and sent >= self.break_after:
                raise Unavailable("the test broke the stream")
            yield frame
            sent += 1

    async def Get(self, request: GetSchemaRequest, context: Context) -> GetSchemaResponse:
        if request.sha256 not in self.schemas:
            raise NotFound("no such schema")
        return GetSchemaResponse(file_descriptor_set=self.schemas[request.sha256])


@asynccontextmanager
async def running_gateway(mesh: Mesh, gateway: Gateway) -> AsyncIterator[str]:
    """Yields the address of a gateway that proves to be one."""
    me = mesh.workload("platform", "/gateway", [mesh.server_name("gateway", "platform")])

    async def visible(_: object) -> SymbolIndex:
        gateway.looks += 1
        return SymbolIndex(gateway.files)

    def add(server: grpc.aio.Server) -> None:
        add_StreamServicer_to_server(gateway, server)
        add_SchemasServicer_to_server(gateway, server)
        add_reflection(server, visible)

    authenticator = Authenticator(me.trust, mesh.trust_domain("platform"))
    async with serving(me, "127.0.0.1:0", authenticator, add, grace=0.1) as port:
        yield f"127.0.0.1:{port}"
