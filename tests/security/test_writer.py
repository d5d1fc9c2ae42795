"""The writer, taken over: it reads what it stores, keeps its own history, and changes nothing for others."""

import psutil
import pytest

from telltale.api.mesh.v1.access_pb2 import CheckRequest
from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.naming import server_name
from tests.support.attacker import GATEWAY, MESH, MESH_API, Attacker, answer, bearer

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


async def test_a_writer_pushes_registers_decides_and_invites_nothing(attacker: Attacker) -> None:
    writer = attacker.steal("services.writer")
    register = RegisterRequest(address="127.0.0.1:1").SerializeToString()
    check = CheckRequest(token="x").SerializeToString()
    for server, method, request, permission in (
        ("servers", "Ingest/Push", b"", "`push`"),
        ("servers", "Schemas/Register", b"", "`push`"),
        ("analysis", "Ingest/Push", b"", "`push`"),
        ("servers", "Access/Check", check, "`forward`"),
        (GATEWAY, "Catalog/Register", register, "`register`"),
    ):
        metadata = await bearer(writer, "platform", "servers", "analysis")
        async with attacker.channel(writer, server) as channel:
            code, detail = await answer(channel, MESH_API + method, request, metadata)
        assert (code, permission in detail) == ("PERMISSION_DENIED", True), (method, detail)
    invite = CreateJoinTokenRequest(path="/agent/mine").SerializeToString()
    for domain in ("platform", "servers", "operators"):
        async with attacker.authority_channel(writer, domain) as channel:
            metadata = await bearer(writer, domain)
            code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
        assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_a_writer_serves_health_and_nothing_that_others_read(attacker: Attacker, eve: object) -> None:
    process = psutil.Process(attacker.mesh.pid("services.writer"))
    listens = [one for one in process.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN]
    assert len(listens) == 1
    reader = attacker.steal("services.servers")
    name = server_name("writer", f"platform.{MESH}")
    async with reader.channel(f"127.0.0.1:{listens[0].laddr.port}", name) as channel:
        metadata = await bearer(reader, "platform")
        for method in ("Stream/Subscribe", "Schemas/Get", "Catalog/ListProducts", "Ingest/Push"):
            assert (await answer(channel, MESH_API + method, b"", metadata))[0] == "UNIMPLEMENTED"


async def test_a_writer_holds_no_file_of_another_process_open_to_write(attacker: Attacker) -> None:
    process = psutil.Process(attacker.mesh.pid("services.writer"))
    own = attacker.mesh.home / "state" / "writer"
    logs = attacker.mesh.home / "logs"
    for one in process.open_files():
        if one.mode not in ("r", "rb"):
            assert one.path.startswith((f"{own}/", f"{logs}/")), one
