"""Whom a trust bundle believes, and when."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from telltale.errors import ConfigurationError, Unauthenticated
from telltale.identity.keys import new_key
from telltale.identity.tokens import TokenVerifier
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from tests.support.echo import echo_server
from tests.support.foreign import ForeignPki
from tests.support.forgery import forged
from tests.support.mesh import Mesh, MeshIssuer

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


def test_a_changed_bundle_is_taken_up_and_a_broken_one_is_not(mesh: Mesh) -> None:
    trust, root = mesh.trust, mesh.home.trust / "root.pem"
    before, whole = trust.bundle, root.read_bytes()
    assert not trust.refresh() and trust.bundle is before
    for broken in (b"", whole[:200], b"rubbish"):
        root.write_bytes(broken)
        with pytest.raises(ConfigurationError, match=r"root\.pem"):
            trust.refresh()
        # Told once for each change: nobody has to read it every second.
        assert not trust.refresh()
        assert trust.bundle is before
    root.unlink()
    with pytest.raises(ConfigurationError, match="cannot read the trust bundle"):
        trust.refresh()
    root.write_bytes(whole)
    assert trust.refresh() and trust.root_pem == whole


def test_what_is_too_large_to_be_a_bundle_is_refused(mesh: Mesh) -> None:
    trust = mesh.trust
    (mesh.home.trust / "servers.telltale.test.jwks.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(ConfigurationError, match="1 MiB"):
        trust.refresh()


def test_a_token_key_that_left_the_bundle_vouches_for_nothing_at_once(mesh: Mesh) -> None:
    trust, holder = mesh.trust, mesh.credentials("servers", "/agent/web1")
    audience = "servers.telltale.test"
    issued = mesh.authorities["servers"].issue_token(
        holder.spiffe_id, holder.thumbprint, [audience], holder.not_after
    )
    tokens = TokenVerifier(trust, audience)
    tokens.verify(issued.text, holder.thumbprint)
    (mesh.home.trust / f"{audience}.jwks.json").write_text('{"keys": []}')
    assert trust.refresh()
    with pytest.raises(Unauthenticated, match="key is not one of"):
        tokens.verify(issued.text, holder.thumbprint)


def test_only_roots_of_its_own_trust_domain_are_offered_for_a_server(mesh: Mesh) -> None:
    pki = ForeignPki.make()
    (mesh.home.trust / "servers.telltale.test.bundle.pem").write_bytes(pki.root_pem)
    trust = mesh.trust
    assert pki.root_pem in trust.roots_for("service.servers.telltale.test")
    assert pki.root_pem in trust.all_roots_pem
    for name in ("gateway.platform.telltale.test", "localhost", "servers.telltale.test", "a.b.telltale.test"):
        assert trust.roots_for(name) == trust.root_pem


async def test_connections_follow_the_roots_on_both_ends(tmp_path: Path, mesh: Mesh) -> None:
    """A root that was added while everything ran vouches for the next server and the next client."""
    other = Mesh.create(tmp_path / "other", "servers", "platform")
    agent = mesh.workload("servers", "/agent/web1")
    newcomer = Workload(other.credentials("servers", "/agent/web2"), agent.trust, MeshIssuer(other))
    async with echo_server(mesh) as echo:
        server = echo.trust
        with pytest.raises(grpc.aio.AioRpcError):
            await echo.call(newcomer, authorization=f"Bearer {await newcomer.token(echo.audience)}")
        root = mesh.home.trust / "root.pem"
        root.write_bytes(root.read_bytes() + other.trust.root_pem)
        jwks = "servers.telltale.test.jwks.json"
        (mesh.home.trust / jwks).write_bytes((other.home.trust / jwks).read_bytes())
        assert server.refresh()
        said = await echo.call(newcomer, authorization=f"Bearer {await newcomer.token(echo.audience)}")
        assert "web2" in said
    # And the other way round: one channel, a server of the new root.
    async with echo_server(other) as echo, agent.channel(echo.address, echo.server_name) as channel:
        probe = channel.unary_unary("/echo/Who")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await probe(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert agent.trust.refresh()
        with pytest.raises(grpc.aio.AioRpcError) as known:
            # Its certificate is not of a root that this server believes: it has got as far as that.
            await probe(b"", timeout=10)
        assert "certificate verify failed" not in str(known.value.details()).lower().replace("_", " ")
