"""Candidates for a product log, and a process that appends them until it is killed.

`python -m tests.support.log_chain FILE` prints the sequence of each batch once it is durable.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch, Snapshot
from telltale.domain.inventory import Change
from telltale.domain.log import Candidate, ProductLog
from telltale.seal.sealing import sha256

PRODUCT = "servers.inventory"
SOURCE = "spiffe://servers.telltale.test/agent/web1"
SCHEMA = b"what batches are encoded with"


class Chain:
    """Candidates of one chain, without signatures: the log does not look at them."""

    def __init__(self, source: str = SOURCE, product: str = PRODUCT, epoch: int = 1) -> None:
        self.source, self.product, self.epoch = source, product, epoch
        self.sequence, self.previous = 0, b""
        self.schema, self.signer = SCHEMA, (b"leaf", b"issuer")

    def next(
        self,
        change: Change | None = None,
        snapshot: Snapshot | None = None,
        skip: int = 0,
        sealed: int = 0,
        payload: bytes = b"payload",
    ) -> Candidate:
        self.sequence += 1 + skip
        header = Header(
            product=self.product,
            source=self.source,
            epoch=self.epoch,
            sequence=self.sequence,
            previous_header_sha256=self.previous,
            snapshot=snapshot,
            schema_sha256=sha256(self.schema),
        )
        header.sealed_time.FromSeconds(sealed)
        encoded = header.SerializeToString()
        self.previous = sha256(encoded)
        batch = SealedBatch(header=encoded, payload=payload).SerializeToString()
        return Candidate(header, self.previous, batch, self.signer, change)


@asynccontextmanager
async def chain_log(path: Path) -> AsyncIterator[ProductLog]:
    """A log that knows the schema of these batches, as a domain service registers it before it takes any."""
    async with ProductLog(path) as log:
        await log.add_schema(SCHEMA)
        yield log


async def everything(log: ProductLog, product: str) -> dict[int, bytes]:
    """All whole batches by offset, as they are delivered but for the log's id and the time."""
    found: dict[int, bytes] = {}
    while entries := await log.after(product, max(found, default=0), 1 << 20):
        found |= {entry.offset: entry.batch.split(log.id.encode())[0] for entry in entries}
    return found


async def _append_for_ever(path: Path) -> None:
    async with chain_log(path) as log:
        watching = asyncio.create_task(log.watch())
        chain = Chain(product="servers.disk_usage")
        for head in await log.heads(SOURCE):
            chain.sequence, chain.previous = head.sequence, head.header_sha256
        while not watching.done():
            one = chain.next(payload=b"x" * 3_000)
            assert await log.append([one]) == [None]
            print(one.header.sequence, flush=True)


if __name__ == "__main__":
    asyncio.run(_append_for_ever(Path(sys.argv[1])))
