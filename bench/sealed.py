"""Sealed batches in bulk: a real product's records, encoded once, under any number of signed headers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from telltale import wire
from telltale.api.mesh.v1 import product_pb2
from telltale.api.mesh.v1.batch_pb2 import Header, Origin, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import PushRequest
from telltale.api.mesh.v1.product_pb2 import Store
from telltale.api.servers.v1.disk_io_pb2 import DiskIoFrame, DiskIoRecord
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema
from telltale.identity.credentials import Credentials
from telltale.seal.sealing import SIGNATURE_CONTEXT, sha256

PRODUCT = "servers.disk_io"
_PROMISE: Any = product_pb2.product
# Payloads that take turns, so that no cache along the way sees the same bytes again and again.
_PAYLOADS = 16
_HEADER = SealedBatch.HEADER_FIELD_NUMBER
_SIGNATURE = SealedBatch.SIGNATURE_FIELD_NUMBER
_PAYLOAD = SealedBatch.PAYLOAD_FIELD_NUMBER
_BATCHES = PushRequest.BATCHES_FIELD_NUMBER


@dataclass(frozen=True)
class Payload:
    """Records as they travel. field: with tag and length, as it stands in a sealed batch."""

    field: bytes
    sha256: bytes
    records: int
    bytes: int


@dataclass(frozen=True)
class Sealed:
    """A sealed batch whose bytes are put together when they are sent."""

    sequence: int
    head: bytes
    payload: Payload

    @property
    def request(self) -> Sequence[bytes]:
        """The parts of the batch as a field of a PushRequest."""
        size = len(self.head) + len(self.payload.field)
        return wire.varint(_BATCHES << 3 | 2) + wire.varint(size), self.head, self.payload.field


class Stock:
    """One chain of batches of `records` records each; `next` seals where no batch was sealed ahead."""

    def __init__(
        self,
        credentials: Credentials,
        records: int,
        payloads: int = _PAYLOADS,
        store: Store = Store.STORE_UNSPECIFIED,
    ) -> None:
        self._credentials = credentials
        self._payloads = [_payload(records, number) for number in range(payloads)]
        self.epoch = time.time_ns() // 1_000_000
        self._header = Header(
            product=PRODUCT,
            source=str(credentials.spiffe_id),
            epoch=self.epoch,
            record_count=records,
            schema_sha256=schema(store).sha256,
            signer_sha256=credentials.thumbprint,
            origin=Origin.ORIGIN_AUTHENTICATED,
        )
        self._ahead: list[Sealed] = []
        self._sequence = 0

    def seal_ahead(self, batches: int) -> None:
        """Seals batches before anybody measures."""
        self._ahead = [self._seal(None) for _ in range(batches)][::-1]

    def next(self, observed_ns: int | None = None) -> Sealed:
        """The next batch. observed_ns: when its first record was observed; None for one sealed ahead."""
        if self._ahead and observed_ns is None:
            return self._ahead.pop()
        return self._seal(observed_ns)

    def _seal(self, observed_ns: int | None) -> Sealed:
        header = self._header
        payload = self._payloads[self._sequence % len(self._payloads)]
        self._sequence += 1
        header.sequence = self._sequence
        header.payload_sha256 = payload.sha256
        now = time.time_ns()
        header.sealed_time.FromNanoseconds(now)
        if observed_ns is not None:
            header.first_event_time.FromNanoseconds(observed_ns)
            header.last_event_time.FromNanoseconds(now)
        encoded = header.SerializeToString()
        signature = self._credentials.key.sign(SIGNATURE_CONTEXT + encoded, ec.ECDSA(hashes.SHA256()))
        header.previous_header_sha256 = sha256(encoded)
        head = wire.field(_HEADER, encoded) + wire.field(_SIGNATURE, signature)
        return Sealed(self._sequence, head, payload)


@lru_cache
def schema(store: Store = Store.STORE_UNSPECIFIED) -> Schema:
    """The product's schema as its sources have it; or a version that asks for this store of its records."""
    image = own_image("servers")
    (contract,) = [one for one in contracts_in(image) if one.name == PRODUCT]
    own = Schema.of(image, contract)
    if not store:
        return own
    files = FileDescriptorSet.FromString(own.data)
    for service in (service for file in files.file for service in file.service):
        if service.options.HasExtension(_PROMISE):
            service.options.Extensions[_PROMISE].store = store
    return Schema.parse(files.SerializeToString(deterministic=True))


def _payload(records: int, seed: int) -> Payload:
    data = DiskIoFrame.Records(
        records=[_record(seed * records + number) for number in range(records)]
    ).SerializeToString()
    return Payload(wire.field(_PAYLOAD, data), sha256(data), records, len(data))


def _record(number: int) -> DiskIoRecord:
    """A busy disk's record: about 85 bytes."""
    record = DiskIoRecord(
        device=f"nvme{number % 24}n1",
        read_operations=1_000_000 + number * 7,
        read_bytes=40_000_000_000 + number * 4096,
        read_seconds=1234.5 + number / 3,
        write_operations=2_000_000 + number * 5,
        write_bytes=90_000_000_000 + number * 8192,
        write_seconds=4321.25 + number / 7,
        io_seconds=5000.75 + number / 5,
        busy_ratio=(number % 1000) / 1000,
        requests_in_flight=number % 32,
    )
    record.time.FromNanoseconds(time.time_ns())
    return record
