"""Certificates that another PKI writes into files: taken whole, of the same identity, no stream broken."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.errors import ConfigurationError, TelltaleError
from telltale.identity import files
from telltale.identity.dialling import dial
from telltale.identity.keys import new_key, signing_request
from telltale.identity.workload import Workload
from telltale.rpc.client import call_metadata
from telltale.rpc.health import main as probe
from telltale.settings import IdentitySettings
from tests.support.echo import echo_server
from tests.support.foreign import ForeignPki, Mounted
from tests.support.mesh import Mesh

AGENT = "spiffe://servers.telltale.test/agent/web1"


class Site:
    """A domain with a PKI of its own, its authority, and a workload that gets its certificate as files."""

    def __init__(self, directory: Path) -> None:
        self.pki = ForeignPki.make()
        self.mesh = Mesh.create(directory / "mesh", "servers", "platform")
        (self.mesh.home.trust / "servers.telltale.test.bundle.pem").write_bytes(self.pki.root_pem)
        self.mounted = Mounted(directory / "secret")
        self.state = directory / "state"
        self.authority = "127.0.0.1:1"

    @property
    def settings(self) -> IdentitySettings:
        return IdentitySettings(
            mesh=self.mesh.name,
            state=self.state,
            trust=self.mesh.home.trust,
            authority=self.authority,
            certificate_file=self.mounted.certificate,
            key_file=self.mounted.key,
        )


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(files, "_PAUSE_SECONDS", 0.02)
    here = Site(tmp_path)
    address = AuthorityAddress(
        directory=here.mesh.home.authority("servers"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    settings = AuthoritySettings(authorities=(address,), trust=here.mesh.home.trust)
    async with AsyncExitStack() as stack:
        port, _ = await stack.enter_async_context(serving_authority(address, settings))
        here.authority = f"127.0.0.1:{port}"
        yield here


async def refused(site: Site) -> str:
    with pytest.raises(TelltaleError) as wrong:
        async with Workload.open(site.settings):
            pass
    return str(wrong.value)


async def replaced(me: Workload, thumbprint: bytes) -> None:
    async with asyncio.timeout(20):
        while me.credentials.thumbprint != thumbprint:  # noqa: ASYNC110 - the files are polled, too
            await asyncio.sleep(0.01)


async def test_a_swapped_link_brings_the_next_certificate_without_breaking_a_stream(site: Site) -> None:
    site.mounted.put(site.pki.credentials(AGENT))
    async with echo_server(site.mesh) as echo, Workload.open(site.settings) as me:
        channel = me.channel(echo.address, echo.server_name)
        stream = channel.stream_stream("/echo/Echo")(metadata=await call_metadata(me, echo.audience))
        await stream.write(b"before")
        assert await stream.read() == b"before"
        for _ in range(3):
            fresh = site.pki.credentials(AGENT)
            site.mounted.put(fresh)
            await replaced(me, fresh.thumbprint)
            await stream.write(b"after")
            assert await stream.read() == b"after"
            # New calls show the new certificate, with a token of the domain's authority that is bound to it.
            assert AGENT in await echo.call(me, authorization=f"Bearer {await me.token(echo.audience)}")
        await channel.close()
    # Whoever gets its certificate as files keeps none of its own.
    assert not site.state.exists()


async def test_a_pair_that_does_not_fit_yet_is_not_taken(site: Site) -> None:
    first, second = site.pki.credentials(AGENT), site.pki.credentials(AGENT)
    site.mounted.put(first)
    async with Workload.open(site.settings) as me:
        looked = asyncio.Event()
        load = files.read_pair

        def read(certificates: Path, key: Path) -> object:
            looked.set()
            return load(certificates, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "read_pair", read)
            # In place, one file after the other, and the first of them in two halves.
            site.mounted.key.write_bytes(second.key_pem[:50])
            async with asyncio.timeout(20):
                await looked.wait()
                site.mounted.key.write_bytes(second.key_pem)
                looked.clear()
                await looked.wait()
            assert me.credentials.thumbprint == first.thumbprint
            site.mounted.certificate.write_bytes(second.chain_pem)
            await replaced(me, second.thumbprint)


async def test_a_start_in_the_middle_of_a_renewal_waits_for_its_end(site: Site) -> None:
    first, second = site.pki.credentials(AGENT), site.pki.credentials(AGENT)
    site.mounted.put(first)
    site.mounted.key.write_bytes(second.key_pem)

    async def opened() -> bytes:
        async with Workload.open(site.settings) as me:
            return me.credentials.thumbprint

    starting = asyncio.create_task(opened())
    await asyncio.sleep(0.03)
    site.mounted.certificate.write_bytes(second.chain_pem)
    assert await starting == second.thumbprint


async def test_a_pair_that_never_fits_ends_the_start_with_both_files_named(site: Site) -> None:
    site.mounted.put(site.pki.credentials(AGENT))
    site.mounted.key.write_bytes(site.pki.credentials(AGENT).key_pem)
    said = await refused(site)
    assert str(site.mounted.key) in said and str(site.mounted.certificate) in said


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (rsa.generate_private_key(65537, 2048), "RSA"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
    ],
)
async def test_another_kind_of_key_is_refused_with_what_to_ask_for(
    site: Site, key: rsa.RSAPrivateKey, kind: str
) -> None:
    site.mounted.put(site.pki.credentials(AGENT))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    site.mounted.key.write_bytes(pem)
    said = await refused(site)
    assert kind in said and "ECDSA P-256 (prime256v1)" in said


async def test_what_peers_would_not_believe_is_refused_with_what_is_missing(site: Site) -> None:
    site.mounted.put(ForeignPki.make("Another").credentials(AGENT))
    assert "needs its root as servers.telltale.test.bundle.pem" in await refused(site)
    site.mounted.put(site.pki.credentials("spiffe://platform.telltale.test/gateway"))
    assert "needs its root as platform.telltale.test.bundle.pem" in await refused(site)
    site.mounted.put(site.pki.credentials(AGENT, life=timedelta(0)))
    assert "expired at" in await refused(site)
    site.mounted.certificate.unlink()
    assert "TELLTALE_CERTIFICATE_FILE" in await refused(site)


async def test_one_file_without_the_other_is_no_identity(site: Site) -> None:
    for lacking in ("certificate_file", "key_file"):
        with pytest.raises(ConfigurationError, match="belong together"):
            async with Workload.open(site.settings.model_copy(update={lacking: None})):
                pass


async def test_another_identity_or_an_unbelievable_one_is_told_once_and_not_taken(site: Site) -> None:
    first = site.pki.credentials(AGENT)
    site.mounted.put(first)
    with capture_logs() as logs:
        async with Workload.open(site.settings) as me:
            for other, said in (
                (site.pki.credentials("spiffe://servers.telltale.test/agent/web2"), "is now of"),
                (ForeignPki.make("Another").credentials(AGENT), "nobody would believe"),
            ):
                site.mounted.put(other)
                async with asyncio.timeout(20):
                    while not any(said in str(line.get("error")) for line in logs):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert me.credentials.thumbprint == first.thumbprint
            fresh = site.pki.credentials(AGENT)
            site.mounted.put(fresh)
            await replaced(me, fresh.thumbprint)
    assert len([line for line in logs if line["event"].startswith("new certificate not taken")]) == 2


async def test_a_certificate_that_no_parser_takes_is_told_and_the_next_good_one_taken(site: Site) -> None:
    first, second = site.pki.credentials(AGENT), site.pki.credentials(AGENT)
    site.mounted.put(first)
    # X.509 knows the versions 0 to 2.
    broken = first.certificates[0].replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1)
    text = base64.encodebytes(broken).decode()
    with capture_logs() as logs:

        def complained() -> bool:
            return any("no readable certificate" in str(each.get("error")) for each in logs)

        async with Workload.open(site.settings) as me:
            site.mounted.certificate.write_text(
                f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"
            )
            async with asyncio.timeout(20):
                while not complained():  # noqa: ASYNC110 - the files are polled, too
                    await asyncio.sleep(0.01)
            assert me.credentials.thumbprint == first.thumbprint
            site.mounted.put(second)
            await replaced(me, second.thumbprint)


async def test_files_are_followed_whatever_has_gone_wrong_with_a_look(site: Site) -> None:
    first, second = site.pki.credentials(AGENT), site.pki.credentials(AGENT)
    site.mounted.put(first)
    load, looked = files.read_pair, asyncio.Event()

    def read(certificates: Path, key: Path) -> object:
        if not looked.is_set():
            looked.set()
            raise RuntimeError("nobody has thought of this")
        return load(certificates, key)

    with capture_logs() as logs:
        async with Workload.open(site.settings) as me:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(files, "read_pair", read)
                site.mounted.put(second)
                await replaced(me, second.thumbprint)
    told = [each for each in logs if each["event"] == "certificate files not followed; looking again"]
    assert [each["error"] for each in told] == ["nobody has thought of this"]


async def test_a_certificate_that_nobody_renews_is_warned_of(site: Site) -> None:
    site.mounted.put(site.pki.credentials(AGENT, life=timedelta(seconds=4)))
    with capture_logs() as logs:
        async with Workload.open(site.settings), asyncio.timeout(20):
            while not any("ends soon" in line["event"] for line in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_the_authority_gives_it_tokens_and_no_certificate(site: Site) -> None:
    credentials = site.pki.credentials(AGENT)
    name = site.mesh.server_name("authority", "servers")
    async with dial(site.authority, name, site.mesh.trust.root_pem, credentials) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        token = await stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test"]))
        assert token.token
        with pytest.raises(grpc.aio.AioRpcError, match="renew it where it comes from"):
            await stub.Renew(authority_pb2.RenewRequest(signing_request=signing_request(new_key())))


async def test_the_health_probe_shows_the_same_certificate(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.mounted.put(site.pki.credentials(AGENT))
    async with echo_server(site.mesh) as echo:
        for name, value in (
            ("TRUST", site.mesh.home.trust),
            ("CERTIFICATE_FILE", site.mounted.certificate),
            ("KEY_FILE", site.mounted.key),
        ):
            monkeypatch.setitem(os.environ, f"TELLTALE_{name}", str(value))
        asked = [echo.address, "--server-name", echo.server_name]
        assert await asyncio.to_thread(probe, asked) == 0
    assert "SERVING" in capsys.readouterr().out
