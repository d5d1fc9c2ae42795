"""A stolen key on a real mesh: an operator distrusts the host, and what the thief holds is worth nothing."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from telltale.api.mesh.v1.ingest_pb2 import ChainsRequest, RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.cli.processes import processes
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key
from telltale.identity.workload import Workload
from telltale.naming import OPERATORS
from tests.support.attacker import Attacker, bearer
from tests.support.batches import DISK_USAGE, Chain, disk_usage
from tests.support.running_mesh import PATIENCE_SECONDS, RunningMesh, eventually, up

pytestmark = [pytest.mark.xdist_group("distrust"), pytest.mark.timeout(360)]


def stored(mesh: RunningMesh, verdict: str) -> int:
    """Rows of the host's memory with this verdict."""
    rows = mesh.query(f"SELECT count(*) AS n FROM servers_memory WHERE _verified = '{verdict}'")
    return int(rows[0]["n"]) if rows else 0


async def refusal(attacker: Attacker, thief: Workload) -> tuple[grpc.StatusCode, str]:
    """What the servers service says to a new call of the thief, whose token was fetched before."""
    async with attacker.channel(thief, "servers") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await IngestStub(channel).Chains(
                ChainsRequest(), metadata=await bearer(thief, "servers"), timeout=PATIENCE_SECONDS
            )
    return failed.value.code(), failed.value.details() or ""


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        code = await call.code()
        return code, await call.details() or ""


async def test_a_stolen_key_is_worth_nothing_once_its_host_is_distrusted(tmp_path: Path) -> None:
    settings = {"TELLTALE_INTERVALS": "servers.memory=1s"}
    with up(tmp_path / "home", settings=settings) as mesh:
        eventually(lambda: stored(mesh, "VERIFIED") > 3, "rows of the agent", mesh)
        attacker = Attacker(mesh)
        thief = attacker.steal("agent")
        host = str(thief.spiffe_id)
        async with attacker.pushing(thief) as live:
            said = mesh.telltale("distrust", host, "--reason", "stolen laptop")
            assert f"telltale distrust {host} --lift" in said

            # The stream that was open ends, and nothing new begins; the token in hand does not help.
            code, detail = await ended(live)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "is distrusted since" in detail and "stolen laptop" in detail
        code, detail = await refusal(attacker, thief)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "`telltale distrust SPIFFE-ID --lift`" in detail

        # Everybody knows it: the command line from another authority, the analysis as a finding.
        listed = mesh.json("distrust")
        assert [(one["spiffe_id"], one["until"], one["reason"]) for one in listed["entries"]] == [
            (host, None, "stolen laptop")
        ]
        domains = {process.domain for process in processes("host")} | {OPERATORS}
        assert {one["trust_domain"] for one in listed["lists"]} == {
            f"{domain}.telltale.internal" for domain in domains
        }
        eventually(lambda: finding(mesh, "OPEN"), "the finding", mesh)

        # The service starts again, and still knows.
        restart(attacker, "services.servers")
        code, detail = await refusal(attacker, thief)
        assert (code, "stolen laptop" in detail) == (grpc.StatusCode.UNAUTHENTICATED, True)

        # It was stolen an hour ago: what is stored since then says so.
        mesh.telltale("distrust", host, "--since", "1h")
        eventually(lambda: stored(mesh, "DISTRUSTED") and not stored(mesh, "VERIFIED"), "the marks", mesh)
        quarantined = mesh.query("SELECT DISTINCT source, signed FROM quarantine WHERE reason = 'DISTRUSTED'")
        assert quarantined == [{"source": host, "signed": True}]

        # Set up anew: a new key is believed, the stolen one is not.
        said = mesh.telltale("agent", "token", host.rpartition("/")[2], check=False)
        assert "is distrusted since" in said
        mesh.telltale("distrust", host, "--lift")
        fresh = await enrolled_anew(attacker, thief)
        taken = await attacker.push(fresh, chain_of(fresh).next([disk_usage("/anew")]))
        assert len(taken.acks) == 1 and not taken.refusals
        code, detail = await refusal(attacker, thief)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "for new keys only" in detail
        # Not even the new key brings in what the old one sealed.
        sealed = chain_of(thief).next([disk_usage("/stolen")])
        certificates = (*fresh.credentials.certificates, *thief.credentials.certificates)
        refused = await attacker.push(fresh, sealed, certificates=certificates)
        assert [one.reason for one in refused.refusals] == [RefusalReason.REFUSAL_REASON_DISTRUSTED]
        eventually(
            lambda: mesh.query(
                "SELECT 1 FROM servers_disk_usage WHERE mountpoint = '/anew' AND _verified = 'VERIFIED'"
            ),
            "the row of the new key",
            mesh,
        )
        eventually(lambda: finding(mesh, "ENDED"), "the end of the finding", mesh)
        assert not stored(mesh, "VERIFIED")


def chain_of(who: Workload) -> Chain:
    """Begun now, and so above every chain that the real agent began."""
    return Chain(who.credentials, DISK_USAGE, epoch=time.time_ns() // 1_000_000)


async def enrolled_anew(attacker: Attacker, thief: Workload) -> Workload:
    """The host with a new key, as `telltale agent join` makes it."""
    spiffe_id = thief.spiffe_id
    made = attacker.mesh.json("agent", "token", spiffe_id.path.rpartition("/")[2])
    authority = attacker.authority("servers")
    return Workload(
        await authority.enroll(JoinToken.parse(made["token"]), new_key()), attacker.trust, authority
    )


def finding(mesh: RunningMesh, state: str) -> bool:
    rows = mesh.query(
        f"SELECT 1 FROM analysis_findings WHERE detection = 'distrusted_source' AND state = '{state}'"
    )
    return bool(rows)


def restart(attacker: Attacker, module: str) -> None:
    """Kills a process of the mesh; its supervisor starts it again."""
    mesh, before = attacker.mesh, attacker.mesh.pid(module)
    host, _, port = attacker.environment(module)["TELLTALE_LISTEN"].rpartition(":")
    os.kill(before, signal.SIGKILL)

    def again() -> bool:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return mesh.pid(module) != before
        except (OSError, RuntimeError):
            return False

    eventually(again, f"the restart of {module}", mesh)
