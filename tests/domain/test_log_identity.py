"""A log is the same after every stop and crash, and another one once it lacks what it handed out."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.domain.log import ProductLog
from tests.support.log_chain import SOURCE, Chain, chain_log

PRODUCT = "servers.disk_usage"
ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def watched(path: Path) -> AsyncIterator[ProductLog]:
    """A log as its service runs it."""
    async with chain_log(path) as log:
        watching = asyncio.create_task(log.watch())
        try:
            yield log
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def marked(path: Path, offset: int) -> None:
    """Returns when the mark beside the log says that this offset was reached."""
    async with asyncio.timeout(20):
        while json.loads(path.with_suffix(".seen").read_text())["reached"] < offset:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)


def copied(path: Path, name: str) -> Path:
    """All files of a log as they are now, which is what a kill leaves behind."""
    target = path.parent / name
    target.mkdir()
    for file in path.parent.glob("*log.*"):
        shutil.copy(file, target / file.name)
    return target / path.name


async def offsets(log: ProductLog) -> list[int]:
    return [entry.offset for entry in await log.after(PRODUCT, 0, 1 << 30)]


def killed_after(path: Path, acks: int) -> int:
    """Appends to a log in a process that is killed after so many acks; the last sequence that was acked."""
    command = [sys.executable, "-m", "tests.support.log_chain", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(acks):
            acked = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        # What it said before it died counts too.
        return max([acked, *(int(line) for line in process.stdout.read().split())])


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


async def test_a_log_keeps_its_identity_over_restarts_and_a_new_one_has_another(tmp_path: Path) -> None:
    chain = Chain(product=PRODUCT)
    async with chain_log(tmp_path / "log.db") as first:
        known = first.id
        await first.append([chain.next()])
    async with chain_log(tmp_path / "log.db") as again:
        assert again.id == known
        await again.append([chain.next()])
        assert await offsets(again) == [1, 2]
    async with chain_log(tmp_path / "new.db") as other:
        assert other.id != known


async def test_an_acked_batch_survives_kill_nine_and_so_does_the_log_s_identity(tmp_path: Path) -> None:
    path, chance = tmp_path / "log.db", random.Random(7)
    identities = set()
    for _ in range(6):
        acked = await asyncio.to_thread(killed_after, path, chance.randint(1, 300))
        async with chain_log(path) as log:
            identities.add(log.id)
            (head,) = await log.heads(SOURCE)
            assert head.sequence >= acked
            entries = await log.after(PRODUCT, 0, 1 << 30, 1_000_000)
            headers = [Header.FromString(SealedBatch.FromString(entry.batch).header) for entry in entries]
            assert [header.sequence for header in headers] == list(range(1, head.sequence + 1))
    assert len(identities) == 1


async def test_no_offset_is_handed_out_twice_though_the_last_commits_were_cut_off(tmp_path: Path) -> None:
    path, chain = tmp_path / "log.db", Chain(product=PRODUCT)
    async with chain_log(path) as log:
        for _ in range(10):
            await log.append([chain.next(payload=b"x" * 9_000)])
        handed_out = await offsets(log)
        left = copied(path, "left")
        known = log.id
    halve(left.with_name("log.db-wal"))
    async with chain_log(left) as log:
        # A copy of this very second cannot be told from a crash; but its places are not given anew.
        assert log.id == known
        whole = await offsets(log)
        assert whole == handed_out[: len(whole)] and 0 < len(whole) < len(handed_out)
        await log.append([Chain(product=PRODUCT, epoch=2).next()])
        assert (await offsets(log))[-1] > handed_out[-1]


async def test_a_truncated_write_ahead_log_gives_the_last_good_commit_and_another_identity(
    tmp_path: Path,
) -> None:
    path, chain = tmp_path / "log.db", Chain(product=PRODUCT)
    async with watched(path) as log:
        for _ in range(10):
            await log.append([chain.next(payload=b"x" * 9_000)])
        handed_out, known = await offsets(log), log.id
        await marked(path, handed_out[-1])
        left = copied(path, "left")
    halve(left.with_name("log.db-wal"))
    async with chain_log(left) as log:
        assert log.id != known
        whole = await offsets(log)
        assert whole == handed_out[: len(whole)] and 0 < len(whole) < len(handed_out)


async def test_a_copy_that_was_restored_is_another_log(tmp_path: Path) -> None:
    path, chain = tmp_path / "log.db", Chain(product=PRODUCT)
    async with chain_log(path) as log:
        await log.append([chain.next()])
        known = log.id
    shutil.copy(path, tmp_path / "copy.db")
    async with chain_log(path) as log:
        assert log.id == known
        await log.append([chain.next()])
    shutil.copy(tmp_path / "copy.db", path)
    async with chain_log(path) as log:
        assert log.id != known
        second = log.id
    # Once told, it is this log from now on.
    async with chain_log(path) as log:
        assert log.id == second


async def test_a_copy_that_was_restored_after_a_crash_is_another_log(tmp_path: Path) -> None:
    path, chain = tmp_path / "log.db", Chain(product=PRODUCT)
    async with chain_log(path) as log:
        await log.append([chain.next()])
    shutil.copy(path, tmp_path / "copy.db")
    async with watched(path) as log:
        await log.append([chain.next()])
        known = log.id
        await marked(path, 2)
        left = copied(path, "left")
    for file in left.parent.glob("log.db*"):
        file.unlink()
    shutil.copy(tmp_path / "copy.db", left)
    async with chain_log(left) as log:
        assert log.id != known


async def test_another_log_in_its_place_and_a_lost_mark_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    for name in ("log.db", "other.db"):
        async with chain_log(tmp_path / name) as log:
            await log.append([Chain(product=PRODUCT).next()])
            last = log.id
    shutil.copy(tmp_path / "other.db", path)
    async with chain_log(path) as log:
        assert log.id != last
        known = log.id
    for damage in (b"", b'{"log": 1}', b"\xff"):
        path.with_suffix(".seen").write_bytes(damage)
        async with chain_log(path) as log:
            assert log.id != known
            known = log.id
    path.with_suffix(".seen").unlink()
    async with chain_log(path) as log:
        assert log.id != known


async def test_a_log_that_crashes_again_and_again_stays_the_same(tmp_path: Path) -> None:
    path, chain = tmp_path / "log.db", Chain(product=PRODUCT)
    identities = set()
    for number in range(4):
        async with watched(path) as log:
            identities.add(log.id)
            await log.append([chain.next()])
            assert len(await offsets(log)) == number + 1
            path = copied(path, f"left-{number}")
    assert len(identities) == 1
