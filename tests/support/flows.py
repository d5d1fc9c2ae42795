"""A product of many records a second, which exists for tests only: its records go into files."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from telltale.consume.delivered import Delivered
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema, message_class
from tests.support.batches import Chain
from tests.support.compiling import compile_product
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

PRODUCT = "lab.flows"
TABLE = "lab_flows"
# Records that do not say another time are of this one.
TIME = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
_PROTO = """
syntax = "proto3";
package telltale.api.lab.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "telltale/api/mesh/v1/batch.proto";
import "telltale/api/mesh/v1/product.proto";
import "telltale/api/mesh/v1/stream.proto";
// Flows.
service Flows {
  option (telltale.api.mesh.v1.product) = {
    name: "lab.flows" kind: KIND_EVENTS owner: "lab" support: "lab@example.org" version: "%(version)s"
    status: STATUS_STABLE purpose: "Who spoke with whom?" classification: CLASSIFICATION_INTERNAL
    freshness: {seconds: 60} retention: {seconds: %(retention)d} %(store)s
  };
  // Streams.
  rpc Subscribe(telltale.api.mesh.v1.SubscribeRequest) returns (stream FlowsFrame);
}
// One flow.
message FlowsRecord {
  google.protobuf.Timestamp time = 1 [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}];
  Protocol protocol = 2;
  string local_address = 3;
  uint32 local_port = 4;
  string remote_address = 5;
  uint32 remote_port = 6;
  uint64 sent_bytes = 7;
  optional uint64 received_bytes = 8;
  google.protobuf.Duration duration = 9;
  %(fields)s
}
// Protocol of a flow.
enum Protocol { PROTOCOL_UNSPECIFIED = 0; PROTOCOL_TCP = 1; PROTOCOL_UDP = 2; }
message FlowsFrame {
  message Records { repeated FlowsRecord records = 1; }
  message Batch {
    telltale.api.mesh.v1.Header header = 1; bytes signature = 2; Records payload = 3;
    telltale.api.mesh.v1.Delivery delivery = 4;
  }
  repeated Batch batches = 1; repeated bytes certificates = 2; telltale.api.mesh.v1.Gap gap = 3;
  telltale.api.mesh.v1.Sync sync = 4;
}
"""


class Flows:
    """One version of the product."""

    def __init__(
        self,
        directory: Path,
        fields: str = "",
        *,
        version: str = "1.0.0",
        retention: int = 30 * 86_400,
        store: str = "store: STORE_COLUMNS",
    ) -> None:
        values = {"fields": fields, "version": version, "retention": retention, "store": store}
        image = compile_product(directory, "lab", "flows.proto", _PROTO % values)
        (self.contract,) = contracts_in(image)
        self.schema = Schema.of(image, self.contract)

    def record(self, port: int, **values: Any) -> Message:
        """A flow that its port tells from all others."""
        record: Any = message_class(self.contract.record)(
            protocol=1 + port % 2,
            local_address="10.0.0.1",
            local_port=port,
            remote_address=f"192.0.2.{port % 250}",
            remote_port=443,
            sent_bytes=1_000 + port,
            **values,
        )
        record.time.FromDatetime(TIME)
        record.duration.FromTimedelta(timedelta(milliseconds=port))
        return record  # type: ignore[no-any-return]  # the class is made from descriptors

    def payload(self, records: Iterable[Message]) -> bytes:
        encoded: bytes = message_class(self.contract.records)(records=records).SerializeToString()
        return encoded


class Exporter:
    """A source that seals flows; every one has a port of its own, from 1 on."""

    def __init__(self, mesh: Mesh, name: str = "web1", log: Log | None = None) -> None:
        self.chain = Chain(mesh.credentials("servers", f"/agent/{name}"), PRODUCT)
        self.log = log or Log()
        self.ports = 0

    def deliver(
        self,
        flows: Flows,
        count: int = 3,
        *,
        sealed_at: datetime | None = None,
        received_time: datetime | None = None,
        **values: Any,
    ) -> Delivered:
        """The next batch, with the next `count` flows."""
        records = [flows.record(self.ports + number, **values) for number in range(1, count + 1)]
        self.ports += count
        batch = self.chain.next(
            record_count=count,
            schema_sha256=flows.schema.sha256,
            sealed_at=sealed_at,
            encoded=flows.payload(records),
        )
        return self.log.deliver(
            batch, contract=flows.contract, schema=flows.schema, received_time=received_time
        )

    def many(self, flows: Flows, batches: int, count: int = 3) -> Iterator[Delivered]:
        return (self.deliver(flows, count) for _ in range(batches))
