"""A source's clock may jump: its chain stays in order and whole, and it keeps nobody else up."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame
from telltale.source import source
from tests.domain.conftest import mesh, servers
from tests.support.batches import DISK_USAGE, disk_usage
from tests.support.domain import Running
from tests.support.mesh import Mesh

__all__ = ("mesh", "servers")

MINUTE, DAY = 60.0, 86_400.0
# A domain believes a clock that is ahead by less than five minutes.
JUMPS = (0.0, 3 * MINUTE, -2 * MINUTE, -400 * DAY, 4 * MINUTE, -30 * DAY, 0.0)


@dataclass
class Clock:
    """The clock of this source alone: of the moment, and off by so many seconds."""

    off: float = 0.0

    def time_ns(self) -> int:
        return time.time_ns() + int(self.off * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(source, "time", made)
    yield made


async def test_a_clock_that_jumps_breaks_neither_the_order_nor_the_count_of_a_chain(
    servers: Running, mesh: Mesh, tmp_path: Path, clock: Clock
) -> None:
    agent, names = mesh.workload("servers", "/agent/web1"), []
    for number, off in enumerate((*JUMPS, *JUMPS)):
        clock.off = off
        # In the middle, and with the clock of the moment, it is started anew each time.
        async with servers.source(agent, tmp_path / "spool.db") as one:
            for part in ("a", "b"):
                names.append(f"/{number}{part}")
                await one.publish(DISK_USAGE, [disk_usage(names[-1])])
    async with servers.source(agent, tmp_path / "spool.db") as one:
        await one._pusher.drained(20)
        assert (await one.usage()).batches == 0
    entries = await servers.domain.log.after(DISK_USAGE, 0, 1 << 30)
    batches = [SealedBatch.FromString(entry.batch) for entry in entries]
    headers = [Header.FromString(batch.header) for batch in batches]
    assert len({header.epoch for header in headers}) == 1
    assert [header.sequence for header in headers] == list(range(1, len(names) + 1))
    assert not any(header.holes or header.losses for header in headers)
    records = [DiskUsageFrame.Records.FromString(batch.payload).records for batch in batches]
    assert [one.mountpoint for several in records for one in several] == names
