"""Whatever bytes come for a batch: from its source, through the gateway, to its consumer."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from google.protobuf.message import DecodeError

from gateway.frames import Batch, FrameReader, FrameWriter, Missing, Reached, mark_frame
from telltale.api.mesh.v1.batch_pb2 import Delivery, Header, SealedBatch, SealedFrame
from telltale.api.mesh.v1.ingest_pb2 import PushRequest
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame
from telltale.consume.chains import Chains
from telltale.consume.checking import check_frame
from telltale.domain.access import Access
from telltale.domain.examiner import Examiner
from telltale.domain.ingest import parse
from telltale.domain.log import Candidate, ProductLog
from telltale.domain.payload import open_payload
from telltale.domain.policy import Policy
from telltale.domain.products import Products
from telltale.identity.distrust import Distrust
from telltale.seal.chain import missing_before
from telltale.seal.sealing import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, MAX_RECORDS, sha256
from telltale.seal.verify import Verifier, open_header
from telltale.wire import has_more_fields
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, run, shares
from tests.support.auditing import Recorded
from tests.support.batches import CONTRACTS, DISK_USAGE, INVENTORY, SERVERS
from tests.support.domain import ROOT


def sealed(batch: SealedBatch) -> tuple[bytes, bytes, bytes]:
    return batch.header, batch.signature, batch.payload


@cache
def good() -> frozenset[tuple[bytes, bytes, bytes]]:
    """Everything that the source has signed."""
    return frozenset(sealed(batch) for product in (DISK_USAGE, INVENTORY) for batch in world.batches(product))


def headers() -> list[bytes]:
    return [SealedBatch(header=one.header).SerializeToString() for one in world.batches(DISK_USAGE)]


def a_header(data: bytes) -> Header:
    """What it says can be stored, printed and compared without another look."""
    batch = SealedBatch.FromString(data)
    header = open_header(batch)
    assert len(batch.header) <= MAX_HEADER_BYTES and len(batch.payload) <= MAX_PAYLOAD_BYTES
    assert header.record_count <= MAX_RECORDS
    assert 0 < header.epoch < 1 << 63 and 0 < header.sequence < 1 << 63
    assert {len(header.payload_sha256), len(header.schema_sha256), len(header.signer_sha256)} == {32}
    assert header.sealed_time.ToDatetime(UTC).isoformat()
    # As many ranges as it declares holes, and one more: however far apart their ends are.
    place = Chains()
    place.place(Header(product=header.product, source=header.source, epoch=header.epoch, sequence=1), b"")
    assert len(place.place(header, sha256(batch.header)).missing) <= len(header.holes) + 1
    assert missing_before(None, header) == ()
    return header


@cache
def products() -> Products:
    async def load() -> Products:
        async with ProductLog(Path(mkdtemp(prefix="telltale-fuzz-"), "log.db"), Distrust()) as log:
            found = Products(SERVERS, log)
            await found.load()
            return found

    return asyncio.run(load())


@cache
def examiner() -> tuple[Examiner, Recorded]:
    policy = Policy.load(ROOT / "services/servers/policy.cedar")
    recorded = Recorded()
    access = Access(policy, products(), world.mesh().name, recorded)
    return Examiner(products(), access, Verifier(world.mesh().trust)), recorded


def a_push(data: bytes) -> bool:
    """What is taken of it is what the source has signed, byte for byte."""
    request = parse(data)
    known, recorded = examiner()
    recorded.decisions.clear()
    examined = known.examine(world.credentials().spiffe_id, request, {})
    assert len(examined) == len(request.batches)
    taken = [one for one in examined if isinstance(one, Candidate) and one.refused is None]
    assert {sealed(SealedBatch.FromString(one.batch)) for one in taken} <= good()
    for one in taken:
        # What rode along is gone: typed readers see what was verified.
        typed = DiskUsageFrame.Batch.FromString(one.batch)
        assert typed.payload.SerializeToString() == SealedBatch.FromString(one.batch).payload
    return bool(taken)


def a_frame_of_an_owner(data: bytes) -> bool:
    """The gateway's frames hold what protobuf reads in the owner's, batch by batch."""
    items = list(FrameReader(DISK_USAGE).read(data))
    batches = [item for item in items if isinstance(item, Batch)]
    said = SealedFrame.FromString(data)
    assert [item for item in items if isinstance(item, Missing)] == (
        [Missing(said.gap)] if said.HasField("gap") else []
    )
    marks = [mark_frame(DISK_USAGE, item) for item in items if isinstance(item, Reached)]
    assert len(marks) == said.HasField("sync")
    again = SealedFrame.FromString(FrameWriter().frame(batches))
    assert list(again.batches) == list(said.batches)
    assert set(again.certificates) <= set(said.certificates)
    for batch, one in zip(batches, said.batches, strict=True):
        delivery = Delivery.FromString(one.delivery)
        assert (batch.log, batch.offset) == (delivery.log, delivery.offset)
        assert batch.records == Header.FromString(one.header).record_count
        assert 0 <= batch.event_time <= batch.received_time < 1 << 68
    return bool(items)


@cache
def verifier() -> Verifier:
    return Verifier(world.mesh().trust)


def a_frame_of_the_gateway(data: bytes) -> bool:
    """A consumer believes what the source has signed, byte for byte, and nothing else."""
    checked = check_frame(SealedFrame.FromString(data), verifier(), ["servers.*"], datetime.now(UTC))
    for one in checked:
        assert one.signed == (one.refused is None)
        assert not one.signed or sealed(one.batch) in good()
        assert not one.signed or 0 < one.position.offset < 1 << 63
    return all(one.signed for one in checked)


def counted(data: bytes) -> bool:
    """Parts are counted without a parser, and never fewer than it finds."""
    request = PushRequest.FromString(data)
    parts = len(request.batches) + len(request.certificates)
    assert not parts or has_more_fields(data, parts - 1)
    request.DiscardUnknownFields()
    if request.SerializeToString() == data:
        assert not has_more_fields(data, parts)
    return True


def payloads() -> list[bytes]:
    return [
        batch.payload for batch in (*world.batches(DISK_USAGE), *world.batches(INVENTORY)) if batch.payload
    ]


def a_payload(data: bytes) -> bool:
    """Records of an inventory have keys that are read again as what they were."""
    contract = CONTRACTS[INVENTORY]
    typed: Any = world.records_class(INVENTORY).FromString(data)
    change = open_payload(contract, Header(record_count=len(typed.records) + len(typed.removed)), data)
    assert change is not None
    assert len(change.upserts) <= len(typed.records) and len(change.removed) == len(typed.removed)
    return True


PARSING = (DecodeError,)


@shares(
    Target("header", 90_000, headers, a_header, refusals=PARSING),
    Target("push request", 60_000, world.pushes, a_push, refusals=PARSING),
    Target("parts of a message", 60_000, world.pushes, counted, refusals=PARSING),
    Target("frame of an owner", 120_000, world.frames, a_frame_of_an_owner),
    Target("frame of the gateway", 60_000, world.frames, a_frame_of_the_gateway, refusals=PARSING),
    Target("payload of an inventory", 60_000, payloads, a_payload, refusals=PARSING),
)
def test_bytes_for_a_batch_are_what_was_signed_or_are_refused(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    run(share, record_property)
