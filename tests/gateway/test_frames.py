"""Frames taken apart and put together: places, certificates, and owners that break the format."""

import dataclasses
import resource
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway import frames
from gateway.frames import Batch, FrameReader, FrameWriter, Reached
from gateway.ring import Ring
from telltale import wire
from telltale.api.mesh.v1.batch_pb2 import Delivery, Gap, Header, Position, SealedBatch, SealedFrame, Sync
from telltale.errors import LimitExceeded, Unavailable
from telltale.identity.credentials import Credentials
from tests.support.batches import DISK_USAGE, Chain, disk_usage
from tests.support.mesh import Mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh.create(tmp_path_factory.mktemp("mesh"), "servers", "network")


def delivered(batch: SealedBatch, offset: int) -> SealedBatch:
    batch.delivery = Delivery(log="log", offset=offset).SerializeToString()
    return batch


def frame(*batches: SealedBatch, certificates: tuple[bytes, ...] = ()) -> bytes:
    return SealedFrame(batches=batches, certificates=certificates).SerializeToString()


def sealed(credentials: Credentials, count: int, first: int = 1) -> list[SealedBatch]:
    chain = Chain(credentials)
    return [delivered(chain.next([disk_usage("/")]), first + number) for number in range(count)]


def batches(items: object) -> list[Batch]:
    return [item for item in items if isinstance(item, Batch)]  # type: ignore[attr-defined]


def test_what_is_put_together_is_what_was_taken_apart(mesh: Mesh) -> None:
    web = mesh.credentials("servers", "/agent/web1")
    sent = sealed(web, 3)
    data = frame(*sent, certificates=web.certificates)
    found = batches(FrameReader(DISK_USAGE).read(data))
    assert [batch.offset for batch in found] == [1, 2, 3]
    again = SealedFrame.FromString(FrameWriter().frame(found))
    assert list(again.batches) == sent


def test_each_stream_gets_a_signers_certificates_once_and_before_its_first_batch(mesh: Mesh) -> None:
    web, db = mesh.credentials("servers", "/agent/web1"), mesh.credentials("servers", "/agent/db1")
    reader = FrameReader(DISK_USAGE)
    first = batches(reader.read(frame(*sealed(web, 2), certificates=web.certificates)))
    # The issuer is on the stream already, so the owner sends the other leaf alone.
    second = batches(reader.read(frame(*sealed(db, 2, 3), certificates=db.certificates[:1])))
    writer = FrameWriter()
    assert set(SealedFrame.FromString(writer.frame(second)).certificates) == set(db.certificates)
    assert list(SealedFrame.FromString(writer.frame(first)).certificates) == [web.certificates[0]]
    assert list(SealedFrame.FromString(writer.frame([*first, *second])).certificates) == []


def test_another_products_batch_is_no_frame_of_this_one(mesh: Mesh) -> None:
    web = mesh.credentials("servers", "/agent/web1")
    with pytest.raises(Unavailable, match="of another product"):
        list(FrameReader("servers.memory").read(frame(*sealed(web, 1))))


def test_a_batch_without_a_place_is_refused(mesh: Mesh) -> None:
    batch = Chain(mesh.credentials("servers", "/agent/web1")).next([disk_usage("/")])
    with pytest.raises(Unavailable, match="without a place"):
        list(FrameReader(DISK_USAGE).read(frame(batch)))


HUGE = "x" * 5_000
OVERSIZED_BATCH = SealedBatch(
    header=Header(product=DISK_USAGE).SerializeToString(),
    payload=bytes(5 << 20),
    delivery=Delivery(log="log", offset=1).SerializeToString(),
)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        frame(certificates=(b"no certificate",)),
        frame(certificates=(bytes(100_000),)),
        frame(OVERSIZED_BATCH),
        SealedFrame(gap=Gap(log=HUGE)).SerializeToString(),
        SealedFrame(sync=Sync(position=Position(log=HUGE))).SerializeToString(),
        SealedFrame(sync=Sync()).SerializeToString(),
    ],
)
def test_what_is_no_frame_ends_the_stream_and_not_the_gateway(data: bytes) -> None:
    with pytest.raises(Unavailable, match="is not what the contract says"):
        list(FrameReader(DISK_USAGE).read(data))


def test_certificates_without_end_ask_for_a_new_stream(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_CERTIFICATES", 3)
    reader = FrameReader(DISK_USAGE)
    one, other = (mesh.credentials("servers", f"/agent/{name}") for name in ("a", "b"))
    list(reader.read(frame(certificates=(*one.certificates, *one.certificates, other.certificates[0]))))
    third = mesh.credentials("servers", "/agent/c")
    with pytest.raises(LimitExceeded):
        list(reader.read(frame(certificates=third.certificates)))


def test_an_owner_that_piles_up_issuers_makes_no_frame_too_large_for_the_subscribers(mesh: Mesh) -> None:
    web = mesh.credentials("servers", "/agent/web1")
    reader = FrameReader(DISK_USAGE)
    # Each of the same name, so that any of them may have signed the leaf.
    issuers = [_again(web.certificates[1]) for _ in range(50)]
    (one,) = batches(reader.read(frame(*sealed(web, 1), certificates=(web.certificates[0], *issuers))))
    assert len(one.chain) <= 8
    ring = Ring(1 << 20)
    # Another tuple each, as for another signer each.
    ring.extend(
        dataclasses.replace(one, offset=number, chain=(*one.chain,)[:7]) for number in range(1, 1_000)
    )
    piece = ring.piece(0, 50_000)
    assert piece is not None and len(FrameWriter().frame(piece.batches)) < 50_000


def _again(issuer: bytes) -> bytes:
    """A certificate of the same name with another key."""
    name = x509.load_der_x509_certificate(issuer).subject
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_source_with_a_silly_clock_stops_nobody(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")])
    # Header field 7, the last event time: seconds far beyond any calendar.
    header = batch.header + wire.field(7, b"\x08" + wire.varint(1 << 62))
    batch.header = header
    found = batches(FrameReader(DISK_USAGE).read(frame(delivered(batch, 1))))
    assert found[0].event_time == 0


def test_the_mark_at_a_logs_end_is_told(tmp_path: Path) -> None:
    data = SealedFrame()
    data.sync.position.log, data.sync.position.offset = "log", 7
    assert list(FrameReader(DISK_USAGE).read(data.SerializeToString())) == [Reached("log", 7)]


def test_a_frame_of_millions_of_empty_batches_is_refused_before_it_takes_memory() -> None:
    data = b"\x0a\x00" * (4 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unavailable, match="more than 65536 batches and certificates"):
        list(FrameReader(DISK_USAGE).read(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
