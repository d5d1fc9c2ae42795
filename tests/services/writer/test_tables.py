import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from services.writer.store import Store
from services.writer.tables import table_of
from telltale.cli.sql import run_query
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema, message_class
from telltale.errors import InvalidInput
from tests.support.batches import Chain
from tests.support.compiling import compile_product
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

SHAPES = Path(__file__).parents[2] / "consume" / "shapes.proto"
HEAD = """
syntax = "proto3";
package telltale.api.%s.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "telltale/api/mesh/v1/batch.proto";
import "telltale/api/mesh/v1/product.proto";
import "telltale/api/mesh/v1/stream.proto";
// A probe.
service Probe {
  option (telltale.api.mesh.v1.product) = {
    name: "%s" kind: KIND_SAMPLES owner: "lab" support: "lab@example.org" version: "%s"
    status: STATUS_STABLE purpose: "Probe." classification: CLASSIFICATION_INTERNAL
    freshness: {seconds: 60} retention: {seconds: %d}
  };
  // Streams.
  rpc Subscribe(telltale.api.mesh.v1.SubscribeRequest) returns (stream ProbeFrame);
}
message ProbeRecord {
  google.protobuf.Timestamp time = 1 [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}];
  %s
}
message ProbeFrame {
  message Records { repeated ProbeRecord records = 1; }
  message Batch {
    telltale.api.mesh.v1.Header header = 1; bytes signature = 2; Records payload = 3;
    telltale.api.mesh.v1.Delivery delivery = 4;
  }
  repeated Batch batches = 1; repeated bytes certificates = 2; telltale.api.mesh.v1.Gap gap = 3;
  telltale.api.mesh.v1.Sync sync = 4;
}
"""


class Version:
    """One version of a product that grows."""

    def __init__(
        self,
        directory: Path,
        fields: str,
        version: str = "1.0.0",
        retention: int = 3_600,
        *,
        domain: str = "lab",
        product: str = "lab.probe",
    ) -> None:
        text = HEAD % (domain, product, version, retention, fields)
        image = compile_product(directory, domain, "probe.proto", text)
        (self.contract,) = contracts_in(image)
        self.schema = Schema.of(image, self.contract)

    def payload(self, **values: Any) -> bytes:
        payload: Any = message_class(self.contract.records)()
        payload.records.add(**values).time.FromDatetime(datetime(2026, 3, 4, tzinfo=UTC))
        encoded: bytes = payload.SerializeToString()
        return encoded


class Source:
    """Seals payloads of any version."""

    def __init__(self, mesh: Mesh) -> None:
        self._chain = Chain(mesh.credentials("servers", "/agent/web1"))
        self._log = Log()

    def deliver(self, version: Version, **values: Any) -> Any:
        payload = version.payload(**values)
        batch = self._chain.next(
            product=version.contract.name, record_count=1, schema_sha256=version.schema.sha256
        )
        batch.payload = payload
        return self._log.deliver(batch, contract=version.contract, schema=version.schema)


