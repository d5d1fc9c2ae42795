"""The gateway before a real domain service: its lease, its policy, its log, batches that hold."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from telltale.api.mesh.v1.batch_pb2 import SealedFrame
from telltale.api.mesh.v1.stream_pb2 import (
    ListRequest,
    StreamSubscribeRequest,
    SubscribeRequest,
    WatchRequest,
)
from telltale.api.mesh.v1.stream_pb2_grpc import StreamStub
from telltale.api.servers.v1.accounts_pb2 import AccountsList, AccountsRecord
from telltale.api.servers.v1.accounts_pb2_grpc import AccountsStub
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame
from telltale.api.servers.v1.disk_usage_pb2_grpc import DiskUsageStub
from telltale.api.servers.v1.inventory_pb2_grpc import InventoryStub
from telltale.cli import show
from telltale.cli.home import Mesh as Place
from telltale.cli.operator import Operator
from telltale.cli.products import entry_row
from telltale.identity.workload import Workload
from telltale.seal.verify import Verifier
from tests.gateway.realdomain import servers, source
from tests.gateway.wire import Gateway, gateway_service
from tests.support.batches import DISK_USAGE, INVENTORY, disk_usage, header_of, host
from tests.support.domain import free_port
from tests.support.mesh import Mesh
from tests.support.running_mesh import BIN

ACCOUNTS = "servers.accounts"
ACCOUNTS_API = "telltale.api.servers.v1.Accounts"
Started = tuple[Gateway, Mesh]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh.create(tmp_path_factory.mktemp("mesh"), "platform", "servers", "network", "operators")


async def test_sealed_batches_arrive_whole_and_in_order_across_a_restart_of_the_domain(
    mesh: Mesh, tmp_path: Path
) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    writer = mesh.workload("platform", "/writer")
    verifier = Verifier(mesh.trust)
    sequences: list[int] = []

    async def read(gateway: Gateway) -> None:
        async with gateway.channel(writer) as channel:
            request = StreamSubscribeRequest(products=["*"])
            call = StreamStub(channel).Subscribe(request, metadata=await gateway.metadata(writer))
            async for frame in call:
                assert isinstance(frame, SealedFrame) and not frame.HasField("gap")
                verifier.learn(frame.certificates)
                for batch in frame.batches:
                    sequences.append(verifier.verify(batch, datetime.now(UTC)).sequence)

    async def arrived(count: int) -> None:
        async with asyncio.timeout(20):
            while len(sequences) < count:
                assert not reading.done(), reading.result()
                await asyncio.sleep(0.01)

    async with gateway_service(mesh, tmp_path / "gateway") as gateway:
        reading = asyncio.create_task(read(gateway))
        port = free_port()
        async with servers(mesh, gateway, tmp_path / "servers", port):
            async with source(mesh, agent, tmp_path / "spool.db", port) as one:
                for number in range(20):
                    await one.publish(DISK_USAGE, [disk_usage(f"/{number}")])
                await arrived(20)
        moved = free_port()
        async with servers(mesh, gateway, tmp_path / "servers", moved):
            async with source(mesh, agent, tmp_path / "spool.db", moved) as one:
                for number in range(20):
                    await one.publish(DISK_USAGE, [disk_usage(f"/{number}")])
                await arrived(40)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert sequences == list(range(1, 41))


async def refused(call: "grpc.aio.UnaryStreamCall[Any, Any]") -> str:
    """Why a stream is not for the caller."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    return error.value.details() or ""


async def test_who_sees_less_gets_masked_lists_and_watches_and_no_stream(mesh: Mesh, tmp_path: Path) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    ann, ray = mesh.workload("operators", "/ann"), mesh.workload("operators", "/ray", groups=["responders"])
    port = free_port()
    async with (
        gateway_service(mesh, tmp_path / "gateway") as gateway,
        servers(mesh, gateway, tmp_path / "servers", port),
        source(mesh, agent, tmp_path / "spool.db", port) as one,
        gateway.channel(ann) as anns,
        gateway.channel(ray) as rays,
        asyncio.timeout(30),
    ):
        await one.snapshot(ACCOUNTS, [AccountsRecord(account="marguerite", shell="/bin/bash")])
        metadata = await gateway.metadata(ray)
        whole = AccountsList()
        while not whole.entries:
            # Until the domain has its lease the gateway says that it may come yet.
            with contextlib.suppress(grpc.aio.AioRpcError):
                whole = await AccountsStub(rays).List(ListRequest(), metadata=metadata)
            await asyncio.sleep(0.05)
        assert (whole.entries[0].record.account, list(whole.masked_fields)) == ("marguerite", [])
        for request in (StreamSubscribeRequest(products=[ACCOUNTS]), StreamSubscribeRequest(products=["*"])):
            call = StreamStub(rays).Subscribe(request, metadata=metadata)
            (batch,) = (await call.read()).batches
            call.cancel()
            assert b"marguerite" in batch.payload and batch.signature
        metadata = await gateway.metadata(ann)
        masked = await AccountsStub(anns).List(ListRequest(), metadata=metadata)
        assert (
            masked.entries[0].record == AccountsRecord(shell="/bin/bash")
            and "account" in masked.masked_fields
        )
        watch = AccountsStub(anns).Watch(WatchRequest(), metadata=metadata)
        copy = (await watch.read()).batches[0]
        watch.cancel()
        assert copy.payload.records[0] == AccountsRecord(shell="/bin/bash")
        assert copy.delivery.masked_fields == masked.masked_fields and not copy.signature
        with pytest.raises(grpc.aio.AioRpcError, match="leave it out of the filter"):
            await AccountsStub(anns).List(ListRequest(filter='account : "m"'), metadata=metadata)
        words = "may not see account (personal), account_id (personal)"
        said = await refused(AccountsStub(anns).Subscribe(SubscribeRequest(), metadata=metadata))
        assert words in said and "List and Watch serve it with these fields masked" in said
        named = StreamSubscribeRequest(products=[ACCOUNTS])
        assert words in await refused(StreamStub(anns).Subscribe(named, metadata=metadata))
        # A pattern leaves out what the caller may not have.
        await one.publish(DISK_USAGE, [disk_usage("/srv")])
        call = StreamStub(anns).Subscribe(StreamSubscribeRequest(products=["*"]), metadata=metadata)
        batches = (await call.read()).batches
        call.cancel()
        assert {header_of(batch).product for batch in batches} == {DISK_USAGE}


