"""Distrust on the real wire of real authorities: who says it, who hears it, and what it does to joining."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it
from structlog.testing import capture_logs

from certs.distrusts import CONSOLE, Distrusts
from certs.ledger import Ledger
from certs.policy import InvitationPolicy
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from certs.state import STATE
from telltale.api.mesh.v1 import authority_pb2
from telltale.api.mesh.v1.authority_pb2_grpc import (
    AuthorityServicer,
    AuthorityStub,
    add_AuthorityServicer_to_server,
)
from telltale.domain.cedar import Principal
from telltale.errors import (
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    PermissionMissing,
    Precondition,
    Unauthenticated,
)
from telltale.identity.dialling import dial
from telltale.identity.distrust import DistrustList, Entry
from telltale.identity.distrust_lists import MOST_ENTRIES, entry_of, make_list
from telltale.identity.hearing import hearing
from telltale.identity.keys import new_key, signing_request
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.auth import AUTHORIZATION, CertificateAuthenticator, Context
from telltale.rpc.server import serving as serving_port
from tests.support.mesh import MESH, Mesh
from tests.support.words import as_sent, signed_list, word

WEB1 = SpiffeId("servers.telltale.test", "/agent/web1")
ALICE = SpiffeId("operators.telltale.test", "/alice")
DOMAINS = ("servers", "operators", "platform")
PATIENCE_SECONDS = 30.0


@dataclass
class Running:
    """Authorities that serve, and those who call them."""

    mesh: Mesh
    ports: dict[str, tuple[int, int]]

    def stub(self, stack: contextlib.AsyncExitStack, me: Workload, domain: str = "servers") -> AuthorityStub:
        channel = me.channel(f"127.0.0.1:{self.ports[domain][0]}", self.mesh.server_name("authority", domain))
        stack.push_async_callback(channel.close, None)
        return AuthorityStub(channel)

    async def say(
        self, me: Workload, spiffe_id: SpiffeId | str, *, lift: bool = False, since: datetime | None = None
    ) -> Entry:
        domain = str(spiffe_id).partition("//")[2].partition(".")[0]
        request = authority_pb2.DistrustRequest(spiffe_id=str(spiffe_id), lift=lift)
        if since is not None:
            request.since_time.FromDatetime(since)
        if not lift:
            request.reason = "stolen"
        async with contextlib.AsyncExitStack() as stack:
            token = await me.token(self.mesh.trust_domain(domain))
            answer = await self.stub(stack, me, domain).Distrust(
                request, metadata=((AUTHORIZATION, f"Bearer {token}"),), timeout=PATIENCE_SECONDS
            )
        return entry_of(answer.entry)

    async def refused(
        self, me: Workload, spiffe_id: SpiffeId | str, **how: bool
    ) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.say(me, spiffe_id, **how)
        return failed.value.code(), failed.value.details() or ""

    async def enrolled(self, token: str) -> tuple[bytes, ...]:
        name = self.mesh.server_name("authority", "servers")
        address = f"127.0.0.1:{self.ports['servers'][1]}"
        async with dial(address, name, self.mesh.trust.root_pem) as channel:
            answer = await AuthorityStub(channel).Enroll(
                authority_pb2.EnrollRequest(join_token=token, signing_request=signing_request(new_key())),
                timeout=PATIENCE_SECONDS,
            )
        return tuple(answer.certificates)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.mesh.home.authority("servers"))

    @property
    def words(self) -> Distrusts:
        return Distrusts(self.ledger.state, "servers.telltale.test")

    @property
    def alice(self) -> Workload:
        return self.mesh.workload("operators", "/alice")

    @contextlib.asynccontextmanager
    async def hearing(self, state: Path, *domains: str) -> AsyncIterator[Trust]:
        """The trust of a workload that follows the authorities of these domains."""
        me = self.mesh.workload("platform", "/writer")
        authorities = {
            self.mesh.trust_domain(domain): f"127.0.0.1:{self.ports[domain][0]}" for domain in domains
        }
        async with hearing(me.trust, authorities, me.channel, state, patience=PATIENCE_SECONDS):
            yield me.trust


@contextlib.asynccontextmanager
async def serving(mesh: Mesh, *domains: str) -> AsyncIterator[Running]:
    running = Running(mesh, {})
    async with contextlib.AsyncExitStack() as stack:
        for domain in domains:
            address = AuthorityAddress(
                directory=mesh.home.authority(domain),
                listen="127.0.0.1:0",
                enrollment="127.0.0.1:0",
                # Those that are up; each later one follows them.
                peers={other: f"127.0.0.1:{ports[0]}" for other, ports in running.ports.items()},
            )
            settings = AuthoritySettings(
                authorities=(address,),
                trust=mesh.home.trust,
                enrollments_per_second=1_000,
                enrollments_per_second_and_address=1_000,
            )
            running.ports[domain] = await stack.enter_async_context(serving_authority(address, settings))
        yield running


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", *DOMAINS)


@pytest.fixture
async def running(mesh: Mesh) -> AsyncIterator[Running]:
    async with serving(mesh, *DOMAINS) as running:
        yield running


async def heard(trust: Trust, spiffe_id: SpiffeId, *, holds: bool = True) -> None:
    """Returns when the word has arrived."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with trust.distrust.listening() as changed:
            while (trust.distrust.name(spiffe_id) is not None) != holds:
                await changed.wait()
                changed.clear()


