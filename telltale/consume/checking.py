"""Checks what a frame brings: each batch's bytes, signature and schema. Runs in a thread; knows no stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Delivery, Header, Position, SealedBatch, SealedFrame
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.contract.product import Contract
from telltale.contract.schema import Schema
from telltale.errors import BatchRefused, InvalidInput, Unavailable
from telltale.seal.parts import Parts
from telltale.seal.sealing import sha256
from telltale.seal.verify import Verifier, check_owner, open_header

# Of a frame, which has at most 8 MiB: more than so many real ones do not fit, and empty ones would become
# thousands of times as many objects.
MAX_BATCHES = 32_768
MAX_CERTIFICATES = 32_768
# Offsets that SQLite and every consumer's integers hold.
_LARGEST_OFFSET = (1 << 63) - 1


@dataclass(frozen=True)
class Checked:
    """A batch whose signature was checked."""

    batch: SealedBatch
    header: Header
    position: Position
    received_time: datetime
    refused: BatchRefused | None
    signed: bool

    @property
    def size(self) -> int:
        """Bytes of the batch, told without copying it."""
        return self.batch.ByteSize()


def check_frame(
    frame: SealedFrame, verifier: Verifier, products: Sequence[str], now: datetime
) -> list[Checked]:
    """Verifies every batch of a frame, in order; raises Unavailable when the frame has too many parts."""
    if len(frame.batches) > MAX_BATCHES or len(frame.certificates) > MAX_CERTIFICATES:
        raise Unavailable(
            f"the gateway sent a frame of {len(frame.batches)} batches and {len(frame.certificates)} "
            f"certificates; at most {MAX_BATCHES} and {MAX_CERTIFICATES} are read"
        )
    verifier.learn(frame.certificates)
    return [_check(batch, verifier, tuple(products), now) for batch in frame.batches]


def check_schema(header: Header, schema: Schema, mesh: str, open_products: tuple[str, ...]) -> Contract:
    """The contract that the batch was encoded with; raises BatchRefused when the source may not use it."""
    try:
        contract = schema.contract(header.product)
        owner = naming.owner_of(contract.name)
        if any(naming.owner_of(other.name) != owner for other in schema.contracts()):
            # What is kept of it is counted for one domain.
            raise InvalidInput(f"the schema of {contract.name} describes products of other domains too")
        # The promise is signed by the source itself; only with the consumer's own word does it open anything.
        opened = contract.options.open_to_all_trust_domains and naming.matches(header.product, open_products)
        check_owner(header, open_to_all=opened, mesh=mesh)
    except InvalidInput as wrong:
        raise BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, str(wrong)) from None
    return contract


def _check(batch: SealedBatch, verifier: Verifier, products: tuple[str, ...], now: datetime) -> Checked:
    header, position, received_time = Header(), Position(), now
    signed = False
    refused: BatchRefused | None = None
    parts = Parts.of(batch)
    try:
        header = open_header(parts)
        position, received_time = _delivery(batch, header.product)
        if not naming.matches(header.product, products):
            raise BatchRefused(
                RefusalReason.REFUSAL_REASON_MALFORMED, f"{header.product} was not subscribed to"
            )
        verifier.verify(parts, now)
        signed = True
    except BatchRefused as wrong:
        refused = wrong
        # Said only of what holds in every other way: it has its place in the chain.
        signed = wrong.reason == RefusalReason.REFUSAL_REASON_DISTRUSTED
    return Checked(batch, header, position, received_time, refused, signed)


def _delivery(batch: SealedBatch, product: str) -> tuple[Position, datetime]:
    try:
        delivery = Delivery.FromString(batch.delivery)
        received_time = delivery.received_time.ToDatetime(tzinfo=UTC)
    except (DecodeError, ValueError, OverflowError):
        raise BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, "its delivery does not parse") from None
    if not delivery.log or not 0 < delivery.offset <= _LARGEST_OFFSET:
        raise BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, "its delivery names no position")
    return Position(product=product, log=delivery.log, offset=delivery.offset), received_time


def header_digest(checked: Checked) -> bytes:
    """What the next batch of the chain calls its predecessor."""
    return sha256(checked.batch.header)
