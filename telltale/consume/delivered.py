"""What a subscription yields: batches with the verdict on each, and the gaps between them."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from telltale.api.mesh.v1.batch_pb2 import Gap, Header, Position, SealedBatch
from telltale.contract.product import Contract
from telltale.contract.schema import Schema
from telltale.errors import BatchRefused
from telltale.seal.chain import Link, Range


@dataclass(frozen=True)
class Delivered:
    """One batch, after everything about it has been checked that needs no record decoded."""

    product: str
    # Empty when its bytes do not parse; then `refused` says so.
    header: Header
    header_sha256: bytes
    batch: SealedBatch
    # Where the consumer's cursor stands once it has dealt with this batch.
    position: Position
    received_time: datetime
    # None when the batch is refused before its schema mattered.
    schema: Schema | None
    contract: Contract | None
    # Why it does not hold. A refused batch belongs into quarantine.
    refused: BatchRefused | None
    # Whether the source's signature over header and payload holds, whatever else is wrong.
    signed: bool
    # What the batch is to its chain, and the sequences before it that are missing and not declared as lost.
    link: Link = Link.NEXT
    missing: tuple[Range, ...] = ()
    # Whether a gap was announced since the batch before in its chain, so that missing ones are no finding.
    after_gap: bool = False


@dataclass(frozen=True)
class Missing:
    """Something of a product that can no longer be had. What follows of the product continues after it."""

    gap: Gap

    @property
    def product(self) -> str:
        return self.gap.product


Item: TypeAlias = Delivered | Missing
