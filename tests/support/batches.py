"""Sealed batches of the disk usage and inventory products, made by hand for tests."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from telltale.api.mesh.v1.batch_pb2 import Header, Hole, Loss, Origin, SealedBatch, Snapshot
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame, DiskUsageRecord
from telltale.api.servers.v1.inventory_pb2 import InventoryFrame, InventoryRecord
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema
from telltale.identity.credentials import Credentials
from telltale.seal.sealing import seal, sha256

DISK_USAGE = "servers.disk_usage"
INVENTORY = "servers.inventory"

SERVERS = own_image("servers")
CONTRACTS = {contract.name: contract for contract in contracts_in(SERVERS)}
SCHEMAS = {name: Schema.of(SERVERS, contract) for name, contract in CONTRACTS.items()}


def disk_usage(mountpoint: str, used_ratio: float = 0.5, at: datetime | None = None) -> DiskUsageRecord:
    record = DiskUsageRecord(mountpoint=mountpoint, used_ratio=used_ratio, total_bytes=100, used_bytes=50)
    record.time.FromDatetime(at or datetime.now(UTC))
    return record


def host(name: str, **values: Any) -> InventoryRecord:
    record = InventoryRecord(host_name=name, **values)
    record.time.FromDatetime(datetime.now(UTC))
    return record


class Chain:
    """Seals one batch after the other for one source and product."""

    def __init__(self, credentials: Credentials, product: str = DISK_USAGE, epoch: int = 1_000) -> None:
        self.credentials = credentials
        self.product = product
        self.epoch = epoch
        self.sequence = 0
        self.previous = b""

    def next(
        self,
        records: Sequence[Any] = (),
        *,
        removed: Sequence[Any] = (),
        holes: Sequence[Hole] = (),
        losses: Sequence[Loss] = (),
        snapshot: Snapshot | None = None,
        sealed_at: datetime | None = None,
        encoded: bytes | None = None,
        **overrides: Any,
    ) -> SealedBatch:
        """The next batch of the chain. `overrides` set header fields that a test wants to see refused.

        encoded: the payload of a product that exists for a test only, whose schema `overrides` tell.
        """
        self.sequence += 1
        header = Header(
            product=self.product,
            source=str(self.credentials.spiffe_id),
            epoch=self.epoch,
            sequence=self.sequence,
            record_count=len(records) + len(removed),
            previous_header_sha256=self.previous,
            schema_sha256=SCHEMAS[self.product].sha256 if self.product in SCHEMAS else b"",
            holes=holes,
            losses=losses,
            snapshot=snapshot,
            origin=Origin.ORIGIN_AUTHENTICATED,
        )
        header.sealed_time.FromDatetime(sealed_at or datetime.now(UTC))
        for name, value in overrides.items():
            setattr(header, name, value)
        if encoded is None:
            encoded = payload(self.product, records, removed)
        batch = seal(self.credentials, header, encoded)
        self.previous = sha256(batch.header)
        return batch


def payload(product: str, records: Sequence[Any], removed: Sequence[Any] = ()) -> bytes:
    if product == INVENTORY:
        return InventoryFrame.Records(records=records, removed=removed).SerializeToString()
    return DiskUsageFrame.Records(records=records).SerializeToString()


def header_of(batch: SealedBatch) -> Header:
    return Header.FromString(batch.header)


def swapped_fields(one: str, other: str) -> bytes:
    """The schema of disk usage with the numbers of two fields of a record exchanged."""
    files = FileDescriptorSet.FromString(SCHEMAS[DISK_USAGE].data)
    (record,) = [
        message for file in files.file for message in file.message_type if message.name == "DiskUsageRecord"
    ]
    fields = {field.name: field for field in record.field}
    fields[one].number, fields[other].number = fields[other].number, fields[one].number
    return files.SerializeToString()