def ask(database: Path, question: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


async def test_a_field_that_appears_later_becomes_a_column_and_older_rows_still_decode(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path
) -> None:
    old = Version(tmp_path, "string name = 2;")
    new = Version(tmp_path, "string name = 2; optional uint64 spins = 3;", "1.1.0")
    source = Source(mesh)
    await store.commit([source.deliver(old, name="a")])
    tally = await store.commit(
        [source.deliver(new, name="b", spins=0), source.deliver(old, name="c"), source.deliver(new, name="d")]
    )
    assert tally.refused == []
    # Absent is not zero.
    assert ask(database, "SELECT name, spins FROM lab_probe ORDER BY _row") == [
        ("a", None),
        ("b", 0),
        ("c", None),
        ("d", None),
    ]
    assert ask(database, "SELECT version FROM products") == [("1.1.0",)]
    assert ask(database, "SELECT count(*) FROM schemas") == [(2,)]


async def test_a_field_that_changes_its_type_goes_to_quarantine(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path
) -> None:
    source = Source(mesh)
    await store.commit([source.deliver(Version(tmp_path, "string name = 2;"), name="a")])
    tally = await store.commit([source.deliver(Version(tmp_path, "uint32 name = 2;"), name=1)])
    assert "was TEXT before" in tally.refused[0][1].detail
    assert ask(database, "SELECT name FROM lab_probe") == [("a",)]


async def test_one_source_cannot_shorten_everybodys_history(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path
) -> None:
    source = Source(mesh)
    await store.commit([source.deliver(Version(tmp_path, "string name = 2;"), name="a")])
    await store.commit([source.deliver(Version(tmp_path, "string name = 2;", "9.0.0", 1), name="b")])
    assert ask(database, "SELECT version, retention_seconds FROM products") == [("9.0.0", 3_600.0)]


async def test_what_nobody_signed_gives_way_to_the_first_batch(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path
) -> None:
    foreseen = Version(tmp_path, "uint32 name = 2;", "9.0.0", 1_000_000)
    signed = Version(tmp_path, "string name = 2;")
    await store.foresee(foreseen.contract, foreseen.schema)
    assert ask(database, "SELECT version, first_stored_time FROM products") == [("9.0.0", None)]
    source = Source(mesh)
    assert (await store.commit([source.deliver(signed, name="a")])).refused == []
    # From now on what a gateway says counts no more, and signed types stay.
    await store.foresee(foreseen.contract, foreseen.schema)
    assert len((await store.commit([source.deliver(foreseen, name=1)])).refused) == 1
    assert ask(database, "SELECT name FROM lab_probe") == [("a",)]
    assert ask(database, "SELECT version, retention_seconds, batches FROM products") == [
        ("1.0.0", 3_600.0, 1)
    ]


async def test_a_first_batch_that_fits_leaves_the_columns_of_later_versions(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path
) -> None:
    foreseen = Version(tmp_path, "string name = 2; optional uint64 spins = 3;", "1.1.0")
    await store.foresee(foreseen.contract, foreseen.schema)
    await store.commit([Source(mesh).deliver(Version(tmp_path, "string name = 2;"), name="a")])
    assert ask(database, "SELECT name, spins FROM lab_probe") == [("a", None)]
    assert ask(database, "SELECT version FROM products") == [("1.0.0",)]


async def test_a_product_that_is_not_sent_yet_may_change_in_any_way(
    store: Store, database: Path, tmp_path: Path
) -> None:
    for fields in ("string name = 2;", "uint32 name = 2;", "uint32 name = 2; string more = 3;"):
        version = Version(tmp_path, fields)
        for _ in range(2):
            await store.foresee(version.contract, version.schema)
    columns = dict(ask(database, "SELECT name, type FROM pragma_table_info('lab_probe')"))
    assert (columns["name"], columns["more"]) == ("BIGINT", "TEXT")
    assert ask(database, "SELECT product, schema_sha256 FROM products") == [
        ("lab.probe", version.schema.sha256.hex())
    ]


@pytest.mark.parametrize(
    "fields",
    [
        "string _row = 2;",
        "string Time = 2;",
        "google.protobuf.Duration wait = 2; double wait_seconds = 3;",
        " ".join(f"string field_{number} = {number};" for number in range(2, 600)),
    ],
)
async def test_fields_that_cannot_be_columns_are_refused(fields: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        table_of(Version(tmp_path, fields).contract)


async def test_every_kind_of_field_has_a_column_that_duckdb_and_sqlite_read(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path
) -> None:
    image = compile_product(tmp_path, "shapes", "everything.proto", SHAPES.read_text())
    (contract,) = contracts_in(image)
    payload: Any = message_class(contract.records)()
    record = payload.records.add(
        name="n",
        a_uint64=2**64 - 1,
        a_int64=-5,
        a_float=0.5,
        a_double=float("nan"),
        a_bool=True,
        a_bytes=b"\x00\xff",
        a_color=7,
        maybe_double=float("inf"),
        boxed={"value": 0},
        inner={"text": "t", "color": 1, "raw": b"\x01", "totals": [2**64 - 1]},
        colors=[0, 1, 99],
        doubles=[float("inf"), 1.5],
        counts={"k": 1},
        left="",
    )
    record.time.FromDatetime(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    record.wait.FromMilliseconds(-1_500)
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    schema = Schema.of(image, contract)
    batch = chain.next(product=contract.name, record_count=1, schema_sha256=schema.sha256)
    batch.payload = payload.SerializeToString()
    tally = await store.commit([Log().deliver(batch, contract=contract, schema=schema)])
    assert tally.refused == []
    result = run_query(database, "SELECT * FROM shapes_everything")
    row = dict(zip(result.columns, result.rows[0], strict=True))
    assert row["time"].replace(tzinfo=UTC) == datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert row["wait_seconds"] == -1.5
    assert (row["a_uint64"], row["a_int64"], row["a_float"], row["a_double"]) == (-1, -5, 0.5, None)
    assert (row["a_bool"], row["a_bytes"], row["a_color"]) == (1, b"\x00\xff", "DEEP_BLUE")
    assert (row["maybe_color"], row["maybe_double"], row["boxed"], row["left"]) == (None, float("inf"), 0, "")
    assert json.loads(row["inner"]) == {
        "text": "t",
        "color": "RED",
        "totals": [2**64 - 1],
        "raw": "AQ==",
    }
    assert json.loads(row["colors"]) == [None, "RED", "99"]
    assert json.loads(row["doubles"]) == ["Infinity", 1.5]
    assert json.loads(row["counts"]) == {"k": 1}
    assert (row["_key"], row["_source"]) == ('["n"]', "spiffe://servers.telltale.test/agent/web1")
    types = {name: kind for name, kind, *_ in run_query(database, "DESCRIBE shapes_everything").rows}
    assert types["time"] == types["_received_time"] == "TIMESTAMP"
    assert types["a_uint64"] == "BIGINT" and types["wait_seconds"] == "DOUBLE"
    assert duckdb.__version__ == "1.5.5"
