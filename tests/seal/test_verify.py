"""A batch holds only when its source signed exactly these bytes with a certificate that was valid then."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from telltale.api.mesh.v1.batch_pb2 import Hole, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.errors import BatchRefused
from telltale.seal.sealing import seal
from telltale.seal.verify import Verifier, check_owner
from tests.support.batches import DISK_USAGE, Chain, disk_usage, header_of
from tests.support.mesh import Mesh
from tests.support.words import say, word

NOW = datetime.now(UTC)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers", "platform")


def verifier(mesh: Mesh, chain: Chain) -> Verifier:
    made = Verifier(mesh.trust)
    made.learn(chain.credentials.certificates)
    return made


def refusal(mesh: Mesh, chain: Chain, batch: SealedBatch, now: datetime | None = None) -> RefusalReason:
    with pytest.raises(BatchRefused) as refused:
        verifier(mesh, chain).verify(batch, now or datetime.now(UTC))
    return refused.value.reason


def test_a_batch_of_its_source_holds(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")])
    header = verifier(mesh, chain).verify(batch, datetime.now(UTC))
    assert (header.product, header.sequence, header.record_count) == (DISK_USAGE, 1, 1)


def test_a_flipped_bit_in_payload_header_or_signature_is_refused(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")])
    for field in ("payload", "signature"):
        data = bytearray(getattr(batch, field))
        data[len(data) // 2] ^= 1
        forged = SealedBatch(header=batch.header, signature=batch.signature, payload=batch.payload)
        setattr(forged, field, bytes(data))
        assert refusal(mesh, chain, forged) == RefusalReason.REFUSAL_REASON_SIGNATURE
    header = header_of(batch)
    header.record_count += 1
    forged = SealedBatch(header=header.SerializeToString(), signature=batch.signature, payload=batch.payload)
    assert refusal(mesh, chain, forged) == RefusalReason.REFUSAL_REASON_SIGNATURE


def test_a_batch_in_another_source_s_name_is_refused(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")], source=str(mesh.spiffe_id("servers", "/agent/web2")))
    assert refusal(mesh, chain, batch) == RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE


def test_a_signer_of_another_root_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    other = Mesh.create(tmp_path / "other", "servers")
    chain = Chain(other.credentials("servers", "/agent/web1"))
    assert refusal(mesh, chain, chain.next([disk_usage("/")])) == RefusalReason.REFUSAL_REASON_SIGNATURE


def test_a_signer_whose_certificate_did_not_come_is_refused(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    with pytest.raises(BatchRefused) as refused:
        Verifier(mesh.trust).verify(chain.next([disk_usage("/")]), datetime.now(UTC))
    assert refused.value.reason == RefusalReason.REFUSAL_REASON_SIGNATURE


def test_the_certificate_must_be_valid_when_sealed_and_need_not_be_now(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")])
    verifier(mesh, chain).verify(batch, datetime.now(UTC) + timedelta(days=400))
    before = chain.next([disk_usage("/")], sealed_at=NOW - timedelta(days=2))
    assert refusal(mesh, chain, before) == RefusalReason.REFUSAL_REASON_SIGNATURE


def test_a_batch_from_the_future_may_come_again_later(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")], sealed_at=NOW + timedelta(minutes=6))
    with pytest.raises(BatchRefused) as refused:
        verifier(mesh, chain).verify(batch, NOW)
    assert refused.value.reason == RefusalReason.REFUSAL_REASON_FUTURE
    assert not refused.value.final


@pytest.mark.parametrize(
    "overrides",
    [
        {"product": "no product"},
        {"source": "spiffe://"},
        {"epoch": 0},
        {"sequence": 0},
        {"sequence": 1 << 63},
        {"schema_sha256": b"short"},
        {"previous_header_sha256": b"short"},
        {"origin": 0},
    ],
)
def test_a_header_against_the_contract_is_malformed(mesh: Mesh, overrides: dict[str, object]) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")], **overrides)
    assert refusal(mesh, chain, batch) == RefusalReason.REFUSAL_REASON_MALFORMED


@pytest.mark.parametrize("name", ["first_event_time", "last_event_time", "sealed_time"])
@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-(1 << 62), 0), (1 << 40, 0), (1_700_000_000, -5), (0, 1 << 30)]
)
def test_a_time_outside_of_the_calendar_is_malformed(mesh: Mesh, name: str, seconds: int, nanos: int) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    header = header_of(chain.next([disk_usage("/")]))
    moment = getattr(header, name)
    moment.seconds, moment.nanos = seconds, nanos
    batch = seal(chain.credentials, header, b"")
    assert refusal(mesh, chain, batch) == RefusalReason.REFUSAL_REASON_MALFORMED


def test_only_the_owner_s_domain_publishes_unless_the_product_is_open(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("platform", "/writer"))
    header = header_of(chain.next([disk_usage("/")]))
    check_owner(header, open_to_all=True, mesh=mesh.name)
    with pytest.raises(BatchRefused):
        check_owner(header, open_to_all=False, mesh=mesh.name)


def self_signed_authority(subject: x509.Name) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_forged_authorities_do_not_crowd_out_the_real_one(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    issuer = x509.load_der_x509_certificate(chain.credentials.certificates[1])
    checks = Verifier(mesh.trust)
    checks.learn([chain.credentials.certificates[1]])
    checks.learn(self_signed_authority(issuer.subject) for _ in range(40))
    checks.learn(chain.credentials.certificates)
    batch = chain.next([disk_usage("/")])
    header = checks.verify(batch, datetime.now(UTC))
    assert checks.certificates_of(header) == chain.credentials.certificates


def test_a_stranger_s_certificates_take_no_memory(mesh: Mesh, tmp_path: Path) -> None:
    other = Mesh.create(tmp_path / "other", "servers")
    checks = Verifier(mesh.trust)
    checks.learn(other.credentials("servers", "/agent/web1").certificates)
    assert not checks._certificates and not checks._authorities


def test_a_certificate_whose_names_cannot_be_read_is_left_aside(mesh: Mesh) -> None:
    web = mesh.credentials("servers", "/agent/web1")
    leaf = web.certificates[0]
    # The same length, so that everything around it still holds.
    broken = leaf.replace(b"issuing authority", b"issuing\xff\xfeuthority")
    assert broken != leaf and len(broken) == len(leaf)
    verifier = Verifier(mesh.trust)
    verifier.learn([broken, *web.certificates])
    assert verifier.verify(Chain(web).next([disk_usage("/")]), datetime.now(UTC)).source == str(web.spiffe_id)


def test_a_header_that_declares_too_much_is_malformed(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    holes = [Hole(first_sequence=n, last_sequence=n) for n in range(1, 2_000)]
    batch = chain.next([disk_usage("/")], holes=holes)
    assert refusal(mesh, chain, batch) == RefusalReason.REFUSAL_REASON_MALFORMED


@pytest.mark.parametrize("seconds", [50, 31, 29, 0])
def test_what_a_distrusted_source_sealed_since_then_is_refused_and_what_it_sealed_before_holds(
    mesh: Mesh, seconds: int
) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    now = datetime.now(UTC)
    batch = chain.next([disk_usage("/")], sealed_at=now - timedelta(seconds=seconds))
    checks = verifier(mesh, chain)
    # Also when its signer was found to hold before.
    checks.verify(batch, now)
    say(checks._trust, mesh, word(chain.credentials.spiffe_id, now - timedelta(seconds=30)))
    if seconds > 30:
        assert checks.verify(batch, now).sequence == 1
    else:
        with pytest.raises(BatchRefused, match="is distrusted since") as refused:
            checks.verify(batch, now)
        assert refused.value.reason == RefusalReason.REFUSAL_REASON_DISTRUSTED
        assert refused.value.final


def test_an_old_key_stays_refused_after_the_lift_whatever_time_it_claims(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    checks, now = verifier(mesh, chain), datetime.now(UTC)
    until = now - timedelta(seconds=10)
    say(checks._trust, mesh, word(chain.credentials.spiffe_id, now - timedelta(seconds=30), until))
    batch = chain.next([disk_usage("/")], sealed_at=now)
    with pytest.raises(BatchRefused) as refused:
        checks.verify(batch, now)
    assert refused.value.reason == RefusalReason.REFUSAL_REASON_DISTRUSTED


def test_a_forged_batch_in_a_distrusted_name_is_forged(mesh: Mesh) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batch = chain.next([disk_usage("/")])
    batch.payload += b"x"
    checks = verifier(mesh, chain)
    say(checks._trust, mesh, word(chain.credentials.spiffe_id))
    with pytest.raises(BatchRefused) as refused:
        checks.verify(batch, datetime.now(UTC))
    assert refused.value.reason == RefusalReason.REFUSAL_REASON_SIGNATURE
