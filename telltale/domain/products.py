"""The products of a domain: their present contracts, and every schema version that is still in use."""

import asyncio

from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.contract.classified import left_behind
from telltale.contract.image import Image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import Schema, incompatibilities
from telltale.domain.log import ProductLog
from telltale.errors import InvalidInput, LimitExceeded, NotFound, Precondition

# Versions of contracts that one domain keeps: years of releases of dozens of products.
_MAX_SCHEMAS = 2_000


class Products:
    """What a domain offers. Schemas are kept in the log and outlive the version that made them."""

    def __init__(self, image: Image, log: ProductLog) -> None:
        self.image = image
        self._log = log
        self.contracts = {contract.name: contract for contract in contracts_in(image)}
        # Fields that batches of earlier versions hold and the present contract no longer names, by product.
        self.former: dict[str, dict[str, Classification]] = {name: {} for name in self.contracts}
        self._schemas: dict[bytes, Schema] = {}
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Reads the schemas that the log holds and adds those of the present contracts, whatever it holds."""
        for data in await self._log.schemas():
            self._know(await asyncio.to_thread(Schema.parse, data))
        for contract in self.contracts.values():
            await self._keep(Schema.of(self.image, contract))

    def contract(self, product: str) -> Contract:
        try:
            return self.contracts[product]
        except KeyError:
            raise NotFound(f"{product} is no product of this domain") from None

    def schema(self, sha256: bytes) -> Schema:
        try:
            return self._schemas[sha256]
        except KeyError:
            raise NotFound(f"no schema {sha256.hex()} is registered here") from None

    def knows(self, sha256: bytes) -> bool:
        return sha256 in self._schemas

    async def register(self, schema: Schema) -> None:
        """Keeps a source's schema; raises Precondition unless this domain's own contracts grew out of it.

        The owner decides what a product is: a source that runs ahead of its domain service waits for it.
        """
        async with self._lock:
            if schema.sha256 in self._schemas:
                return
            if len(self._schemas) >= _MAX_SCHEMAS:
                raise LimitExceeded("schemas", f"this domain keeps {_MAX_SCHEMAS} schemas and has them all")
            for contract in schema.contracts():
                self._check(contract)
            await self._keep(schema)

    async def _keep(self, schema: Schema) -> None:
        await self._log.add_schema(schema.data)
        self._know(schema)

    def _know(self, schema: Schema) -> None:
        self._schemas[schema.sha256] = schema
        for old in schema.contracts():
            present = self.contracts.get(old.name)
            if present is not None:
                former = self.former[old.name]
                for field, classification in left_behind(old.record, present.record).items():
                    former[field] = max(classification, former.get(field, classification))

    def _check(self, offered: Contract) -> None:
        present = self.contracts.get(offered.name)
        if present is None:
            raise InvalidInput(f"{offered.name} is no product of this domain; ask its owner to add it")
        problems = incompatibilities(offered, present)
        if problems:
            raise Precondition(
                f"the schema of {offered.name} is no earlier version of this domain's own:"
                f" {'; '.join(problems[:5])}; upgrade the domain service before its sources"
            )
