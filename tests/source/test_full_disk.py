"""A spool on a full disk keeps what it has. Needs root, for a small file system."""

from pathlib import Path

import pytest

from telltale.api.mesh.v1.batch_pb2 import Header, Loss, LossReason, SealedBatch
from telltale.errors import Unavailable
from telltale.source.keeping import SpoolFull
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


async def test_a_spool_with_a_bound_beyond_its_disk_goes_on_by_shedding_and_acks_make_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "12m") as disk:
        kept = 0
        for _ in range(2):
            async with Spool(disk / "spool.db", 1 << 30) as spool:
                # More than twice what the disk holds.
                shed = 0
                for _ in range(300):
                    shed += (await spool.append(PRODUCT, 1, [sealer(100_000)], sheddable=True))[0]
                    kept += 1
                assert shed > 100
                usage = await spool.usage()
                assert 6 << 20 < usage.bytes <= usage.limit_bytes < 12 << 20
        async with Spool(disk / "spool.db", 1 << 30) as spool:
            waiting = await spool.take(0, 1 << 30, 10_000)
            assert waiting[-1].sequence == kept
            header = Header.FromString(SealedBatch.FromString(waiting[-1].batch).header)
            assert header.holes[-1].last_sequence == waiting[0].sequence - 1
            for one in waiting:
                await spool.forget([one.id])
            spool.release()
            assert (await spool.usage()).batches == 0
            for _ in range(50):
                assert (await spool.append(PRODUCT, 1, [sealer(100_000)], sheddable=False))[0] == 0


async def test_events_beyond_what_the_disk_holds_are_refused_and_acks_make_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "12m") as disk:
        async with Spool(disk / "spool.db", 1 << 30) as spool:
            with pytest.raises(SpoolFull):
                for _ in range(1_000):
                    # Many of one commit, as when a fleet of collectors begins.
                    await spool.append(PRODUCT, 1, [sealer(100_000)] * 8, sheddable=False)
            await spool.lose(PRODUCT, Loss(records=1, reason=LossReason.LOSS_REASON_BOUND))
        async with Spool(disk / "spool.db", 1 << 30) as spool:
            waiting = await spool.take(0, 1 << 30, 10_000)
            await spool.forget([one.id for one in waiting])
            await spool.append(PRODUCT, 1, [sealer(100_000)] * 8, sheddable=False)
            first, *_ = await spool.after(0, 1 << 30, 10_000)
            (loss,) = Header.FromString(SealedBatch.FromString(first.batch).header).losses
            assert loss.records == 1
