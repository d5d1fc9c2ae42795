"""What is answered is on the disk: every store commits with a sync, and an answer leaves after it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from certs.state import State
from services.writer.store import Store
from telltale.domain.log import ProductLog
from telltale.source.spool import Spool
from telltale.sqlite import Database
from tests.support.running_mesh import ROOT, environment

_FULL = 2
_ACKS = 12
# A line may leave in two writes: its number is the ack.
_SEQUENCE = re.compile(r'^, "\d')
_CALL = re.compile(r"^(\d+) +(\w+)\((\d+)<([^>]*)>(.*)$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[dict[str, Database]]:
    async with AsyncExitStack() as stack:
        spool = await stack.enter_async_context(Spool(tmp_path / "spool.db", 1 << 20))
        log = await stack.enter_async_context(ProductLog(tmp_path / "log.db"))
        store = await stack.enter_async_context(Store(tmp_path / "telltale.db"))
        yield {"spool": spool._database, "log": log._database, "store": store._database}


@pytest.mark.parametrize("name", ["spool", "log", "store"])
async def test_every_store_of_records_syncs_at_each_commit(opened: dict[str, Database], name: str) -> None:
    settings = await opened[name].write(
        lambda db: [db.execute(f"PRAGMA {one}").fetchone()[0] for one in ("synchronous", "journal_mode")]
    )
    assert settings == [_FULL, "wal"]


def test_the_authority_syncs_what_it_grants(tmp_path: Path) -> None:
    with State(tmp_path).connection() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (_FULL,)


def traced(directory: Path, command: list[str]) -> list[str]:
    """What a process and its threads wrote and synced, in order, until it had acked so many batches."""
    trace = directory / "trace"
    calls = "write,pwrite64,pwritev,fsync,fdatasync"
    strace = ["strace", "-f", "-y", "-s", "16", "-e", f"trace={calls}", "-o", str(trace)]
    process = subprocess.Popen(
        [*strace, *command], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        acked = [process.stdout.readline() for _ in range(_ACKS)]
        # strace ends with what it traces.
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        process.wait()
    assert all(acked), "it ended before"
    return trace.read_text().splitlines()


def unsynced_acks(lines: list[str], file: str) -> tuple[int, int, int]:
    """Acks, syncs of a file, and the acks before which nothing new was synced, or something was not."""
    acks = syncs = early = 0
    dirty, fresh = False, False
    syncing: set[str] = set()
    for line in lines:
        if call := _CALL.match(line):
            thread, name, descriptor, path, rest = call.groups()
            if name in ("fsync", "fdatasync") and path.endswith(file):
                if "unfinished" in rest:
                    syncing.add(thread)
                else:
                    syncs, dirty, fresh = syncs + 1, False, True
            elif path.endswith(file):
                dirty = True
            elif descriptor == "1" and _SEQUENCE.match(rest):
                acks, early = acks + 1, early + (dirty or not fresh)
                fresh = False
        elif (resumed := _RESUMED.match(line)) and resumed[1] in syncing and "sync" in resumed[2]:
            syncing.discard(resumed[1])
            syncs, dirty, fresh = syncs + 1, False, True
    return acks, syncs, early


def test_no_batch_is_acked_before_the_write_ahead_log_with_it_is_synced(tmp_path: Path) -> None:
    lines = traced(tmp_path, [sys.executable, "-m", "tests.support.log_chain", str(tmp_path / "log.db")])
    acks, syncs, early = unsynced_acks(lines, "log.db-wal")
    assert acks >= _ACKS and syncs >= acks and early == 0


def test_an_ack_that_leaves_before_its_sync_would_be_found() -> None:
    wrote, ack = '7 pwrite64(5</x/log.db-wal>, ""..., 24, 0) = 24', '6 write(1<pipe:[1]>, "1\\n", 2) = 2'
    synced = "7 fdatasync(5</x/log.db-wal>) = 0"
    begun, done = "7 fdatasync(5</x/log.db-wal> <unfinished ...>", "7 <... fdatasync resumed>) = 0"
    assert unsynced_acks([wrote, synced, ack], "log.db-wal") == (1, 1, 0)
    assert unsynced_acks([wrote, begun, done, ack], "log.db-wal") == (1, 1, 0)
    for order in ([wrote, ack], [wrote, ack, synced], [wrote, begun, ack, done], [synced, wrote, ack]):
        assert unsynced_acks(order, "log.db-wal")[2] == 1
