"""A writer is killed, or its disk fails, between any two steps: every record is stored exactly once."""

import asyncio
import errno
import itertools
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.writer import files, manifest, sql, upkeep
from services.writer.files import Directory
from services.writer.store import Store
from telltale.cli.sql import run_query
from telltale.consume.delivered import Delivered
from telltale.errors import Unavailable
from tests.services.writer.test_files import PORTS
from tests.services.writer.test_store import rows
from tests.support.deliveries import Log
from tests.support.flows import Exporter, Flows
from tests.support.mesh import Mesh

# Every step of storing, merging and sweeping after which the disk holds something else than before.
STEPS: tuple[tuple[Any, str], ...] = (
    (files, "_write"), (files, "_sync"), (Path, "rename"), (Path, "unlink"),
    (manifest, "add"), (manifest, "remove"), (manifest, "forget"), (sql, "upsert"), (sql, "count_stored"),
)  # fmt: skip


def before_each_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[bool], None]) -> None:
    """act: told whether the step is one of SQLite's."""
    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, _preceded(getattr(owner, name), act, owner in (manifest, sql)))


def _preceded(step: Callable[..., Any], act: Callable[[bool], None], sqlite: bool) -> Callable[..., Any]:
    def stepped(*arguments: Any, **named: Any) -> Any:
        act(sqlite)
        return step(*arguments, **named)

    return stepped


def check(database: Path, stored: int) -> None:
    """Batches of three, one after the other and each once, and no file that counts is lost."""
    answer = run_query(database, PORTS, verify=True)
    assert [port for (port,) in answer.rows] == list(range(1, 3 * stored + 1))
    assert answer.warnings == ()
    assert rows(database, "SELECT batches, records FROM products") == [(stored, 3 * stored)]
    assert [place for (place,) in rows(database, 'SELECT "offset" FROM cursors')] == [stored]


def clean(database: Path) -> None:
    """Nothing lies in the directory but what the manifest names."""
    named = {name for (name,) in rows(database, "SELECT file FROM files")}
    assert {path.name for path in Directory(database).path.iterdir()} == named


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory, mesh: Mesh) -> "Batches":
    flows = Flows(tmp_path_factory.mktemp("flows"))
    return Batches(list(Exporter(mesh).many(flows, 250)))


class Batches:
    """What is delivered, as something that hypothesis does not print."""

    def __init__(self, items: list[Delivered]) -> None:
        self.items = items


# What one life of a writer does: it stores two groups from its cursor on, merges what it can, and sweeps.
# The parent forks a life that is killed before its N-th step, then one for N + 1, until one lives on.
LIVES = """
import asyncio, os, pickle, signal, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.writer import upkeep
from services.writer.store import Store
from tests.services.writer.test_files_kill import before_each_step, deliveries

database, stored = map(Path, sys.argv[1:])
flows, sealed = pickle.loads(stored.read_bytes())
upkeep.MERGED_AT_ONCE = 2

async def life(items):
    async with Store(database) as store:
        positions = (await store.cursor()).positions
        place = positions[0].offset if positions else 0
        for first in (place, place + 2):
            # As a log that was replaced would, it delivers one again.
            await store.commit(items[max(0, first - 1) : first + 2])
        while await store.merge():
            pass
        await store.sweep(datetime.now(UTC) + timedelta(hours=1))

items = deliveries(Path(flows), sealed)
step = 0
while True:
    pid = os.fork()
    if pid == 0:
        left = step

        def act(sqlite):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        before_each_step(pytest.MonkeyPatch(), act)
        asyncio.run(life(items))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(step, status, flush=True)
    # Nothing of the database may be open here: the next life forks from this process.
    if sys.stdin.readline().strip() != "on" or status == 0:
        break
    step += 1
"""


def deliveries(directory: Path, sealed: list[bytes]) -> list[Delivered]:
    """The same batches at the same places of the same log."""
    from telltale.api.mesh.v1.batch_pb2 import SealedBatch

    flows, log = Flows(directory), Log()
    return [
        log.deliver(SealedBatch.FromString(batch), contract=flows.contract, schema=flows.schema)
        for batch in sealed
    ]


@pytest.mark.timeout(240)
def test_kill_nine_before_every_single_step_loses_and_doubles_nothing(
    tmp_path: Path, database: Path, batches: Batches
) -> None:
    stored = tmp_path / "batches"
    sealed = [item.batch.SerializeToString() for item in batches.items]
    stored.write_bytes(pickle.dumps((str(tmp_path / "flows"), sealed)))
    kills = 0
    with subprocess.Popen(
        [sys.executable, "-c", LIVES, str(database), str(stored)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            for line in process.stdout:
                step, status = map(int, line.split())
                assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, f"{step} ended with {status}"
                kills += status != 0
                found = rows(database, 'SELECT "offset" FROM cursors')
                if found:
                    check(database, found[0][0])
                process.stdin.write("on\n")
                process.stdin.flush()
        finally:
            process.stdin.close()
    assert process.returncode == 0
    # A group takes eight steps, the merge after two of them as many, and sweeping a few.
    assert kills > 20
    clean(database)


@pytest.mark.timeout(240)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["commit", "merge", "sweep", "start"]), st.none() | st.integers(0, 12)),
        min_size=1,
        max_size=12,
    )
)
def test_a_disk_that_fails_at_any_step_costs_time_only(
    acts: list[tuple[str, int | None]],
    batches: Batches,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    items = batches.items
    database = tmp_path_factory.mktemp("disk") / "telltale.db"
    left: Iterator[int] = itertools.repeat(-1)

    def act(sqlite: bool) -> None:
        if next(left) == 0:
            if sqlite:
                raise sqlite3.OperationalError("database or disk is full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def live() -> int:
        nonlocal left
        stored = 0
        store = Store(database)
        await store.__aenter__()
        for what, fails in [*acts, ("commit", None), ("start", None)]:
            left = (
                itertools.count(fails, -1) if fails is not None and what != "start" else itertools.repeat(-1)
            )
            try:
                if what == "commit":
                    await store.commit(items[max(0, stored - 1) : stored + 3])
                    stored += 3
                elif what == "merge":
                    await store.merge()
                elif what == "sweep":
                    await store.sweep(datetime.now(UTC) + timedelta(hours=1))
                else:
                    await store.__aexit__(None, None, None)
                    store = Store(database)
                    await store.__aenter__()
            except Unavailable:
                pass
            if stored:
                check(database, stored)
        await store.__aexit__(None, None, None)
        return stored

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(upkeep, "MERGED_AT_ONCE", 2)
        before_each_step(monkeypatch, act)
        check(database, asyncio.run(live()))
    clean(database)
