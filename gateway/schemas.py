"""The service `Schemas`, by asking the domains on the caller's behalf.

A schema is known by its digest, so it does not matter who brings it; it is checked, and kept for the next
caller within a bound.
"""

import asyncio
import hashlib
from collections import OrderedDict

from gateway.access import Access
from gateway.catalog import Catalog
from gateway.decisions import FORWARD, Decisions
from gateway.domain import Domain
from gateway.proxy import NotThroughGateway
from telltale.api.mesh.v1 import schemas_pb2_grpc
from telltale.api.mesh.v1.schemas_pb2 import (
    GetSchemaRequest,
    GetSchemaResponse,
    RegisterSchemaRequest,
    RegisterSchemaResponse,
)
from telltale.contract import Schema
from telltale.errors import InvalidInput, NotFound, TelltaleError, Unavailable
from telltale.rpc.auth import Context, caller
from telltale.rpc.client import answered, calling

_GET = "/telltale.api.mesh.v1.Schemas/Get"
_PATIENCE_SECONDS = 5.0
_KEPT_BYTES = 32 * 1024 * 1024


class SchemasService(schemas_pb2_grpc.SchemasServicer):
    """Schemas of all domains that are up."""

    def __init__(self, catalog: Catalog, access: Access, decisions: Decisions) -> None:
        self._catalog = catalog
        self._access = access
        self._decisions = decisions
        self._kept: OrderedDict[bytes, Schema] = OrderedDict()
        self._kept_bytes = 0

    async def Register(self, request: RegisterSchemaRequest, context: Context) -> RegisterSchemaResponse:
        """Schemas are registered where batches are pushed: at the domain."""
        refused = NotThroughGateway(str(caller().principal), "telltale.api.mesh.v1.Schemas/Register")
        self._decisions.denied(FORWARD, refused)
        raise refused

    async def Get(self, request: GetSchemaRequest, context: Context) -> GetSchemaResponse:
        """The caller needs `discover` on a product that the schema describes."""
        digest = request.sha256
        if len(digest) != hashlib.sha256().digest_size:
            raise InvalidInput(f"{len(digest)} bytes are no SHA-256; a schema is asked for by its digest")
        schema = self._kept.get(digest)
        if schema is None:
            # Whichever domain answers has decided that this caller may have it.
            schema = await self._ask_all(digest)
            self._keep(schema)
        else:
            self._kept.move_to_end(digest)
            products = [contract.name for contract in schema.contracts()]
            if not await self._access.discoverable(caller(), products):
                raise _unknown(digest)
        return GetSchemaResponse(file_descriptor_set=schema.data)

    async def _ask_all(self, digest: bytes) -> Schema:
        # The others would refuse the caller's token.
        token = caller().token
        domains = [domain for domain in self._catalog.domains if domain.is_named_by(token)]
        asked = [self._ask(domain, digest) for domain in domains]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        silent = []
        for domain, answer in zip(domains, answers, strict=True):
            if isinstance(answer, Schema):
                return answer
            if isinstance(answer, Unavailable):
                silent.append(domain.trust_domain)
            elif not isinstance(answer, TelltaleError):
                raise answer
        if silent or not self._catalog.settled:
            who = ", ".join(silent) or "every domain"
            raise Unavailable(f"the schema {digest.hex()} may be with {who}, not to be reached; try again")
        raise _unknown(digest)

    async def _ask(self, domain: Domain, digest: bytes) -> Schema:
        metadata = await domain.metadata(caller().token)
        call = domain.calls.unary_unary(
            _GET,
            request_serializer=GetSchemaRequest.SerializeToString,
            response_deserializer=GetSchemaResponse.FromString,
        )
        request = GetSchemaRequest(sha256=digest)
        with calling(domain.trust_domain):
            answer = await call(request, metadata=metadata, timeout=_PATIENCE_SECONDS)
            response = answered(answer, domain.trust_domain)
        return await asyncio.to_thread(Schema.parse, response.file_descriptor_set, digest)

    def _keep(self, schema: Schema) -> None:
        if schema.sha256 not in self._kept:
            self._kept[schema.sha256] = schema
            self._kept_bytes += len(schema.data)
        while self._kept_bytes > _KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped.data)


def _unknown(digest: bytes) -> NotFound:
    return NotFound(f"no domain knows the schema {digest.hex()}, or you may not discover its products")
