"""Authorities and roots are renewed: the next generation takes over, and the one before holds to its end."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from certs.__main__ import main
from certs.generations import key_id
from certs.home import Home
from certs.issuing import IssuingAuthority
from certs.profiles import Profile
from telltale.errors import ConfigurationError, NotFound, Precondition, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.keys import load_key, new_key
from telltale.identity.tokens import LONGEST_LIFE, TokenVerifier
from telltale.naming import SpiffeId
from telltale.seal.verify import Verifier
from tests.support.batches import Chain, disk_usage
from tests.support.mesh import MESH, Mesh

SERVERS = f"servers.{MESH}"


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers", "platform")


def issued(authority: IssuingAuthority, path: str) -> Credentials:
    key = new_key()
    profile = Profile(SpiffeId(authority.trust_domain, path))
    return Credentials(key, authority.issue(profile, key.public_key()))


def token(authority: IssuingAuthority, holder: Credentials) -> str:
    return authority.issue_token(holder.spiffe_id, holder.thumbprint, [SERVERS], holder.not_after).text


def kids(home: Home) -> list[str]:
    entries = json.loads((home.trust / f"{SERVERS}.jwks.json").read_text())["keys"]
    return [entry["kid"] for entry in entries]


def test_what_is_not_due_is_left_alone(mesh: Mesh) -> None:
    before = {path: path.read_bytes() for path in mesh.home.directory.rglob("*") if path.is_file()}
    assert [one.renewed for one in mesh.home.renew()] == [False, False]
    assert {path: path.read_bytes() for path in before} == before


def test_an_authority_past_half_of_its_life_is_due(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init(MESH, ["servers"], issuing_life=timedelta(seconds=0.2))
    # Its life is shorter than it takes to get here, as X.509 counts whole seconds.
    (renewal,) = home.renew()
    assert renewal.renewed
    left = renewal.issuing.not_valid_after_utc - datetime.now(UTC)
    assert left > timedelta(days=700)


def test_both_generations_hold_in_tls_and_in_batches(mesh: Mesh) -> None:
    authority = mesh.authorities["servers"]
    old = issued(authority, "/agent/web1")
    assert not authority.refresh()
    mesh.home.renew(["servers"], now=True)
    assert authority.refresh()
    new = issued(authority, "/agent/web2")
    assert old.certificates[1] != new.certificates[1]
    verifier = Verifier(mesh.trust)
    for credentials in (old, new, old):
        leaf, *issuers = credentials.certificates
        assert mesh.trust.identify(leaf, issuers, datetime.now(UTC)) == credentials.spiffe_id
        verifier.learn(credentials.certificates)
        verifier.verify(Chain(credentials).next([disk_usage("/")]), datetime.now(UTC))


def test_the_issuing_key_that_signs_no_more_is_gone(mesh: Mesh) -> None:
    directory = mesh.home.authority("servers")
    before = load_key(directory / "issuing.key")
    mesh.home.renew(["servers"], now=True)
    (left,) = directory.glob("issuing*.key")
    assert load_key(left).public_key() != before.public_key()
    assert mesh.authorities["servers"].refresh()


def test_a_renewal_that_stops_half_way_changes_nothing_and_is_finished_by_the_next(mesh: Mesh) -> None:
    directory = mesh.home.authority("servers")
    # A key without its certificate is all that a crash leaves.
    (directory / "issuing-0000000000000000.key").write_bytes((mesh.home.root / "root.key").read_bytes())
    assert not mesh.authorities["servers"].refresh()
    mesh.home.renew(["servers"], now=True)
    assert len(list(directory.glob("issuing*.key"))) == 1


def test_the_next_token_key_is_known_before_it_signs(mesh: Mesh) -> None:
    authority, trust = mesh.authorities["servers"], mesh.trust
    holder = issued(authority, "/agent/web1")
    tokens = TokenVerifier(trust, SERVERS)
    first = token(authority, holder)
    tokens.verify(first, holder.thumbprint)
    mesh.home.renew(["servers"], now=True)
    authority.refresh()
    second = token(authority, holder)
    assert jwt.get_unverified_header(first)["kid"] != jwt.get_unverified_header(second)["kid"]
    # The verifier's bundle is still the one from before the renewal.
    tokens.verify(second, holder.thumbprint)
    # And whoever reads the bundle anew goes on taking tokens of the generation before.
    TokenVerifier(mesh.trust, SERVERS).verify(first, holder.thumbprint)


def test_a_retired_token_key_leaves_the_bundle_when_its_last_token_has_ended(mesh: Mesh) -> None:
    retired, following = kids(mesh.home)
    mesh.home.renew(["servers"], now=True)
    bundle = mesh.home.trust / f"{SERVERS}.jwks.json"
    content = json.loads(bundle.read_text())
    assert content["keys"][0]["kid"] == following
    (old,) = [entry for entry in content["keys"] if entry["kid"] == retired]
    left = old["exp"] - datetime.now(UTC).timestamp()
    assert 0 < left <= LONGEST_LIFE.total_seconds()
    mesh.home.renew()
    assert retired in kids(mesh.home)
    old["exp"] = int(datetime.now(UTC).timestamp()) - 1
    bundle.write_text(json.dumps(content))
    mesh.home.renew()
    assert retired not in kids(mesh.home) and len(kids(mesh.home)) == 2


def test_a_token_key_that_nobody_knows_yet_does_not_sign(mesh: Mesh) -> None:
    # As in a home that was made before there were next keys.
    directory, bundle = mesh.home.authority("servers"), mesh.home.trust / f"{SERVERS}.jwks.json"
    content = json.loads(bundle.read_text())
    present = key_id(load_key(directory / "token.key").public_key())
    bundle.write_text(json.dumps({"keys": [one for one in content["keys"] if one["kid"] == present]}))
    (directory / "token-next.key").unlink()
    assert main(["renew", "--home", str(mesh.home.directory), "--domain", "servers", "--now"]) == 0
    assert key_id(load_key(directory / "token.key").public_key()) in kids(mesh.home)


def test_renewing_needs_the_root_key(mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    (mesh.home.root / "root.key").unlink()
    assert [one.renewed for one in mesh.home.renew()] == [False, False]
    with pytest.raises(ConfigurationError, match="platform cannot be renewed without the root key"):
        mesh.home.renew(["platform"], now=True)
    assert main(["renew", "--home", str(mesh.home.directory), "--now"]) == 1
    assert "bring it back to" in capsys.readouterr().err


def test_an_authority_goes_on_with_what_it_has_when_its_directory_is_broken(mesh: Mesh) -> None:
    authority, certificate = mesh.authorities["servers"], mesh.home.authority("servers") / "issuing.pem"
    whole = certificate.read_bytes()
    for broken in (whole[:100], b"", mesh.home.authority("platform").joinpath("issuing.pem").read_bytes()):
        certificate.write_bytes(broken)
        with pytest.raises(ConfigurationError):
            authority.refresh()
        assert issued(authority, "/agent/web1").spiffe_id.trust_domain == SERVERS
    certificate.write_bytes(whole)
    assert not authority.refresh()


def test_two_roots_overlap_until_the_old_one_is_retired(mesh: Mesh) -> None:
    authority, trust, home = mesh.authorities["servers"], mesh.trust, mesh.home
    old_root = home.root_sha256()
    old = issued(authority, "/agent/web1")
    root = home.add_root()
    assert root.fingerprint(hashes.SHA256()).hex() == home.root_sha256() != old_root
    assert trust.refresh() and len(trust.bundle.roots) == 2
    # Nothing stands on the new root before the renewal, and newcomers are told the one that holds.
    authority.refresh()
    assert authority.root_sha256.hex() == old_root
    with pytest.raises(Precondition, match="still carries platform, servers"):
        home.retire_root(old_root)
    home.renew(now=True)
    authority.refresh()
    assert authority.root_sha256.hex() == home.root_sha256()
    new = issued(authority, "/agent/web2")
    verifier = Verifier(trust)
    for credentials in (old, new):
        leaf, *issuers = credentials.certificates
        assert trust.identify(leaf, issuers, datetime.now(UTC)) == credentials.spiffe_id
        verifier.learn(credentials.certificates)
        verifier.verify(Chain(credentials).next([disk_usage("/")]), datetime.now(UTC))

    home.retire_root(old_root)
    assert trust.refresh()
    leaf, *issuers = old.certificates
    with pytest.raises(Unauthenticated):
        trust.identify(leaf, issuers, datetime.now(UTC))
    with pytest.raises(Exception, match="does not hold"):
        verifier.verify(Chain(old).next([disk_usage("/")]), datetime.now(UTC))
    verifier.verify(Chain(new).next([disk_usage("/")]), datetime.now(UTC))
    assert len(list(home.root.glob("root*.key"))) == 1
    assert home.init(MESH, ["servers", "network"]) == ["network"]


def test_only_a_root_that_is_there_is_retired_and_never_the_newest(mesh: Mesh) -> None:
    with pytest.raises(NotFound, match="it has"):
        mesh.home.retire_root("00" * 32)
    with pytest.raises(Precondition):
        mesh.home.retire_root(mesh.home.root_sha256())


def test_lives_of_root_and_authorities_are_chosen(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path)]
    lives = ["--root-seconds", "600", "--issuing-seconds", "100"]
    assert main(["init", *home, "--mesh", MESH, "--domains", "servers", *lives]) == 0
    root = x509.load_pem_x509_certificate((tmp_path / "root" / "root.pem").read_bytes())
    issuing = tmp_path / "authorities" / "servers" / "issuing.pem"

    def life(certificate: x509.Certificate) -> float:
        return (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()

    assert 500 < life(root) <= 600
    assert 50 < life(x509.load_pem_x509_certificate(issuing.read_bytes())) <= 100
    # Nothing outlives what vouches for it.
    assert main(["renew", *home, "--now", "--issuing-seconds", "3000"]) == 0
    renewed = x509.load_pem_x509_certificate(issuing.read_bytes())
    assert 200 < life(renewed) and renewed.not_valid_after_utc <= root.not_valid_after_utc
