"""What an operator asks the gateway: catalog, contracts by reflection, inventories. It names no product."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from telltale.api.mesh.v1 import access_pb2, access_pb2_grpc, catalog_pb2, catalog_pb2_grpc, stream_pb2
from telltale.cli.enrolment import audiences
from telltale.cli.home import Home, Mesh
from telltale.cli.logins import acting
from telltale.contract.image import Image
from telltale.contract.product import Contract, contract_of
from telltale.contract.reflection import pull
from telltale.contract.schema import message_class
from telltale.errors import InvalidInput, NotFound, TelltaleError, Unavailable
from telltale.identity.workload import Workload
from telltale.naming import PLATFORM, server_name, trust_domain
from telltale.rpc.client import call_metadata, status_error

_TIMEOUT = 10.0
_PAGE = 1000


class Operator:
    """An operator's view of the mesh: what the gateway shows to this identity."""

    def __init__(self, me: Workload, mesh: Mesh, channel: grpc.aio.Channel) -> None:
        self.me = me
        self.mesh = mesh
        self._channel = channel
        self._catalog = catalog_pb2_grpc.CatalogStub(channel)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """For a call that the gateway may pass on to any domain."""
        return await call_metadata(self.me, *audiences(self.me))

    async def catalog(self, *patterns: str) -> list[catalog_pb2.CatalogEntry]:
        """The products that this operator may discover, by name."""
        request = catalog_pb2.ListProductsRequest(products=patterns)
        try:
            response = await self._catalog.ListProducts(
                request, metadata=await self.metadata(), timeout=_TIMEOUT
            )
        except grpc.aio.AioRpcError as failed:
            raise translated(failed, self.mesh) from failed
        return sorted(response.entries, key=lambda entry: entry.product.name)

    async def entry(self, product: str) -> catalog_pb2.CatalogEntry:
        """One product; raises NotFound with what is there instead."""
        entries = await self.catalog()
        for entry in entries:
            if entry.product.name == product:
                return entry
        known = ", ".join(entry.product.name for entry in entries) or "none yet"
        raise NotFound(f"there is no product {product[:200]!r}; the mesh has: {known}")

    async def contract(self, product: str) -> tuple[Image, Contract]:
        """A product's contract, from the descriptors that the gateway reflects."""
        entry = await self.entry(product)
        image = await self.image()
        try:
            return image, contract_of(image, entry.service)
        except InvalidInput as wrong:
            raise Unavailable(f"the gateway does not describe {product} as it should: {wrong}") from wrong

    async def image(self) -> Image:
        """The descriptors of every product that this operator may discover."""
        try:
            files = await pull(self._channel, await self.metadata())
        except grpc.aio.AioRpcError as failed:
            raise translated(failed, self.mesh) from failed
        return Image.of_files(files.values())

    async def policy(self, trust_domain: str) -> str:
        """The rules that a domain decides by."""
        stub = access_pb2_grpc.AccessStub(self._channel)
        request = access_pb2.DescribePolicyRequest(trust_domain=trust_domain)
        try:
            answer: access_pb2.DescribePolicyResponse = await stub.DescribePolicy(
                request, metadata=await self.metadata(), timeout=_TIMEOUT
            )
        except grpc.aio.AioRpcError as failed:
            raise translated(failed, self.mesh) from failed
        return answer.policy

    async def listed(self, contract: Contract, condition: str) -> AsyncIterator[tuple[Any, tuple[str, ...]]]:
        """The entries of an inventory, page by page, each with the names of fields that are masked in it."""
        if contract.listing is None:
            raise InvalidInput(f"{contract.name} is no inventory; use `telltale tail {contract.name}`")
        method = self._channel.unary_unary(
            f"/{contract.service}/List",
            request_serializer=stream_pb2.ListRequest.SerializeToString,
            response_deserializer=message_class(contract.listing).FromString,
        )
        token = ""
        while True:
            request = stream_pb2.ListRequest(filter=condition, page_size=_PAGE, page_token=token)
            try:
                page = await method(request, metadata=await self.metadata(), timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as failed:
                raise translated(failed, self.mesh) from failed
            # Owners that know no masking have no such field.
            masked = tuple(getattr(page, "masked_fields", ()))
            for entry in page.entries:
                yield entry, masked
            token = page.next_page_token
            if not token:
                return


@asynccontextmanager
async def operator(home: Home, name: str | None = None) -> AsyncIterator[Operator]:
    """Connects to the gateway: as the person who has logged in here, or as an operator of this machine."""
    async with acting(home, name) as (mesh, me):
        gateway = server_name("gateway", trust_domain(PLATFORM, mesh.name))
        async with me.channel(mesh.gateway, gateway) as channel:
            yield Operator(me, mesh, channel)


def translated(failed: grpc.aio.AioRpcError, mesh: Mesh) -> TelltaleError:
    """What a failed call to the gateway means to the one at the terminal."""
    if failed.code() is grpc.StatusCode.UNAVAILABLE and not failed.trailing_metadata():
        return Unavailable(
            f"the gateway at {mesh.gateway} does not answer; see `telltale status` and the logs of the mesh"
        )
    return status_error(failed)
