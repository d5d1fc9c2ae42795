"""Join tokens over the wire: who gets one for whom, and why everybody else does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from certs.policy import InvitationPolicy
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.domain.cedar import Principal
from telltale.errors import ConfigurationError, PermissionMissing
from telltale.identity.dialling import dial
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key, signing_request
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.auth import AUTHORIZATION, ON_BEHALF_OF
from tests.support.auditing import Recorded
from tests.support.mesh import Mesh

Metadata = tuple[tuple[str, str], ...]


@dataclass
class Running:
    """The servers' authority, which serves, and those who call it."""

    mesh: Mesh
    port: int
    enrollment: int
    recorded: Recorded

    @property
    def alice(self) -> Workload:
        return self.mesh.workload("operators", "/alice")

    async def create(
        self, me: Workload, path: str, *dns_names: str, metadata: Metadata | None = None
    ) -> authority_pb2.CreateJoinTokenResponse:
        if metadata is None:
            metadata = await self.bearer(me, "servers")
        name = self.mesh.server_name("authority", "servers")
        async with me.channel(f"127.0.0.1:{self.port}", name) as channel:
            return await authority_pb2_grpc.AuthorityStub(channel).CreateJoinToken(
                authority_pb2.CreateJoinTokenRequest(path=path, dns_names=dns_names),
                metadata=metadata,
                timeout=10,
            )

    async def bearer(self, me: Workload, domain: str) -> Metadata:
        return ((AUTHORIZATION, f"Bearer {await me.token(self.mesh.trust_domain(domain))}"),)

    async def refused(
        self, me: Workload, path: str, *dns_names: str, metadata: Metadata | None = None
    ) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.create(me, path, *dns_names, metadata=metadata)
        return failed.value.code(), failed.value.details() or ""


@asynccontextmanager
async def serving(directory: Path, *, with_trust: bool = True) -> AsyncIterator[Running]:
    mesh = Mesh.create(directory, "servers", "operators", "platform")
    address = AuthorityAddress(
        directory=mesh.home.authority("servers"),
        listen="127.0.0.1:0",
        enrollment="127.0.0.1:0",
        service_address="servers.example.org:7443",
    )
    settings = AuthoritySettings(authorities=(address,), trust=mesh.home.trust if with_trust else None)
    recorded = Recorded()
    async with serving_authority(address, settings, auditor=recorded) as (port, enrollment):
        yield Running(mesh, port, enrollment, recorded)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(tmp_path) as running:
        yield running


async def test_an_operator_gets_a_join_token_that_enrols_that_agent_and_says_where(running: Running) -> None:
    made = await running.create(running.alice, "/agent/web1")
    assert made.spiffe_id == "spiffe://servers.telltale.test/agent/web1"
    assert made.root_sha256.hex() == running.mesh.home.root_sha256()
    assert made.enrollment_address == f"127.0.0.1:{running.enrollment}"
    name = running.mesh.server_name("authority", "servers")
    async with dial(made.enrollment_address, name, running.mesh.trust.root_pem) as channel:
        answer = await authority_pb2_grpc.AuthorityStub(channel).Enroll(
            authority_pb2.EnrollRequest(join_token=made.token, signing_request=signing_request(new_key()))
        )
    assert answer.mesh == running.mesh.name
    assert len(answer.root_certificates) == 1
    assert answer.authority_address == f"127.0.0.1:{running.port}"
    assert answer.service_address == "servers.example.org:7443"


async def test_who_invited_whom_is_logged_and_the_token_is_not(running: Running) -> None:
    with capture_logs() as logs:
        made = await running.create(running.alice, "/agent/web1")
        await running.refused(running.alice, "/service")
        await running.refused(running.alice, "/agent/web1", metadata=())
    (invited,) = [entry for entry in logs if entry["event"] == "invited"]
    assert invited["by"] == "spiffe://operators.telltale.test/alice"
    assert invited["spiffe_id"] == "spiffe://servers.telltale.test/agent/web1"
    assert [entry["by"] for entry in logs if entry["event"] == "invitation refused"] == [invited["by"]] * 2
    assert JoinToken.parse(made.token).secret not in str(logs)


@pytest.mark.parametrize("path", ["/service", "/gateway", "/reader/cloud", "/replay/run1"])
async def test_operators_invite_agents_and_nothing_else(running: Running, path: str) -> None:
    code, detail = await running.refused(running.alice, path)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "`invite`" in detail
    assert f"`{path.split('/')[1]}`" in detail


async def test_an_agent_with_a_server_name_is_refused(running: Running) -> None:
    code, detail = await running.refused(running.alice, "/agent/web1", "service.servers.telltale.test")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "with server names" in detail


