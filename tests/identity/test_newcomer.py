"""A fresh host joins on the real wire: what it gets, and each way in which it is refused."""

import asyncio
import hashlib
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.ledger import Ledger
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.errors import ConfigurationError, InvalidInput, Precondition, Unauthenticated, Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import JoinToken
from telltale.identity.newcomer import join, told
from telltale.identity.presented import presented_root
from telltale.identity.trust import Trust
from tests.support.domain import free_port
from tests.support.mesh import Mesh

SERVICE = "servers.example.org:7443"


@dataclass
class Running:
    """The servers' authority, which serves."""

    mesh: Mesh
    port: int
    address: str
    state: Path

    @property
    def root(self) -> bytes:
        return bytes.fromhex(self.mesh.home.root_sha256())

    def token(self, path: str = "/agent/web1", life: timedelta = timedelta(minutes=10)) -> JoinToken:
        profile = Profile(self.mesh.spiffe_id("servers", path))
        return Ledger(self.mesh.home.authority("servers")).grant(profile, life).token


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    mesh = Mesh.create(tmp_path / "home", "servers")
    address = AuthorityAddress(
        directory=mesh.home.authority("servers"),
        listen="127.0.0.1:0",
        enrollment="127.0.0.1:0",
        service_address=SERVICE,
    )
    async with serving_authority(address, AuthoritySettings(authorities=(address,))) as (port, enrollment):
        yield Running(mesh, port, f"127.0.0.1:{enrollment}", tmp_path / "host")


async def test_joining_leaves_all_that_an_agent_needs_and_nothing_that_others_can_read(
    running: Running,
) -> None:
    joined = await join(running.address, running.token(), running.root, running.state)
    kept = Credentials.load(running.state)
    assert kept is not None
    assert kept.certificates == joined.certificates
    assert str(joined.spiffe_id) == "spiffe://servers.telltale.test/agent/web1"
    settings = told(running.state)
    assert settings == {
        "mesh": "telltale.test",
        "authority": f"127.0.0.1:{running.port}",
        "enrollment": running.address,
        "service": SERVICE,
        "trust": str(running.state / "trust"),
    }
    assert Trust.load(Path(settings["trust"]), "telltale.test").root_pem == running.mesh.trust.root_pem
    assert stat.S_IMODE(running.state.stat().st_mode) == 0o700
    for path in running.state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_root_that_the_operator_did_not_name_is_refused_before_anything_is_sent(
    running: Running,
) -> None:
    token = running.token()
    with pytest.raises(Unauthenticated, match="shows no root certificate with the SHA-256"):
        await join(running.address, token, bytes(32), running.state)
    assert not running.state.exists()
    # The token is still good: nobody has seen it.
    await join(running.address, token, running.root, running.state)


async def test_the_hash_of_another_certificate_of_the_chain_is_no_root(running: Running) -> None:
    issuing = running.mesh.home.authority("servers") / "issuing.pem"
    der = x509.load_pem_x509_certificate(issuing.read_bytes()).public_bytes(Encoding.DER)
    with pytest.raises(Unauthenticated, match="shows no root"):
        await presented_root(running.address, hashlib.sha256(der).digest())


async def test_a_token_is_good_for_one_key(running: Running, tmp_path: Path) -> None:
    token = running.token()
    await join(running.address, token, running.root, running.state)
    with pytest.raises(Unauthenticated, match="used with another key; ask for a new one"):
        await join(running.address, token, running.root, tmp_path / "other")


async def test_a_retry_in_the_same_directory_comes_with_the_same_key(running: Running) -> None:
    token = running.token()
    first = await join(running.address, token, running.root, running.state)
    # As after a crash before the settings were written.
    (running.state / "agent.json").unlink()
    again = await join(running.address, token, running.root, running.state)
    assert again.thumbprint == first.thumbprint
    assert told(running.state)["service"] == SERVICE


