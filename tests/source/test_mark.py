"""A spool whose file loses what was kept in it says so, says how much, and says it of nothing else."""

import asyncio
import os
import random
import shutil
from itertools import product as pairs
from pathlib import Path

import pytest

from telltale.api.mesh.v1.batch_pb2 import Header, LossReason, SealedBatch
from telltale.source.drafts import Draft, Sealed
from telltale.source.inspection import inspect
from telltale.source.spool import Spool
from tests.source.test_spool import headers, kill_in_the_middle, reseal, sealer
from tests.support.batches import DISK_USAGE, INVENTORY

SPOOL = "spool.db"
MARK = "spool.mark"
# What a crash leaves behind.
FILES = (SPOOL, f"{SPOOL}-wal", MARK)


def image(spool: Path, directory: Path) -> Path:
    """The files of a spool that is open, as a crash would leave them now."""
    directory.mkdir()
    for name in FILES:
        if (spool.parent / name).exists():
            shutil.copy(spool.parent / name, directory / name)
    return directory / SPOOL


def lost(spool: Path) -> dict[str, int]:
    """Records that the next batches will declare as lost, by product."""
    return {one.product: one.records for one in inspect(spool).missing if one.reason == "failure"}


async def test_a_write_ahead_log_that_was_cut_is_declared_and_the_chain_begins_anew(tmp_path: Path) -> None:
    async with Spool(tmp_path / SPOOL, 1 << 20) as spool:
        for _ in range(10):
            await spool.append(DISK_USAGE, 5, [sealer(records=3)], sheddable=True)
        await spool.append(INVENTORY, 5, [sealer(records=100)], sheddable=False)
        damaged = image(tmp_path / SPOOL, tmp_path / "crashed")
    wal = damaged.with_name(f"{SPOOL}-wal")
    os.truncate(wal, wal.stat().st_size * 2 // 3)
    async with Spool(damaged, 1 << 20) as spool:
        before = await headers(spool)
        assert 0 < len(before) < 10
        gone = 10 - len(before)
        assert lost(damaged) == {DISK_USAGE: 3 * gone, INVENTORY: 100}
        # What is collected before the domain can be asked goes on; then all of it begins anew.
        await spool.append(DISK_USAGE, 9, [sealer()], sheddable=True)
        assert await spool.rechain([], 7, reseal) == [DISK_USAGE]
        after = await headers(spool)
        await spool.append(INVENTORY, 9, [sealer()], sheddable=False)
        inventory = (await headers(spool))[-1]
    assert [(one.epoch, one.sequence) for one in after] == [(7, n) for n in range(1, len(before) + 2)]
    assert [(loss.records, loss.reason) for loss in inventory.losses] == [
        (100, LossReason.LOSS_REASON_FAILURE)
    ]
    # Once, and only once.
    async with Spool(damaged, 1 << 20) as spool:
        assert lost(damaged).get(INVENTORY) is None
        assert await spool.rechain([], 8, reseal) == []


async def test_whichever_moment_a_file_is_put_back_to_exactly_what_waited_and_is_gone_is_declared(
    tmp_path: Path,
) -> None:
    """Every moment's file beside every moment's mark: an older mark claims nothing, a later one all."""
    draw = random.Random(20)
    moments: list[tuple[Path, dict[int, tuple[str, int]]]] = []
    async with Spool(tmp_path / SPOOL, 1 << 20) as spool:
        left: dict[int, tuple[str, int]] = {}
        made = 0
        for step in range(10):
            product = draw.choice((DISK_USAGE, INVENTORY))
            mine = [row for row, (name, _) in left.items() if name == product]
            if draw.random() < 0.6 or not mine:
                records = [draw.randrange(1, 50) for _ in range(draw.randrange(1, 4))]
                seals = [sealer(records=count) for count in records]
                await spool.append(product, 1, seals, sheddable=False)
                left |= {made + n: (product, count) for n, count in enumerate(records, 1)}
                made += len(records)
            else:
                acked = mine[: draw.randrange(1, len(mine) + 1)]
                await spool.forget(acked)
                left = {row: one for row, one in left.items() if row not in acked}
            moments.append((image(tmp_path / SPOOL, tmp_path / str(step)), dict(left)))
    declared = 0
    for (number, (file, there)), (marked, (other, held)) in pairs(enumerate(moments), repeat=2):
        directory = tmp_path / f"{number}-{marked}"
        mixed = image(file, directory)
        shutil.copy(other.with_name(MARK), directory / MARK)
        async with Spool(mixed, 1 << 20):
            pass
        gone: dict[str, int] = {}
        for row in (held.keys() - there.keys()) if marked > number else ():
            name, count = held[row]
            gone[name] = gone.get(name, 0) + count
        assert lost(mixed) == gone, (number, marked)
        declared += bool(gone)
        # The declaration is the file's own now: told again, it would be told twice.
        shutil.copy(other.with_name(MARK), directory / MARK)
        async with Spool(mixed, 1 << 20):
            assert lost(mixed) == gone, (number, marked)
    assert declared > 15


async def test_a_spool_that_was_deleted_is_declared_by_its_mark(tmp_path: Path) -> None:
    async with Spool(tmp_path / SPOOL, 1 << 20) as spool:
        await spool.append(DISK_USAGE, 1, [sealer(records=4)] * 3, sheddable=False)
        (first, *_) = await spool.after(0, 1 << 20, 10)
        await spool.forget([first.id])
    (tmp_path / SPOOL).unlink()
    async with Spool(tmp_path / SPOOL, 1 << 20) as spool:
        await spool.append(DISK_USAGE, 2, [sealer()], sheddable=False)
        (header,) = await headers(spool)
    assert [(loss.records, loss.reason) for loss in header.losses] == [(8, LossReason.LOSS_REASON_FAILURE)]


async def test_a_mark_never_claims_more_than_a_killed_spool_has(tmp_path: Path) -> None:
    for turn in range(3):
        await asyncio.to_thread(kill_in_the_middle, tmp_path / SPOOL)
        async with Spool(tmp_path / SPOOL, 1 << 30) as spool:
            waiting = await spool.after(0, 1 << 30, 100_000)
            await spool.forget([one.id for one in waiting[: len(waiting) // 2]])
        assert lost(tmp_path / SPOOL) == {}, turn


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 4096, b"0000", b"00000000 {}\n", b"\xff\n", b'a3f2 {"last_row": 9}\n'],
    ids=repr,
)
async def test_a_mark_that_cannot_be_read_claims_nothing_and_is_written_anew(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / SPOOL
    async with Spool(path, 1 << 20) as spool:
        await spool.append(DISK_USAGE, 1, [sealer(records=4)], sheddable=False)
    whole = (tmp_path / MARK).read_bytes()
    (tmp_path / MARK).write_bytes(content)
    async with Spool(path, 1 << 20) as spool:
        assert len(await headers(spool)) == 1
    assert lost(path) == {}
    assert (tmp_path / MARK).read_bytes().splitlines()[0] == whole.splitlines()[0]


async def test_what_waits_is_counted_as_it_is_kept_sealed_again_shed_and_rolled_back(tmp_path: Path) -> None:
    def fails(draft: Draft) -> Sealed:
        raise RuntimeError("no key")

    async with Spool(tmp_path / SPOOL, 20_000) as spool:
        for size in range(0, 4_000, 100):
            await spool.append(DISK_USAGE, 1, [sealer(size), sealer(10)], sheddable=True)
            with pytest.raises(RuntimeError):
                await spool.append(DISK_USAGE, 1, [sealer(5_000), fails], sheddable=True)
        await spool.rechain([], 5, reseal)
        await spool.renew(DISK_USAGE, 5, 5, lambda draft, batch: sealer(len(batch.payload) + 1)(draft))
        there = await spool.after(0, 1 << 20, 10_000)
        usage = await spool.usage()
    assert usage.bytes == sum(len(one.batch) + 256 for one in there) <= 21_000
    assert usage.batches == len(there)
    assert [Header.FromString(SealedBatch.FromString(one.batch).header).epoch for one in there]
