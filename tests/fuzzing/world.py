"""What is good: a mesh, what its sources seal, and what its domains say. Made once a process."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from google.protobuf.message import Message

from telltale.api.mesh.v1.batch_pb2 import (
    Delivery,
    Gap,
    GapReason,
    Hole,
    HoleReason,
    Loss,
    LossReason,
    Position,
    SealedBatch,
    SealedFrame,
    Snapshot,
    Sync,
)
from telltale.api.mesh.v1.ingest_pb2 import PushRequest
from telltale.contract.schema import message_class
from telltale.identity.credentials import Credentials
from tests.support.batches import CONTRACTS, DISK_USAGE, INVENTORY, Chain, disk_usage, host
from tests.support.domain import DOMAINS
from tests.support.mesh import Mesh


@cache
def mesh() -> Mesh:
    return Mesh.create(Path(mkdtemp(prefix="telltale-fuzz-")), "servers", "platform", "operators")


@cache
def credentials() -> Credentials:
    return mesh().credentials("servers", "/agent/web1")


@cache
def batches(product: str) -> tuple[SealedBatch, ...]:
    """A chain with everything that a header can say."""
    chain = Chain(credentials(), product)
    made = host if product == INVENTORY else disk_usage
    records = [made(f"/mnt/{number}") for number in range(3)]
    removed = [made("/gone")] if product == INVENTORY else []
    snapshot = Snapshot(id="s", end=True) if product == INVENTORY else None
    hole = Hole(first_sequence=1, last_sequence=1, records=7, reason=HoleReason.HOLE_REASON_SHED)
    loss = Loss(records=3, reason=LossReason.LOSS_REASON_METHOD, detail="missed")
    now = datetime.now(UTC)
    return (
        chain.next(records[:1]),
        chain.next(records, removed=removed, snapshot=snapshot),
        chain.next(holes=[hole], losses=[loss]),
        chain.next(records, sealed_at=now, replay_run="run"),
    )


def delivered(batch: SealedBatch, offset: int) -> SealedBatch:
    delivery = Delivery(log="log", offset=offset)
    delivery.received_time.GetCurrentTime()
    return SealedBatch(
        header=batch.header,
        signature=batch.signature,
        payload=batch.payload,
        delivery=delivery.SerializeToString(),
    )


@cache
def frames() -> tuple[bytes, ...]:
    """Frames of disk usage, of every kind."""
    sent = [delivered(batch, offset) for offset, batch in enumerate(batches(DISK_USAGE), 1)]
    position = Position(product=DISK_USAGE, log="log", offset=4)
    gap = Gap(reason=GapReason.GAP_REASON_RETENTION, product=DISK_USAGE, log="log", resumed=position)
    certificates = credentials().certificates
    return (
        SealedFrame(batches=sent, certificates=certificates).SerializeToString(),
        SealedFrame(batches=sent[:1], certificates=certificates, gap=gap).SerializeToString(),
        SealedFrame(sync=Sync(position=position)).SerializeToString(),
        SealedFrame(batches=sent[:1]).SerializeToString() + SealedFrame(batches=sent[1:]).SerializeToString(),
    )


@cache
def pushes() -> tuple[bytes, ...]:
    """What a source pushes."""
    certificates = credentials().certificates
    return (
        PushRequest(batches=batches(DISK_USAGE), certificates=certificates).SerializeToString(),
        PushRequest(batches=batches(INVENTORY)[:2], certificates=certificates).SerializeToString(),
        PushRequest(batches=batches(DISK_USAGE)[:1]).SerializeToString(),
    )


def records_class(product: str) -> type[Message]:
    """The class of a product's payload."""
    return message_class(CONTRACTS[product].records)


def domains() -> Mesh:
    """A mesh for servers that run."""
    return Mesh.create(Path(mkdtemp(prefix="telltale-fuzz-")), *DOMAINS)