async def grpcurl(directory: Path, who: Workload, gateway: Gateway, method: str) -> str:
    """What grpcurl prints of a call with somebody's certificate and token."""
    held = {"cacert": who.trust.root_pem, "cert": who.credentials.chain_pem, "key": who.credentials.key_pem}
    words = []
    for name, content in held.items():
        (directory / name).write_bytes(content)
        words += [f"-{name}", str(directory / name)]
    for key, value in await gateway.metadata(who):
        words += ["-H", f"{key}: {value}"]
    running = await asyncio.create_subprocess_exec(
        str(BIN / "grpcurl"),
        *words,
        f"localhost:{gateway.port}",
        method,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await running.communicate()
    return out.decode()


async def test_clients_that_know_nothing_of_masking_are_told_what_is_masked(
    mesh: Mesh, tmp_path: Path
) -> None:
    agent, ann = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    port = free_port()
    async with (
        gateway_service(mesh, tmp_path / "gateway") as gateway,
        servers(mesh, gateway, tmp_path / "servers", port),
        source(mesh, agent, tmp_path / "spool.db", port) as one,
        gateway.channel(ann) as channel,
        asyncio.timeout(60),
    ):
        await one.snapshot(ACCOUNTS, [AccountsRecord(account="marguerite", shell="/bin/bash")])
        said: dict[str, Any] = {}
        while not said.get("entries"):
            # Until the domain has its lease grpcurl says in words that it may come yet.
            with contextlib.suppress(ValueError):
                said = json.loads(await grpcurl(tmp_path, ann, gateway, f"{ACCOUNTS_API}/List"))
        assert "account" in said["maskedFields"] and said["entries"][0]["record"] == {"shell": "/bin/bash"}
        operator = Operator(ann, Place(mesh.name, f"localhost:{gateway.port}", "", "", 0), channel)
        _, contract = await operator.contract(ACCOUNTS)
        ((entry, masked),) = [row async for row in operator.listed(contract, "")]
        shown = entry_row(entry, masked, show.MASKED)
        assert (shown["account"], shown["groups"], shown["shell"]) == ("(masked)", "(masked)", "/bin/bash")


async def test_typed_clients_read_records_through_the_gateway(mesh: Mesh, tmp_path: Path) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    operator = mesh.workload("operators", "/alice")
    port = free_port()
    async with (
        gateway_service(mesh, tmp_path / "gateway") as gateway,
        servers(mesh, gateway, tmp_path / "servers", port),
        source(mesh, agent, tmp_path / "spool.db", port) as one,
        gateway.channel(operator) as channel,
    ):
        await one.publish(DISK_USAGE, [disk_usage("/srv", used_ratio=0.25)])
        await one.publish(INVENTORY, [host("web1")])
        metadata = await gateway.metadata(operator)
        async with asyncio.timeout(20):
            frame: DiskUsageFrame | None = None
            while frame is None:
                # Until the domain has its lease the gateway says that it may come yet.
                call = DiskUsageStub(channel).Subscribe(SubscribeRequest(), metadata=metadata)
                try:
                    frame = await call.read()
                except Exception:
                    await asyncio.sleep(0.05)
            call.cancel()
            entries = []
            while not entries:
                listed = await InventoryStub(channel).List(ListRequest(), metadata=metadata)
                entries = [entry.record.host_name for entry in listed.entries]
    assert frame.batches[0].payload.records[0].mountpoint == "/srv"
    assert frame.batches[0].header.source == str(agent.spiffe_id)
    assert entries == ["web1"]
