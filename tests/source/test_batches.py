"""Batches are as large as the contract permits, and no larger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from telltale.seal.sealing import MAX_PAYLOAD_BYTES, MAX_RECORDS
from tests.source.test_pusher import acked, kept
from tests.support.batches import DISK_USAGE, disk_usage
from tests.support.domain import DOMAINS, Running, running
from tests.support.mesh import Mesh


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(Mesh.create(tmp_path / "mesh", *DOMAINS), tmp_path) as service:
        yield service


# Bound by records, nearly by both, by bytes with lengths of two bytes, and by a few large records.
@pytest.mark.parametrize(
    ("name", "records"), [(1, 20_001), (70, 20_001), (75, 20_001), (120, 12_000), (300_000, 7)]
)
async def test_the_largest_batches_that_a_source_makes_are_taken_and_no_more_than_are_needed(
    servers: Running, tmp_path: Path, name: int, records: int
) -> None:
    record = disk_usage("x" * name)
    agent = servers.mesh.workload("servers", "/agent/web1")
    async with servers.source(agent, tmp_path / "spool.db") as one:
        await one.publish(DISK_USAGE, [record] * records)
        await acked(one)
        assert one.holes_declared == 0
    batches = await kept(servers)
    assert sum(header.record_count for header, _ in batches) == records
    for header, batch in batches[:-1]:
        full = len(batch.payload) + record.ByteSize() > MAX_PAYLOAD_BYTES - (64 << 10)
        assert full or header.record_count == MAX_RECORDS
