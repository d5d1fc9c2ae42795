"""The products of a domain: their present contracts, and every schema version that is still in use."""

import asyncio
import time

from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.contract.classified import left_behind
from telltale.contract.image import Image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import Schema, incompatibilities
from telltale.domain.log import ProductLog
from telltale.errors import InvalidInput, LimitExceeded, NotFound, Precondition
from telltale.naming import SpiffeId

# Versions of contracts that one domain keeps: years of releases of dozens of products.
_MAX_SCHEMAS = 2_000
# Those of them that one source has brought since the service started: a few releases of all its products.
_MAX_BROUGHT = 100
# A schema that nobody has asked for or used for so long is not on its way to be used.
_UNUSED_SECONDS = 24 * 3600.0
# Schemas that one retention step looks at, so that appends wait only briefly.
_PRUNED_AT_ONCE = 100


class Products:
    """What a domain offers. Schemas are kept in the log and outlive the version that made them."""

    def __init__(self, image: Image, log: ProductLog) -> None:
        self.image = image
        self._log = log
        self.contracts = {contract.name: contract for contract in contracts_in(image)}
        # Fields that batches of earlier versions hold and the present contract no longer names, by product.
        self.former: dict[str, dict[str, Classification]] = {name: {} for name in self.contracts}
        self._schemas: dict[bytes, Schema] = {}
        # When each was last asked for, on the monotonic clock.
        self._asked: dict[bytes, float] = {}
        self._brought: dict[bytes, SpiffeId] = {}
        # Those of the present contracts, which stay.
        self._own: set[bytes] = set()
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Reads the schemas that the log holds and adds those of the present contracts, whatever it holds."""
        for data in await self._log.schemas():
            self._know(await asyncio.to_thread(Schema.parse, data))
        for contract in self.contracts.values():
            own = Schema.of(self.image, contract)
            await self._keep(own)
            self._own.add(own.sha256)

    def contract(self, product: str) -> Contract:
        try:
            return self.contracts[product]
        except KeyError:
            raise NotFound(f"{product} is no product of this domain") from None

    def schema(self, sha256: bytes) -> Schema:
        try:
            schema = self._schemas[sha256]
        except KeyError:
            raise NotFound(f"no schema {sha256.hex()} is registered here") from None
        self._asked[sha256] = time.monotonic()
        return schema

    def knows(self, sha256: bytes) -> bool:
        known = sha256 in self._schemas
        if known:
            self._asked[sha256] = time.monotonic()
        return known

    async def prune(self) -> list[bytes]:
        """Forgets schemas that no kept batch needs and nobody has asked for; returns their digests.

        Whoever needs one registers it again. Fields that only they had stay masked until the next start.
        """
        async with self._lock:
            before = time.monotonic() - _UNUSED_SECONDS
            unused = [one for one, asked in self._asked.items() if asked < before and one not in self._own]
            gone = await self._log.forget_schemas(unused[:_PRUNED_AT_ONCE])
            for one in gone:
                del self._schemas[one], self._asked[one]
                self._brought.pop(one, None)
            # Those that are needed are looked at again later, and do not keep others from their turn.
            for one in set(unused[:_PRUNED_AT_ONCE]) - set(gone):
                self._asked[one] = time.monotonic()
            return gone

    async def register(self, schema: Schema, source: SpiffeId) -> None:
        """Keeps a source's schema; raises Precondition unless this domain's own contracts grew out of it, and
        LimitExceeded when there is no room for it.

        The owner decides what a product is: a source that runs ahead of its domain service waits for it.
        """
        async with self._lock:
            if schema.sha256 in self._schemas:
                return
            if len(self._schemas) >= _MAX_SCHEMAS:
                raise LimitExceeded("schemas", f"this domain keeps {_MAX_SCHEMAS} schemas and has them all")
            if list(self._brought.values()).count(source) >= _MAX_BROUGHT:
                raise LimitExceeded("schemas", f"{source} has brought {_MAX_BROUGHT} schemas already")
            for contract in schema.contracts():
                self._check(contract)
            await self._keep(schema)
            self._brought[schema.sha256] = source

    async def _keep(self, schema: Schema) -> None:
        await self._log.add_schema(schema.data)
        self._know(schema)

    def _know(self, schema: Schema) -> None:
        self._schemas[schema.sha256] = schema
        self._asked[schema.sha256] = time.monotonic()
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
