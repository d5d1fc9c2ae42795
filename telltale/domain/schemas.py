"""Serves the domain's schemas by digest, and takes new ones from those who may push."""

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
from telltale.domain.access import Access
from telltale.domain.products import Products
from telltale.errors import PermissionMissing
from telltale.rpc.auth import caller


class SchemasService(SchemasServicer):
    """Serves `Schemas`."""

    def __init__(self, products: Products, access: Access) -> None:
        self._products = products
        self._access = access

    async def Register(
        self, request: RegisterSchemaRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> RegisterSchemaResponse:
        """Needs `push` on a product that the schema describes."""
        who = caller()
        # Before anything of a stranger's is parsed.
        self._access.require_any(who.principal, "push")
        schema = Schema.parse(request.file_descriptor_set)
        self._require(schema, "push")
        await self._products.register(request.file_descriptor_set)
        return RegisterSchemaResponse(sha256=schema.sha256)

    async def Get(
        self, request: GetSchemaRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> GetSchemaResponse:
        """Needs `discover` on a product that the schema describes."""
        schema = self._products.schema(request.sha256)
        self._require(schema, "discover")
        return GetSchemaResponse(file_descriptor_set=schema.data)

    def _require(self, schema: Schema, action: str) -> None:
        principal = caller().principal
        names = {contract.name for contract in schema.contracts()}
        if not names & self._access.permitted(principal, action):
            raise PermissionMissing(str(principal), action, ", ".join(sorted(names)))
