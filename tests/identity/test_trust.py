"""Whom a trust bundle believes, and when."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from telltale.errors import ConfigurationError, Unauthenticated
from telltale.identity.keys import new_key
from telltale.identity.trust import Trust
from tests.support.forgery import forged
from tests.support.mesh import Mesh

AGENT = "spiffe://servers.telltale.test/agent/web1"


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers", "platform")


def test_a_chain_is_judged_at_the_time_asked_about(mesh: Mesh) -> None:
    now, trust = datetime.now(UTC), mesh.trust
    credentials = forged(mesh, "servers", AGENT, start=timedelta(0), end=timedelta(minutes=10))
    leaf, *others = credentials.certificates
    for minutes in (1, 9, 1):
        assert str(trust.identify(leaf, others, now + timedelta(minutes=minutes))) == AGENT
    for minutes in (-5, 11):
        with pytest.raises(Unauthenticated, match="does not hold"):
            trust.identify(leaf, others, now + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    "names",
    [
        ("spiffe://platform.telltale.test/gateway",),
        ("spiffe://sub.servers.telltale.test/agent/web1",),
        (AGENT, "gateway.platform.telltale.test"),
        (AGENT, "spiffe://servers.telltale.test/agent/web2"),
        ("https://servers.telltale.test/agent/web1",),
        (),
    ],
)
def test_a_leaf_beyond_its_issuers_constraints_or_without_one_spiffe_id_is_nobody(
    mesh: Mesh, names: tuple[str, ...]
) -> None:
    leaf, *others = forged(mesh, "servers", *names).certificates
    with pytest.raises(Unauthenticated):
        mesh.trust.identify(leaf, others, datetime.now(UTC))


def test_a_foreign_root_a_missing_issuer_and_rubbish_are_refused(mesh: Mesh, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    stranger = Mesh.create(tmp_path / "other", "servers").credentials("servers", "/agent/web1")
    own = mesh.credentials("servers", "/agent/web1")
    issuer = own.certificates[1]
    for leaf, others in (
        (stranger.certificates[0], stranger.certificates[1:]),
        (stranger.certificates[0], (issuer,)),
        (own.certificates[0], ()),
        (own.certificates[0], (issuer,) * 5),
        (own.certificates[0], (b"rubbish",)),
        (b"rubbish", (issuer,)),
        (issuer, ()),
    ):
        with pytest.raises(Unauthenticated):
            mesh.trust.identify(leaf, others, now)


def test_a_leaf_cannot_issue_another(mesh: Mesh) -> None:
    middle = mesh.credentials("servers", "/agent/web1")
    rogue = Mesh.create(mesh.home.directory / "rogue", "servers")
    rogue.authorities["servers"]._issuing = middle.leaf
    rogue.authorities["servers"]._issuing_key = middle.key
    leaf = forged(rogue, "servers", "spiffe://servers.telltale.test/agent/web2").certificates[0]
    with pytest.raises(Unauthenticated):
        mesh.trust.identify(leaf, middle.certificates, datetime.now(UTC))


def test_an_issuing_authority_cannot_make_another(mesh: Mesh) -> None:
    authority, key, now = mesh.authorities["servers"], new_key(), datetime.now(UTC)
    second = (
        x509.CertificateBuilder()
        # Under the issuer's own name it would count as the same authority with a new key.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "second authority")]))
        .issuer_name(authority._issuing.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority._issuing_key.public_key()), False
        )
        .sign(authority._issuing_key, hashes.SHA256())
    )
    rogue = Mesh.create(mesh.home.directory / "rogue", "servers")
    rogue.authorities["servers"]._issuing, rogue.authorities["servers"]._issuing_key = second, key
    leaf = forged(rogue, "servers", AGENT).certificates[0]
    chain = (second.public_bytes(Encoding.DER), authority._issuing.public_bytes(Encoding.DER))
    with pytest.raises(Unauthenticated):
        mesh.trust.identify(leaf, chain, datetime.now(UTC))


def test_an_unknown_trust_domain_has_no_token_keys(mesh: Mesh) -> None:
    assert mesh.trust.trust_domains == {"servers.telltale.test", "platform.telltale.test"}
    with pytest.raises(Unauthenticated, match=r"evil\.example"):
        mesh.trust.token_keys("evil.example")


def test_a_broken_bundle_is_named(tmp_path: Path, mesh: Mesh) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the trust bundle"):
        Trust.load(tmp_path / "nowhere", "telltale.test")
    jwks = mesh.home.trust / "servers.telltale.test.jwks.json"
    for content in ("{", "{}", '{"keys": [{"kid": "a", "kty": "oct", "k": "AAAA"}]}', "[]"):
        jwks.write_text(content)
        with pytest.raises(ConfigurationError, match=r"servers\.telltale\.test\.jwks\.json"):
            Trust.load(mesh.home.trust, "telltale.test")


def test_the_root_of_the_bundle_is_the_one_that_init_made(mesh: Mesh) -> None:
    root = x509.load_pem_x509_certificate(mesh.trust.root_pem)
    assert root.fingerprint(hashes.SHA256()).hex() == mesh.home.root_sha256()
