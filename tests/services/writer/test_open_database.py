"""Others read the database with their own tools while the writer writes, and a crash harms nothing."""

import contextlib
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlite_utils

from services.writer.store import Store
from telltale.errors import Damaged
from tests.support.batches import Chain, disk_usage
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

# Stores the same 400 batches in groups, from the cursor on, and says after each commit how far it is.
WRITER = """
import asyncio, pickle, sys
from pathlib import Path
from services.writer.store import Store
from telltale.errors import Damaged
from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from tests.support.deliveries import Log

async def main():
    batches = [SealedBatch.FromString(data) for data in pickle.loads(Path(sys.argv[2]).read_bytes())]
    log = Log()
    items = [log.deliver(batch) for batch in batches]
    async with Store(Path(sys.argv[1])) as store:
        positions = (await store.cursor()).positions
        place = positions[0].offset if positions else 0
        # As a log that was replaced would, it delivers some again.
        place = max(0, place - 5)
        while place < len(items):
            await store.commit(items[place:place + 7])
            place += 7
            print(place, flush=True)

asyncio.run(main())
"""


def test_kill_nine_in_the_middle_of_commits_loses_and_doubles_nothing(
    tmp_path: Path, mesh: Mesh, database: Path
) -> None:
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    batches = [chain.next([disk_usage(f"/{n}"), disk_usage(f"/{n}/b")]) for n in range(400)]
    stored = tmp_path / "batches"
    stored.write_bytes(pickle.dumps([batch.SerializeToString() for batch in batches]))
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(database), str(stored)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            text=True,
        )
        assert process.stdout is not None
        for count, _ in enumerate(process.stdout):
            # Right after a commit was reported the next one is under way.
            if kills < 3 and count == 9 + kills:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
        process.stdout.close()
        if process.wait() == 0:
            break
    assert kills == 3
    connection = sqlite3.connect(database)
    found = connection.execute("SELECT mountpoint, count(*) FROM servers_disk_usage GROUP BY 1").fetchall()
    assert dict(found) == {f"/{n}{rest}": 1 for n in range(400) for rest in ("", "/b")}
    assert connection.execute("SELECT batches, records FROM products").fetchall() == [(400, 800)]
    assert connection.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_sqlite_utils_reads_while_the_writer_writes(store: Store, database: Path, mesh: Mesh) -> None:
    chain, log = Chain(mesh.credentials("servers", "/agent/web1")), Log()
    await store.commit([log.deliver(chain.next([disk_usage("/")]))])
    opened = sqlite_utils.Database(sqlite3.connect(f"file:{database}?mode=ro", uri=True))
    for count in range(1, 4):
        assert opened["servers_disk_usage"].count == count
        await store.commit([log.deliver(chain.next([disk_usage("/")]))])
    assert {"cursors", "products", "chains", "gaps", "holes", "losses", "quarantine", "schemas"} <= set(
        opened.table_names()
    )
    opened.conn.close()


@pytest.mark.filterwarnings("ignore")
async def test_datasette_opens_the_database_while_the_writer_writes(
    store: Store, database: Path, mesh: Mesh
) -> None:
    from datasette.app import Datasette

    chain, log = Chain(mesh.credentials("servers", "/agent/web1")), Log()
    await store.commit([log.deliver(chain.next([disk_usage("/")]))])
    datasette = Datasette([str(database)])
    await datasette.invoke_startup()
    await store.commit([log.deliver(chain.next([disk_usage("/var")]))])
    answer = await datasette.client.get("/telltale/servers_disk_usage.json?_shape=array&_sort=mountpoint")
    assert [row["mountpoint"] for row in json.loads(answer.text)] == ["/", "/var"]


async def test_a_malformed_database_is_said_to_be_and_nothing_is_stored(database: Path, mesh: Mesh) -> None:
    chain, log = Chain(mesh.credentials("servers", "/agent/web1")), Log()
    items = [log.deliver(chain.next([disk_usage(f"/{n}")])) for n in range(30)]
    async with Store(database) as store:
        await store.commit(items[:20])
    page = root_of(database, "batches")
    whole = overwritten(database, page, bytes(4096))
    with pytest.raises(Damaged, match="malformed"):
        async with Store(database) as store:
            await store.commit(items[20:])
    overwritten(database, page, whole)
    async with Store(database) as store:
        ((position),) = (await store.cursor()).positions
        assert position.offset == 20
        assert (await store.commit(items[20:])).batches == 10


def root_of(database: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(database)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        return int(page)


def overwritten(database: Path, page: int, content: bytes) -> bytes:
    """Puts other bytes into the place of a page, and returns what was there."""
    with database.open("r+b") as file:
        file.seek((page - 1) * 4096)
        before = file.read(4096)
        file.seek((page - 1) * 4096)
        file.write(content)
    return before
