"""Serves the domain's schemas by digest, and takes new ones from those who may push."""

import asyncio
from typing import Any

from grpc import aio

from telltale.api.mesh.v1.schemas_pb2 import (
    GetSchemaRequest,
    GetSchemaResponse,
    RegisterSchemaRequest,
    RegisterSchemaResponse,
)
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasServicer
from telltale.contract.schema import Schema
from telltale.domain.access import Access, asking
from telltale.domain.products import Products
from telltale.seal.sealing import sha256


class SchemasService(SchemasServicer):
    """Serves `Schemas`."""

    def __init__(self, products: Products, access: Access) -> None:
        self._products = products
        self._access = access

    async def Register(
        self, request: RegisterSchemaRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> RegisterSchemaResponse:
        """Needs `push` on a product that the schema describes."""
        who = asking()
        # Before anything of a stranger's is parsed.
        self._access.require_any(who, "push")
        digest = sha256(request.file_descriptor_set)
        if self._products.knows(digest):
            # A whole fleet of one older version brings the same one. Compiled each time, it alone would keep
            # out a fleet that reconnects at once.
            self._require(self._products.schema(digest), "push")
            return RegisterSchemaResponse(sha256=digest)
        # Compiling a stranger's descriptors takes its time: not on the loop.
        schema = await asyncio.to_thread(Schema.parse, request.file_descriptor_set)
        self._require(schema, "push")
        await self._products.register(schema, who.spiffe_id)
        return RegisterSchemaResponse(sha256=schema.sha256)

    async def Get(
        self, request: GetSchemaRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> GetSchemaResponse:
        """Needs `discover` on a product that the schema describes."""
        schema = self._products.schema(request.sha256)
        self._require(schema, "discover")
        return GetSchemaResponse(file_descriptor_set=schema.data)

    def _require(self, schema: Schema, action: str) -> None:
        self._access.require_one_of(action, {contract.name for contract in schema.contracts()})