async def test_a_retry_after_a_broken_answer_comes_with_the_same_key(running: Running) -> None:
    token = running.token()
    first = await join(running.address, token, running.root, running.state)
    identity = running.state / "identity.pem"
    (running.state / "enrolling.key").write_bytes(first.key_pem)
    identity.unlink()
    again = await join(running.address, token, running.root, running.state)
    assert again.thumbprint == first.thumbprint
    assert not (running.state / "enrolling.key").exists()


async def test_who_joins_again_with_a_new_token_keeps_its_key_and_its_spool(running: Running) -> None:
    first = await join(running.address, running.token(), running.root, running.state)
    spool = running.state / "spool.db"
    spool.write_bytes(b"what was not acked")
    again = await join(running.address, running.token(), running.root, running.state)
    assert again.key_pem == first.key_pem
    assert again.thumbprint != first.thumbprint
    assert spool.read_bytes() == b"what was not acked"


async def test_the_authoritys_other_port_is_told_from_that_of_enrolment(running: Running) -> None:
    with pytest.raises(Unauthenticated, match="no enrolment port of that mesh"):
        await join(f"127.0.0.1:{running.port}", running.token(), running.root, running.state)


async def test_unknown_and_expired_tokens_say_what_to_do(running: Running) -> None:
    forged = JoinToken("x" * 43, running.mesh.spiffe_id("servers", "/agent/web1"))
    with pytest.raises(Unauthenticated, match="unknown here; ask for a new one"):
        await join(running.address, forged, running.root, running.state)
    expired = running.token(life=timedelta(seconds=-1))
    with pytest.raises(Unauthenticated, match="has expired; ask for a new one"):
        await join(running.address, expired, running.root, running.state)


async def test_a_directory_of_another_identity_is_left_alone(running: Running) -> None:
    await join(running.address, running.token(), running.root, running.state)
    with pytest.raises(Precondition, match=r"belongs to .*/agent/web1 .* choose another --state"):
        await join(running.address, running.token("/agent/web2"), running.root, running.state)


async def test_a_renamed_host_gets_another_key_and_identity(running: Running) -> None:
    first = await join(running.address, running.token(), running.root, running.state)
    token = running.token("/agent/web2")
    renamed = await join(running.address, token, running.root, running.state, renamed=True)
    assert renamed.spiffe_id == token.spiffe_id
    assert renamed.key_pem != first.key_pem


async def test_addresses_can_be_given_where_the_authority_does_not_know_them(running: Running) -> None:
    token = running.token()
    await join(
        running.address,
        token,
        running.root,
        running.state,
        authority="[2001:db8::1]:7410",
        service="192.0.2.7:7443",
    )
    assert told(running.state)["authority"] == "[2001:db8::1]:7410"
    assert told(running.state)["service"] == "192.0.2.7:7443"


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":7443", "unix:/run/x", "xds:///a:1", "a b:1", "a\n:1"]
)
async def test_an_address_is_a_host_and_a_port(running: Running, address: str) -> None:
    with pytest.raises((InvalidInput, Unavailable)):
        await join(address or "nothing", running.token(), running.root, running.state)
    assert not running.state.exists()


async def test_nobody_there_says_what_to_check(running: Running) -> None:
    with pytest.raises(Unavailable, match="check that it is the address of enrolment"):
        await join(f"127.0.0.1:{free_port()}", running.token(), running.root, running.state)


async def test_something_else_there_is_recognised_and_gets_no_token(running: Running) -> None:
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(1 << 16))
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        writer.close()

    token = running.token()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unavailable, match="check that it is the address of enrolment"):
            await join(address, token, running.root, running.state)
    assert heard
    assert token.secret.encode() not in heard


def test_a_damaged_file_says_how_to_mend_it(tmp_path: Path) -> None:
    assert told(tmp_path) == {}
    (tmp_path / "agent.json").write_text(json.dumps(["no settings"]))
    with pytest.raises(ConfigurationError, match="join again"):
        told(tmp_path)
