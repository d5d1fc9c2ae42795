"""A log on a full disk acks what it has, and still reads. Needs root, for a small file system."""

from pathlib import Path

import pytest

from telltale.domain.log import ProductLog
from telltale.errors import Unavailable
from tests.support.disks import filled, small_disk
from tests.support.log_chain import Chain, chain_log, everything

PRODUCT = "servers.disk_usage"


async def test_a_log_on_a_full_disk_acks_what_it_has_and_nothing_else(tmp_path: Path) -> None:
    chain = Chain(product=PRODUCT)
    with small_disk(tmp_path / "disk", "3m") as disk:
        async with chain_log(disk / "log.db") as log:
            known = log.id
            assert await log.append([chain.next(payload=b"x" * 20_000)]) == [None]
            acked = 1
            with filled(disk):
                refused = chain.next(payload=b"x" * 20_000)
                with pytest.raises(Unavailable, match="check the disk's space"):
                    for _ in range(1_000):
                        assert await log.append([refused]) == [None]
                        acked += 1
                        refused = chain.next(payload=b"x" * 20_000)
                assert len(await everything(log, PRODUCT)) == acked
            assert await log.append([refused]) == [None]
        # Also when it was closed with nowhere to write, it is the same log.
        async with ProductLog(disk / "log.db") as log:
            with filled(disk):
                assert len(await everything(log, PRODUCT)) == acked + 1
        async with ProductLog(disk / "log.db") as log:
            assert log.id == known
            assert len(await everything(log, PRODUCT)) == acked + 1


async def test_a_log_that_fills_its_disk_puts_batches_off_and_takes_them_again_when_it_is_pruned(
    tmp_path: Path,
) -> None:
    chain = Chain(product=PRODUCT)
    next_one = chain.next(payload=b"x" * 100_000)
    acked = 0
    with small_disk(tmp_path / "disk", "24m") as disk:
        for _ in range(3):
            async with chain_log(disk / "log.db") as log:
                with pytest.raises(Unavailable, match="check the disk's space"):
                    for _ in range(1_000):
                        assert await log.append([next_one]) == [None]
                        acked += 1
                        next_one = chain.next(payload=b"x" * 100_000)
                before = await log.bytes()
                assert before > 12 << 20
                there = await everything(log, PRODUCT)
            # A restart on the full disk reads on.
            async with ProductLog(disk / "log.db") as log:
                assert await everything(log, PRODUCT) == there
                assert await log.prune({}, 1 << 40) > 0
                assert 8 << 20 < await log.bytes() < before
                assert await log.append([next_one]) == [None]
                acked += 1
                next_one = chain.next(payload=b"x" * 100_000)
                # Not more and more: what was pruned once is enough but for a few.
                await log.prune({}, 1 << 40)
                await log.prune({}, 1 << 40)
                assert await log.bytes() > 8 << 20
    assert acked > 240


async def test_a_log_is_read_after_a_restart_on_a_disk_that_others_filled(tmp_path: Path) -> None:
    chain = Chain(product=PRODUCT)
    with small_disk(tmp_path / "disk", "3m") as disk:
        async with chain_log(disk / "log.db") as log:
            known = log.id
            for _ in range(3):
                assert await log.append([chain.next(payload=b"x" * 20_000)]) == [None]
            # Opened anew, SQLite needs a page or two of its own; the mark needs one more.
            crashed = disk / "crashed"
            crashed.mkdir()
            for name in ("log.db", "log.db-wal", "log.seen"):
                (crashed / name).write_bytes((disk / name).read_bytes())
            (crashed / "log.db-shm").write_bytes(bytes(32 << 10))
        with filled(disk):
            async with ProductLog(crashed / "log.db") as log:
                assert log.id == known
                assert len(await everything(log, PRODUCT)) == 3