async def test_an_operator_distrusts_a_host_and_everybody_hears_it(running: Running, tmp_path: Path) -> None:
    async with running.hearing(tmp_path / "state", "servers") as trust:
        assert trust.distrust.name(WEB1) is None
        said = await running.say(running.alice, WEB1)
        assert (said.spiffe_id, said.until, said.by, said.reason) == (WEB1, None, str(ALICE), "stolen")
        await heard(trust, WEB1)
        assert trust.distrust.name(WEB1) == said


async def test_an_authority_passes_on_what_the_others_say(running: Running, tmp_path: Path) -> None:
    # The platform's authority, the last, follows the other two; the workload knows it alone.
    async with running.hearing(tmp_path / "state", "platform") as trust:
        assert [one.issuer.partition(".")[0] for one in trust.distrust.lists] == [
            "operators",
            "platform",
            "servers",
        ]
        await running.say(running.alice, WEB1)
        await heard(trust, WEB1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (tmp_path / "state" / "distrust" / "servers.telltale.test.binpb").exists():  # noqa: ASYNC110 -- a file tells no event
                await asyncio.sleep(0.02)
    # Kept: a process that starts while nobody answers knows it at once.
    nobody = running.mesh.workload("platform", "/writer")
    async with hearing(nobody.trust, {}, nobody.channel, tmp_path / "state"):
        assert nobody.trust.distrust.name(WEB1) is not None


async def test_a_list_goes_over_a_stream_once_and_its_statement_again_and_again(running: Running) -> None:
    async with contextlib.AsyncExitStack() as stack:
        me = running.mesh.workload("servers", "/agent/web2")
        call = running.stub(stack, me).WatchDistrust(authority_pb2.WatchDistrustRequest())
        first = (await call.read()).list
        await running.say(running.alice, WEB1)
        second = (await call.read()).list
        assert first.HasField("entries") and second.HasField("entries")
        assert first.statement != second.statement
        call.cancel()


async def test_the_authority_gives_a_distrusted_identity_nothing_any_more(running: Running) -> None:
    web1 = running.mesh.workload("servers", "/agent/web1")
    unused = str(running.ledger.grant(Profile(WEB1)).token)
    await running.say(running.alice, WEB1)
    async with contextlib.AsyncExitStack() as stack:
        stub = running.stub(stack, web1)
        calls = (
            stub.Renew(authority_pb2.RenewRequest(signing_request=signing_request(new_key())), timeout=10),
            stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test"]), timeout=10),
            stub.WatchDistrust(authority_pb2.WatchDistrustRequest(), timeout=10).read(),
        )
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "is distrusted since" in (failed.value.details() or "")
    with pytest.raises(Precondition, match="--lift` first"):
        running.ledger.grant(Profile(WEB1))
    # The join token that was made before is gone, for good.
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await running.enrolled(unused)
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await running.say(running.alice, WEB1, lift=True)
    with pytest.raises(grpc.aio.AioRpcError, match="unknown here"):
        await running.enrolled(unused)


async def test_its_streams_end_when_the_word_is_said(running: Running) -> None:
    async with contextlib.AsyncExitStack() as stack:
        web1 = running.mesh.workload("servers", "/agent/web1")
        call = running.stub(stack, web1).WatchDistrust(authority_pb2.WatchDistrustRequest())
        await call.read()
        await running.say(running.alice, WEB1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                # What was on its way may still come.
                while await call.read() is not EOF:
                    pass
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "is distrusted since" in (failed.value.details() or "")


async def test_after_the_lift_a_new_key_is_believed_and_the_old_one_is_not(
    running: Running, tmp_path: Path
) -> None:
    old = running.mesh.credentials("servers", "/agent/web1").certificates
    async with running.hearing(tmp_path / "state", "servers") as trust:
        await running.say(running.alice, WEB1)
        await heard(trust, WEB1)
        lifted = await running.say(running.alice, WEB1, lift=True)
        assert lifted.until is not None
        await heard(trust, WEB1, holds=False)
        leaf, issuer = await running.enrolled(str(running.ledger.grant(Profile(WEB1)).token))
        # However fast it all went: no certificate of before looks as if it were issued after.
        assert trust.identify_peer(leaf, [issuer]) == WEB1
        with pytest.raises(Exception, match="for new keys only"):
            trust.identify_peer(old[0], old[1:])


async def test_who_may_distrust_whom(running: Running) -> None:
    alice, mesh = running.alice, running.mesh
    for allowed in (
        WEB1,
        "spiffe://servers.telltale.test/reader/cloud",
        "spiffe://servers.telltale.test/receiver/x",
    ):
        await running.say(alice, allowed)
    await running.say(alice, "spiffe://operators.telltale.test/mallory")
    for denied in ("spiffe://servers.telltale.test/service", "spiffe://platform.telltale.test/gateway"):
        code, detail = await running.refused(alice, denied)
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "`distrust`" in detail and "python -m certs distrust" in detail
    for domain, path in (("servers", "/agent/web2"), ("servers", "/service"), ("platform", "/gateway")):
        code, _ = await running.refused(mesh.workload(domain, path), WEB1)
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_distrusted_operator_lifts_nothing(running: Running) -> None:
    mallory = running.mesh.workload("operators", "/mallory")
    token = await mallory.token("operators.telltale.test", "servers.telltale.test")
    await running.say(running.alice, str(mallory.spiffe_id))
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await running.stub(stack, mallory, "operators").Distrust(
                authority_pb2.DistrustRequest(spiffe_id=str(mallory.spiffe_id), lift=True),
                metadata=((AUTHORIZATION, f"Bearer {token}"),),
                timeout=PATIENCE_SECONDS,
            )
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "spiffe_id", ["", "web1", "spiffe://servers.telltale.test", "spiffe://other.mesh/agent/x"]
)
async def test_what_is_no_identity_of_the_domain_is_refused(running: Running, spiffe_id: str) -> None:
    alice = running.alice
    token = await alice.token("servers.telltale.test")
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await running.stub(stack, alice).Distrust(
                authority_pb2.DistrustRequest(spiffe_id=spiffe_id),
                metadata=((AUTHORIZATION, f"Bearer {token}"),),
                timeout=PATIENCE_SECONDS,
            )
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_said_what_is_logged(running: Running) -> None:
    with capture_logs() as logs:
        await running.say(running.alice, WEB1)
        await running.refused(running.alice, "spiffe://servers.telltale.test/service")
    (said,) = [entry for entry in logs if entry["event"] == "distrusted"]
    assert (said["by"], said["spiffe_id"], said["reason"]) == (str(ALICE), str(WEB1), "stolen")
    assert [entry["by"] for entry in logs if entry["event"] == "distrust refused"] == [str(ALICE)]


async def test_what_is_said_where_the_key_lies_is_told_by_the_running_authority(
    running: Running, tmp_path: Path
) -> None:
    service = SpiffeId("servers.telltale.test", "/service")

    async def certs(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "certs", "distrust", str(service)]
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, "--home", str(running.mesh.home.directory), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return str(done.stdout)

    async with running.hearing(tmp_path / "state", "servers") as trust:
        assert "is distrusted since" in await certs("--since", "2h", "--reason", "its disk was copied")
        await heard(trust, service)
        entry = trust.distrust.name(service)
        assert entry is not None and (entry.by, entry.reason) == ("console", "its disk was copied")
        assert timedelta(hours=2) <= datetime.now(UTC) - entry.since
        assert "believed again" in await certs("--lift")
        await heard(trust, service, holds=False)


async def test_words_outlive_the_authority_and_an_old_copy_of_its_state(mesh: Mesh, tmp_path: Path) -> None:
    async with serving(mesh, "operators", "servers") as running:
        await running.say(running.alice, WEB1)
        async with running.hearing(tmp_path / "state", "servers"):
            pass
    async with serving(mesh, "operators", "servers") as running:
        async with running.hearing(tmp_path / "other", "servers") as trust:
            assert trust.distrust.name(WEB1) is not None
    # The state is lost; the other authority still knows, and tells the authority what its own word was.
    async with serving(mesh, "servers", "operators"):
        pass
    (mesh.home.authority("servers") / STATE).unlink()
    async with serving(mesh, "operators", "servers") as running:
        async with running.hearing(tmp_path / "third", "servers") as trust:
            await heard(trust, WEB1)
        assert [entry.spiffe_id for entry in running.words.all()[1]] == [WEB1]


class Relay(AuthorityServicer):
    """An authority that was taken over: it passes on whatever it likes."""

    def __init__(self, *lists: DistrustList) -> None:
        self._lists = lists

    async def WatchDistrust(
        self, request: authority_pb2.WatchDistrustRequest, context: Context
    ) -> AsyncIterator[authority_pb2.WatchDistrustResponse]:
        for one in self._lists:
            yield authority_pb2.WatchDistrustResponse(list=as_sent(one))
        await asyncio.Event().wait()


async def test_a_relay_can_neither_forge_nor_roll_back(mesh: Mesh, tmp_path: Path) -> None:
    web2 = SpiffeId("servers.telltale.test", "/agent/web2")
    before = signed_list(mesh, "servers", 1)
    own = mesh.authorities["platform"]
    forged = make_list("servers.telltale.test", 9, [word(web2)], own.sign)
    relay = Relay(before, forged, replace(forged, entries=()), signed_list(mesh, "platform", 1))
    server = mesh.workload("platform", "/authority", [mesh.server_name("authority", "platform")])
    me = mesh.workload("platform", "/writer")
    me.trust.distrust.take(signed_list(mesh, "servers", 2, word(WEB1)))
    async with serving_port(
        server,
        "127.0.0.1:0",
        CertificateAuthenticator(server.trust),
        lambda target: add_AuthorityServicer_to_server(relay, target),
        grace=0.1,
    ) as port:
        peers = {mesh.trust_domain("platform"): f"127.0.0.1:{port}"}
        with capture_logs() as logs:
            async with hearing(me.trust, peers, me.channel, tmp_path, patience=PATIENCE_SECONDS):
                # The relay's own list is the last, so everything before it was looked at.
                assert me.trust.distrust.of(mesh.trust_domain("platform")) is not None
                assert me.trust.distrust.name(WEB1) is not None
                assert me.trust.distrust.name(web2) is None
    assert len([one for one in logs if one["event"] == "a list of distrust is not believed"]) == 2


def test_the_earlier_of_two_times_holds(mesh: Mesh) -> None:
    words = Distrusts(Ledger(mesh.home.authority("servers")).state, "servers.telltale.test")
    noon = datetime.now(UTC) - timedelta(hours=5)
    words.distrust(WEB1, None, "first", "alice")
    assert words.distrust(WEB1, noon, "", "bob").since == noon
    again = words.distrust(WEB1, noon + timedelta(hours=1), "second", "carol")
    assert (again.since, again.reason, again.by) == (noon, "second", "alice")
    sequence, entries = words.all()
    assert len(entries) == 1 and sequence == words.sequence() > 0


def test_the_sequence_only_grows(mesh: Mesh) -> None:
    words = Distrusts(Ledger(mesh.home.authority("servers")).state, "servers.telltale.test")
    seen = [words.sequence()]
    for _ in range(3):
        words.distrust(WEB1, None, "", "alice")
        seen.append(words.sequence())
        words.lift(WEB1)
        seen.append(words.sequence())
    assert seen == sorted(set(seen))
    assert len(words.all()[1]) == 3


def test_what_cannot_be_said_is_refused_with_the_reason(mesh: Mesh) -> None:
    words = Distrusts(Ledger(mesh.home.authority("servers")).state, "servers.telltale.test")
    with pytest.raises(InvalidInput, match="its own authority"):
        words.distrust(ALICE, None, "", "alice")
    with pytest.raises(InvalidInput, match="the authority itself"):
        words.distrust(SpiffeId("servers.telltale.test", "/authority"), None, "", "alice")
    with pytest.raises(InvalidInput, match="lies ahead"):
        words.distrust(WEB1, datetime.now(UTC) + timedelta(hours=1), "", "alice")
    for reason in ("x" * 201, "two\nlines", "\x1b[31m"):
        with pytest.raises(InvalidInput, match="one line"):
            words.distrust(WEB1, None, reason, "alice")
    with pytest.raises(Precondition, match="nothing to lift"):
        words.lift(WEB1)


def test_words_are_bounded_and_one_operator_cannot_use_them_up(mesh: Mesh) -> None:
    words = Distrusts(Ledger(mesh.home.authority("servers")).state, "servers.telltale.test")
    names = [SpiffeId("servers.telltale.test", f"/agent/{n}") for n in range(MOST_ENTRIES)]
    for name in names[:200]:
        words.distrust(name, None, "", "alice")
    with pytest.raises(LimitExceeded, match="alice has spoken of 200"):
        words.distrust(WEB1, None, "", "alice")
    assert words.distrust(WEB1, None, "", "bob").spiffe_id == WEB1
    later = words.sequence() + 1
    words.adopt(later, [word(name) for name in names[: MOST_ENTRIES - 500]])
    with pytest.raises(LimitExceeded, match="where the authority's key lies"):
        words.distrust(WEB1, None, "", "bob")
    # What is said beside the key has room whatever operators have said.
    assert words.distrust(WEB1, None, "", CONSOLE).spiffe_id == WEB1
    words.adopt(later + 10_000_000_000_000, [word(name) for name in names])
    with pytest.raises(LimitExceeded, match="its most"):
        words.distrust(WEB1, None, "", CONSOLE)


def test_an_older_list_is_not_taken_over(mesh: Mesh) -> None:
    words = Distrusts(Ledger(mesh.home.authority("servers")).state, "servers.telltale.test")
    words.distrust(WEB1, None, "", "alice")
    sequence, _ = words.all()
    words.adopt(sequence, [])
    words.adopt(sequence - 1, [])
    assert [entry.spiffe_id for entry in words.all()[1]] == [WEB1]


def test_a_used_join_token_buys_nothing_once_its_identity_was_distrusted(mesh: Mesh) -> None:
    ledger = Ledger(mesh.home.authority("servers"))
    words = Distrusts(ledger.state, "servers.telltale.test")
    token, key = str(ledger.grant(Profile(WEB1)).token), new_key().public_key()

    def issue(profile: Profile) -> tuple[bytes, ...]:
        return mesh.authorities["servers"].issue(profile, key)

    assert ledger.redeem(token, bytes(32), issue).certificates
    words.distrust(WEB1, None, "", "alice")
    words.lift(WEB1)
    with pytest.raises(Unauthenticated, match="ask for a new one"):
        ledger.redeem(token, bytes(32), issue)


def test_an_empty_policy_lets_nobody_distrust() -> None:
    with pytest.raises(PermissionMissing, match="`distrust`"):
        InvitationPolicy("").require_distrust(Principal(ALICE), WEB1, MESH)


async def test_peers_without_their_keys_are_a_mistake_that_is_named(mesh: Mesh) -> None:
    address = AuthorityAddress(
        directory=mesh.home.authority("servers"),
        listen="127.0.0.1:0",
        enrollment="127.0.0.1:0",
        peers={"platform": "127.0.0.1:1"},
    )
    with pytest.raises(ConfigurationError, match="TELLTALE_TRUST"):
        async with serving_authority(address, AuthoritySettings(authorities=(address,))):
            pass
