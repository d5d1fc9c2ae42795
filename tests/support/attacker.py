"""Whoever has stolen credentials of a running mesh: real identities, real calls to its processes."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import psutil
from cryptography.hazmat.primitives.asymmetric import ec

from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient, JoinToken
from telltale.identity.keys import load_key, new_key
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.naming import server_name, trust_domain
from tests.support.batches import DISK_USAGE, SCHEMAS
from tests.support.running_mesh import RunningMesh

MESH = "telltale.internal"
SERVERS = f"servers.{MESH}"
MESH_API = "/telltale.api.mesh.v1."
SERVERS_API = "/telltale.api.servers.v1."
GATEWAY = "gateway"
# Each is the module of a process of the mesh and the directory of its state.
STATES = {
    "agent": "agent",
    "agent.receiver": "receiver",
    "services.servers": "servers",
    "services.network": "network",
    "services.platform": "platform",
    "services.analysis": "analysis",
    "services.writer": "writer",
    GATEWAY: GATEWAY,
}
Metadata = tuple[tuple[str, str], ...]
# Identities that an authority has issued already: it takes only so many newcomers a minute.
_enrolled: dict[tuple[Path, str, str], Credentials] = {}


class HeldCalls:
    """Calls that are opened over many connections and never made: headers, and no request."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], method: str, number: int) -> None:
        stubs: list[Any] = [channel.stream_stream(method) for channel in channels]
        calls = [stubs[index % len(stubs)]() for index in range(number)]
        self._ending = [asyncio.create_task(self._end(call)) for call in calls]

    async def refused(self, number: int) -> set[str]:
        """What so many of them are told that are refused for their number, once they are."""
        told = [await each for each in itertools.islice(asyncio.as_completed(self._ending), number)]
        # Of calls that come in a flood gRPC itself cancels some.
        assert {code for code, _ in told} <= {"RESOURCE_EXHAUSTED", "CANCELLED"}, Counter(told)
        return {said for code, said in told if code == "RESOURCE_EXHAUSTED"}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for each in self._ending:
            each.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    @staticmethod
    async def _end(call: Any) -> tuple[str, str]:
        try:
            await call.read()
        except grpc.aio.AioRpcError as failed:
            return failed.code().name, failed.details() or ""
        finally:
            call.cancel()
        return "OK", ""


class Attacker:
    """Speaks for any process of the mesh, and for new identities that it was given a join token for."""

    def __init__(self, mesh: RunningMesh) -> None:
        self.mesh = mesh
        self.trust = Trust.load(mesh.home / "trust", MESH)

    def environment(self, module: str) -> dict[str, str]:
        return psutil.Process(self.mesh.pid(module)).environ()

    def steal(self, module: str) -> Workload:
        """The identity of a running process, from the files of its state."""
        environment = self.environment(module)
        held = Credentials.load(self.mesh.home / "state" / STATES[module])
        assert held is not None
        return Workload(held, self.trust, self._authority(environment))

    def join_token(self, domain: str, path: str) -> str:
        command = [sys.executable, "-P", "-m", "certs", "join-token", "--home", str(self.mesh.home)]
        done = subprocess.run(
            [*command, "--domain", domain, "--path", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def authority(self, domain: str) -> AuthorityClient:
        for served in json.loads(self.environment("certs")["TELLTALE_AUTHORITIES"]):
            if Path(served["directory"]).name == domain:
                return AuthorityClient(self.trust, served["listen"], served["enrollment"])
        raise LookupError(domain)

    async def enrol(self, domain: str, path: str) -> Workload:
        """A new identity of the mesh, as its authority issues it."""
        authority, name = self.authority(domain), (self.mesh.home, domain, path)
        if name not in _enrolled:
            token = await asyncio.to_thread(self.join_token, domain, path)
            _enrolled[name] = await authority.enroll(JoinToken.parse(token), new_key())
        return Workload(_enrolled[name], self.trust, authority)

    def enrolled(self) -> set[str]:
        """Everybody whom the tests have made here: they show their tokens to whom they like."""
        return {str(made.spiffe_id) for (home, _, _), made in _enrolled.items() if home == self.mesh.home}

    def channel(self, who: Workload, server: str) -> grpc.aio.Channel:
        """To the gateway, or to the service of a domain."""
        if server == GATEWAY:
            return who.channel(self.mesh.gateway, server_name(GATEWAY, trust_domain("platform", MESH)))
        return who.channel(self.service(server), server_name("service", trust_domain(server, MESH)))

    def service(self, domain: str) -> str:
        """The address of a domain's service."""
        return self.environment(f"services.{domain}")["TELLTALE_LISTEN"]

    def authority_channel(self, who: Workload, domain: str) -> grpc.aio.Channel:
        """To the authority of a domain."""
        return who.channel(
            self.authority(domain)._authority, server_name("authority", trust_domain(domain, MESH))
        )

    def keys(self) -> dict[str, ec.EllipticCurvePrivateKey]:
        """Every private key of the mesh by where it lies below the home."""
        files = [*self.mesh.home.rglob("identity.pem"), *self.mesh.home.rglob("*.key")]
        return {str(path.parent.relative_to(self.mesh.home) / path.name): load_key(path) for path in files}

    async def push(
        self, who: Workload, *batches: SealedBatch, certificates: Sequence[bytes] | None = None
    ) -> PushResponse:
        """The answers of the servers domain, all in one."""
        response = PushResponse()
        async with self.pushing(who) as call:
            known = who.credentials.certificates if certificates is None else certificates
            await call.write(PushRequest(batches=batches, certificates=known))
            await call.done_writing()
            async for answer in call:
                response.MergeFrom(answer)
        return response

    @asynccontextmanager
    async def pushing(self, who: Workload) -> AsyncIterator[Any]:
        metadata = await bearer(who, "servers")
        async with self.channel(who, "servers") as channel:
            await SchemasStub(channel).Register(
                RegisterSchemaRequest(file_descriptor_set=SCHEMAS[DISK_USAGE].data), metadata=metadata
            )
            call = IngestStub(channel).Push(metadata=metadata)
            await call.initial_metadata()
            yield call

    @staticmethod
    def _authority(environment: dict[str, str]) -> AuthorityClient:
        trust = Trust.load(Path(environment["TELLTALE_TRUST"]), MESH)
        return AuthorityClient(trust, environment["TELLTALE_AUTHORITY"], environment["TELLTALE_ENROLLMENT"])


async def bearer(who: Workload, *audiences: str) -> Metadata:
    token = await who.token(*(trust_domain(domain, MESH) for domain in audiences))
    return (("authorization", f"Bearer {token}"),)


async def answer(
    channel: grpc.aio.Channel, method: str, request: bytes, metadata: Metadata = ()
) -> tuple[str, str]:
    """The status of a call and what it says, whatever its method's shape; OK as soon as there is data."""

    call = opened(channel, method, request, metadata, timeout=20)
    try:
        async for _ in call:
            return "OK", ""
        code: grpc.StatusCode = await call.code()
        return code.name, ""
    except grpc.aio.AioRpcError as failed:
        return failed.code().name, failed.details() or ""
    finally:
        call.cancel()


def opened(
    channel: grpc.aio.Channel, method: str, request: bytes, metadata: Metadata, timeout: float | None = None
) -> Any:
    """A call with raw bytes. The one request goes out with it: no status is lost to a write that fails."""
    # The stubs know no calls without serializers.
    stub: Any = channel.unary_stream
    return stub(method)(request, metadata=metadata, timeout=timeout)
