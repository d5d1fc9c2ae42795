"""Changes commit in groups, fail alone, and are durable when they are answered."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from telltale.errors import Unavailable
from telltale.sqlite import Database

SCHEMA = ("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, filler BLOB) STRICT",)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    # A name that means something in a URI: it must not, in a path.
    async with Database(tmp_path / "50%?#.db", SCHEMA) as opened:
        yield opened


def insert(number: int, size: int = 0):  # type: ignore[no-untyped-def]
    return lambda db: db.execute("INSERT INTO t VALUES (?, ?)", (number, b"x" * size)).lastrowid


async def numbers(database: Database) -> list[int]:
    return await database.read(lambda db: [row[0] for row in db.execute("SELECT n FROM t ORDER BY n")])


async def test_changes_that_wait_together_share_one_commit(database: Database) -> None:
    busy = threading.Event()
    first = database.submit(lambda db: busy.wait())
    waiting = [database.submit(insert(number)) for number in range(100)]
    before = database.commits
    busy.set()
    await asyncio.gather(first, *waiting)
    assert database.commits <= before + 2
    assert await numbers(database) == list(range(100))


async def test_changes_that_may_wait_do_so_until_one_may_not(tmp_path: Path) -> None:
    async with Database(tmp_path / "patient.db", SCHEMA, gather_seconds=3600.0) as database:
        # Who comes alone waits for nobody.
        await database.submit(insert(1), may_wait=True)
        before = database.commits
        waiting = [database.submit(insert(number), may_wait=True) for number in (2, 3)]
        assert await numbers(database) == [1]
        await asyncio.gather(*waiting, database.submit(insert(4)))
        assert database.commits <= before + 1
        assert await numbers(database) == [1, 2, 3, 4]


async def test_what_waits_is_committed_at_the_end(tmp_path: Path) -> None:
    async with Database(tmp_path / "patient.db", SCHEMA, gather_seconds=3600.0) as database:
        await database.submit(insert(1), may_wait=True)
        waiting = database.submit(insert(2), may_wait=True)
    await waiting


async def test_a_change_that_raises_is_rolled_back_alone(database: Database) -> None:
    def half(db: sqlite3.Connection) -> None:
        insert(2)(db)
        raise KeyError("no more")

    outcomes = await asyncio.gather(
        *(database.submit(change) for change in (insert(1), half, insert(3))), return_exceptions=True
    )
    assert outcomes[0] == 1 and isinstance(outcomes[1], KeyError) and outcomes[2] == 3
    assert await numbers(database) == [1, 3]


async def test_a_broken_statement_is_no_matter_of_the_disk(database: Database) -> None:
    await database.write(insert(1))
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(insert(1))


async def test_a_full_disk_is_said_and_passes(database: Database) -> None:
    def bound(pages: int):  # type: ignore[no-untyped-def]
        return lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await database.write(bound(20))
    with pytest.raises(Unavailable, match="cannot be written: database or disk is full"):
        await database.write(insert(1, 1 << 20))
    assert await numbers(database) == []
    assert await database.write(insert(2)) == 2
    await database.write(bound(10_000))
    assert await database.write(insert(1, 1 << 20)) == 1
    assert await numbers(database) == [1, 2]


async def test_a_change_is_made_though_nobody_waits_for_it_any_more(database: Database) -> None:
    busy = threading.Event()
    first = database.submit(lambda db: busy.wait())
    given_up = asyncio.ensure_future(database.write(insert(1)))
    await asyncio.sleep(0)
    given_up.cancel()
    busy.set()
    await first
    await database.write(insert(2))
    assert await numbers(database) == [1, 2]


async def test_closing_answers_everybody(tmp_path: Path) -> None:
    busy = threading.Event()
    database = Database(tmp_path / "t.db", SCHEMA)
    async with database:
        first = database.submit(lambda db: busy.wait())
        waiting = database.submit(insert(1))
        asyncio.get_running_loop().call_later(0, busy.set)
    assert await first and await waiting == 1
    with pytest.raises(Unavailable, match="is being closed"):
        await database.write(insert(2))


async def test_a_reader_sees_one_state(database: Database) -> None:
    looked, changed = threading.Event(), threading.Event()

    def twice(db: sqlite3.Connection) -> tuple[int, int]:
        before = db.execute("SELECT count(*) FROM t").fetchone()[0]
        looked.set()
        changed.wait()
        return before, db.execute("SELECT count(*) FROM t").fetchone()[0]

    reading = asyncio.ensure_future(database.read(twice))
    await asyncio.to_thread(looked.wait)
    await database.write(insert(1))
    changed.set()
    assert await reading == (0, 0)
    assert await numbers(database) == [1]
