"""A spool on a full disk keeps what it has. Needs root, for a small file system."""

from pathlib import Path

import pytest

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.errors import Unavailable
from telltale.source.spool import Spool
from tests.source.test_spool import PRODUCT, sealer
from tests.support.disks import filled, small_disk


async def test_a_spool_on_a_full_disk_loses_nothing_it_took_and_its_chain_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        async with Spool(disk / "spool.db", 1 << 30) as spool:
            for _ in range(3):
                await spool.append(PRODUCT, 1, [sealer(20_000)], sheddable=False)
            kept = 3
            with filled(disk):
                with pytest.raises(Unavailable, match="check the disk's space"):
                    for _ in range(1_000):
                        await spool.append(PRODUCT, 1, [sealer(20_000)], sheddable=False)
                        kept += 1
                # What lies in it can be read and acked meanwhile.
                waiting = await spool.after(0, 1 << 30, 10_000)
                assert [one.sequence for one in waiting] == list(range(1, kept + 1))
            await spool.append(PRODUCT, 1, [sealer(20_000)], sheddable=False)
        async with Spool(disk / "spool.db", 1 << 30) as spool:
            waiting = await spool.after(0, 1 << 30, 10_000)
            headers = [Header.FromString(SealedBatch.FromString(one.batch).header) for one in waiting]
            assert [header.sequence for header in headers] == list(range(1, kept + 2))
            assert (await spool.usage()).bytes == sum(len(one.batch) + 256 for one in waiting)