@pytest.mark.parametrize(
    ("domain", "path"), [("servers", "/agent/web1"), ("platform", "/gateway"), ("servers", "/service")]
)
async def test_nobody_but_operators_invites(running: Running, domain: str, path: str) -> None:
    code, detail = await running.refused(running.mesh.workload(domain, path), "/agent/web2")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "`invite`" in detail


async def test_a_certificate_without_token_is_not_enough(running: Running) -> None:
    code, detail = await running.refused(running.alice, "/agent/web1", metadata=())
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "authorization: Bearer" in detail


async def test_a_token_for_another_domain_or_of_another_operator_is_refused(running: Running) -> None:
    alice, mallory = running.alice, running.mesh.workload("operators", "/mallory")
    foreign = await running.bearer(alice, "platform")
    code, detail = await running.refused(alice, "/agent/web1", metadata=foreign)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "not meant for servers.telltale.test" in detail
    stolen = await running.bearer(alice, "servers")
    code, detail = await running.refused(mallory, "/agent/web1", metadata=stolen)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "bound to another certificate" in detail


async def test_not_even_the_gateway_invites_for_another(running: Running) -> None:
    gateway = running.mesh.workload("platform", "/gateway")
    (own,) = await running.bearer(gateway, "servers")
    (alices,) = await running.bearer(running.alice, "servers")
    passed_on = (own, (ON_BEHALF_OF, alices[1].removeprefix("Bearer ")))
    code, detail = await running.refused(gateway, "/agent/web1", metadata=passed_on)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "may not speak for others" in detail


@pytest.mark.parametrize(
    "path", ["", "agent/web1", "/agent/../service", "/agent/a/b", "/authority", "/agent/" + "x" * 600]
)
async def test_what_cannot_be_an_identity_of_this_domain_is_refused(running: Running, path: str) -> None:
    code, _ = await running.refused(running.alice, path)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_join_tokens_at_once_are_refused(running: Running) -> None:
    alice = running.alice
    metadata = await running.bearer(alice, "servers")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        for number in range(60):
            await running.create(alice, f"/agent/web{number}", metadata=metadata)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_authority_without_the_operators_keys_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, with_trust=False) as running:
        code, detail = await running.refused(running.alice, "/agent/web1")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "not in this process's trust bundle" in detail


async def test_a_stranger_cannot_even_ask(running: Running) -> None:
    name = running.mesh.server_name("authority", "servers")
    async with dial(f"127.0.0.1:{running.enrollment}", name, running.mesh.trust.root_pem) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await authority_pb2_grpc.AuthorityStub(channel).CreateJoinToken(
                authority_pb2.CreateJoinTokenRequest(path="/agent/web1"), timeout=10
            )
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_empty_policy_permits_nothing() -> None:
    alice = Principal(SpiffeId("operators.telltale.test", "/alice"))
    web1 = Profile(SpiffeId("servers.telltale.test", "/agent/web1"))
    with pytest.raises(PermissionMissing, match="`invite`"):
        InvitationPolicy("").require(alice, web1, "telltale.test")


def test_a_policy_that_speaks_of_what_is_not_there_names_file_and_line() -> None:
    with pytest.raises(ConfigurationError, match=r"mine\.cedar, line 2"):
        InvitationPolicy('\n@id("a") permit (principal, action == Action::"push", resource);', "mine.cedar")


async def test_who_invited_whom_by_which_rule_is_recorded_and_so_is_every_refusal(running: Running) -> None:
    alice, agent = running.alice, running.mesh.workload("servers", "/agent/web9")
    made = await running.create(alice, "/agent/web1")
    await running.refused(alice, "/service")
    await running.refused(agent, "/agent/web1")
    await running.refused(alice, "/agent/web1", metadata=())
    invited, service, by_agent, unknown = running.recorded.decisions
    assert (invited.action, invited.allowed, invited.principal) == ("invite", True, str(alice.spiffe_id))
    assert invited.subject == made.spiffe_id and invited.rules == ("operators-invite-agents",)
    assert (service.action, service.allowed, service.rules) == ("invite", False, ())
    assert service.subject == "spiffe://servers.telltale.test/service"
    assert (by_agent.allowed, by_agent.principal) == (False, str(agent.spiffe_id))
    assert (unknown.action, unknown.allowed, unknown.peer) == ("authenticate", False, str(alice.spiffe_id))
    assert "CreateJoinToken" in unknown.reason
    assert JoinToken.parse(made.token).secret not in str(running.recorded)


async def test_a_rule_that_forbids_an_invitation_is_named(tmp_path: Path) -> None:
    policy = InvitationPolicy('@id("nobody") forbid (principal, action, resource);')
    alice = Principal(SpiffeId.parse("spiffe://operators.telltale.test/alice"))
    web1 = Profile(SpiffeId.parse("spiffe://servers.telltale.test/agent/web1"), ())
    with pytest.raises(PermissionMissing) as refused:
        policy.require(alice, web1, "telltale.test")
    assert refused.value.rules == ("nobody",)
