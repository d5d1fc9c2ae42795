"""Batches as a subscription delivers them, without a stream: placed in chains, at positions of a log."""

from datetime import UTC, datetime

from telltale.api.mesh.v1.batch_pb2 import Position, SealedBatch
from telltale.consume.chains import Chains
from telltale.consume.delivered import Delivered
from telltale.contract.product import Contract
from telltale.contract.schema import Schema
from telltale.errors import BatchRefused
from telltale.seal.sealing import sha256
from tests.support.batches import CONTRACTS, SCHEMAS, header_of


class Log:
    """Numbers what it delivers; `Log("b")` is another log with positions of its own."""

    def __init__(self, name: str = "a", chains: Chains | None = None) -> None:
        self.name = name
        self.offset = 0
        self.chains = chains or Chains()

    def deliver(
        self,
        batch: SealedBatch,
        *,
        received_time: datetime | None = None,
        contract: Contract | None = None,
        schema: Schema | None = None,
        refused: BatchRefused | None = None,
    ) -> Delivered:
        self.offset += 1
        header = header_of(batch)
        digest = sha256(batch.header)
        place = self.chains.place(header, digest)
        return Delivered(
            product=header.product,
            header=header,
            header_sha256=digest,
            batch=batch,
            position=Position(product=header.product, log=self.name, offset=self.offset),
            received_time=received_time or datetime.now(UTC),
            schema=schema or SCHEMAS[header.product],
            contract=contract or CONTRACTS[header.product],
            refused=refused,
            signed=True,
            link=place.link,
            missing=place.missing,
            after_gap=place.after_gap,
        )
