"""network.flows as a receiver encodes it, through the writer: what people query is what the exporter told."""

from pathlib import Path

from services.writer.store import Store
from telltale.cli.sql import run_query
from telltale.contract.image import own_image
from telltale.contract.schema import Schema
from tests.support.batches import Chain
from tests.support.datagrams import FLOWS, a_set, decoder, ipfix, ipfix_template, packed, turn, v5, v5_record
from tests.support.deliveries import Log
from tests.support.mesh import Mesh


async def test_flows_are_queried_with_addresses_as_text_and_vendors_fields_as_json(
    tmp_path: Path, mesh: Mesh
) -> None:
    six = ipfix_template(300, [(27, 16), (4, 1), (9, 100, 2)]), a_set(300, packed("2001:db8::1") + b"\x11ab")
    decoded = turn(decoder(), v5(v5_record(), sampling=10), ipfix(*six))
    chain, log = Chain(mesh.credentials("servers", "/agent/web1"), FLOWS.name), Log()
    schema = Schema.of(own_image("network"), FLOWS)
    database = tmp_path / "telltale.db"
    async with Store(database) as store:
        for part in decoded.parts:
            batch = chain.next(record_count=part.records, schema_sha256=schema.sha256, encoded=part.payload)
            await store.commit([log.deliver(batch, contract=FLOWS, schema=schema)])
    answer = run_query(
        database,
        "SELECT source_address, next_hop_address, total_bytes, scaled, format, vendor_fields"
        " FROM network_flows ORDER BY format DESC",
        10,
    )
    assert [tuple(row) for row in answer.rows] == [
        ("192.0.2.10", "192.0.2.254", 50_000, True, "NETFLOW_V5", "[]"),
        ("2001:db8::1", None, 0, False, "IPFIX", '[{"enterprise":9,"element":100,"value":"YWI="}]'),
    ]
