"""The gateway, taken over: what it changes, drops or turns around is found by those who read."""

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from telltale.api.mesh.v1.batch_pb2 import Header, SealedFrame
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.schemas_pb2_grpc import add_SchemasServicer_to_server
from telltale.api.mesh.v1.stream_pb2_grpc import add_StreamServicer_to_server
from telltale.consume import holding
from telltale.consume.delivered import Delivered
from telltale.consume.subscription import Subscription
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from tests.support.attacker import GATEWAY, MESH, Attacker, bearer, opened
from tests.support.batches import DISK_USAGE, SCHEMAS
from tests.support.gateways import Gateway

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

SUBSCRIBE = "/telltale.api.servers.v1.DiskUsage/Subscribe"


async def test_a_gateway_that_swaps_two_fields_changes_the_meaning_of_nothing(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.5)
    gateway, hostile = attacker.steal(GATEWAY), Gateway()
    hostile.frames.append(await _real_frame(attacker, gateway))
    digest = Header.FromString(hostile.frames[0].batches[0].header).schema_sha256
    hostile.schemas = {digest: _swapped("used_bytes", "available_bytes")}

    def add(server: grpc.aio.Server) -> None:
        add_StreamServicer_to_server(hostile, server)
        add_SchemasServicer_to_server(hostile, server)

    authenticator = Authenticator(attacker.trust, f"platform.{MESH}")
    writer = attacker.steal("services.writer")
    async with serving(gateway, "127.0.0.1:0", authenticator, add, grace=0.2) as port:
        async with Subscription(writer, f"127.0.0.1:{port}", [DISK_USAGE]) as stream:
            items = await anext(stream)
    assert items
    for item in items:
        assert isinstance(item, Delivered) and item.contract is None and item.refused is not None
        assert item.refused.reason == RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA
        assert "SHA-256" in item.refused.detail


async def _real_frame(attacker: Attacker, gateway: Workload) -> SealedFrame:
    """What the agent of this machine has sealed, as the real domain service streams it."""
    async with attacker.channel(gateway, "servers") as channel:
        call = opened(channel, SUBSCRIBE, b"", await bearer(gateway, "servers"))
        async for data in call:
            frame = SealedFrame.FromString(data)
            if frame.batches:
                call.cancel()
                del frame.batches[1:]
                return frame
    raise LookupError("no batch")


def _swapped(one: str, other: str) -> bytes:
    files = FileDescriptorSet.FromString(SCHEMAS[DISK_USAGE].data)
    (record,) = [
        message for file in files.file for message in file.message_type if message.name == "DiskUsageRecord"
    ]
    fields = {field.name: field for field in record.field}
    fields[one].number, fields[other].number = fields[other].number, fields[one].number
    return files.SerializeToString()
