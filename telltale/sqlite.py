"""One writer, many readers: a SQLite file behind an event loop, with group commit.

Everything that is submitted while a commit runs goes into the next one, so that the cost of an
fsync is shared by all who wait for it.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from telltale.errors import Damaged, Unavailable

_T = TypeVar("_T")

# A statement of somebody else's lock should be over long before.
_BUSY_SECONDS = 10.0
# What SQLite says of a file that is not its own any more; the first byte of its extended codes.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# Enough for one commit to be worth its fsync, small enough to bound what waits for it.
_GROUP_LIMIT = 512
# A commit of one small change costs four times the change itself: each page that it touches is written whole
# and synced. Changes that may wait do so for this long after the last commit began; one that comes later than
# that is alone and waits for nobody.
_GATHER_SECONDS = 0.01
_READERS = 2
# SQLite's own default.
_PAGE_BYTES = 4096
# SQLite's own default for how long a write-ahead log grows before it is copied into the file.
_CHECKPOINT_PAGES = 1_000
# What a disk must have left beside the rows, so that a delete fits that makes room: the write-ahead log, and
# as much again for its copy in the file. On a small disk less, and the write-ahead log is copied sooner.
_RESERVE_BYTES = 16 << 20
_RESERVE_SHARE = 8


def connect(path: Path, *, read_only: bool = False, page_bytes: int = _PAGE_BYTES) -> sqlite3.Connection:
    """Opens a database the way all of Telltale does: WAL, durable commits, explicit transactions.

    page_bytes: of a file that is not there yet; one that is keeps its own.
    """
    if read_only:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        return connection
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA page_size = {page_bytes}")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL syncs the log at each commit: only then is a commit a promise.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # What a change overwrites is kept until it is through: in memory, where beyond 64 KiB it would be a file.
    connection.execute("PRAGMA temp_store = MEMORY")
    # Overwritten is only what is written anyway: a delete would else cost as much as what it deletes, which a
    # full disk does not have.
    connection.execute("PRAGMA secure_delete = FAST")
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    pages = min(_CHECKPOINT_PAGES, max(1, reserve(path) // 2 // page_bytes))
    connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
    return connection


def reserve(path: Path) -> int:
    """Bytes that stay free on the disk of a database for what makes room in it."""
    disk = os.statvfs(path.parent)
    return min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // _RESERVE_SHARE)


def bound(db: sqlite3.Connection, set_bytes: int, held_bytes: int, reserves: int = 1) -> int:
    """Bytes of rows that a database may hold: what was set for it, or less, as its disk has less.

    Up to it, what deletes rows still fits. held_bytes: what it holds now; reserves: how many the disk keeps.
    It never falls below one reserve: who holds so little does not fill the disk, and goes on in the pages it
    has while another does. Costs a few system calls.
    """
    page_bytes, pages, unused = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    path = Path(db.execute("PRAGMA database_list").fetchone()[2])
    try:
        disk, size, kept = os.statvfs(path.parent), path.stat().st_size, reserve(path)
    except OSError as failed:
        raise sqlite3.OperationalError(f"its disk does not say what is free: {failed}") from failed
    # Pages that lie in the write-ahead log so far, or will, and that the file has to grow by.
    owed = max(0, pages * page_bytes - size)
    room = disk.f_bavail * disk.f_frsize - 2 * owed + unused * page_bytes - reserves * kept
    return min(set_bytes, max(kept, held_bytes + room))


class Database:
    """A SQLite file with one writing thread and a few reading ones. Use as `async with`."""

    def __init__(
        self,
        path: Path,
        schema: Iterable[str],
        prepare: Callable[[sqlite3.Connection], Any] | None = None,
        *,
        page_bytes: int = _PAGE_BYTES,
        committed: Callable[[sqlite3.Connection], Any] | None = None,
        gather_seconds: float = _GATHER_SECONDS,
    ) -> None:
        """prepare: is run behind the schema, in its transaction: brings a file of an earlier version up.

        committed: is run in the writing thread after each commit, before it is answered; reads only.
        gather_seconds: from the start of one commit to the next of changes that may wait.
        """
        self._path = path
        self._schema = tuple(schema)
        self._prepare = prepare
        self._page_bytes = page_bytes
        self._committed = committed
        self._gather_seconds = gather_seconds
        # Set when what is gathered has to be committed at once.
        self._hurry = threading.Event()
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]] | None
        ] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix=f"read-{path.stem}")
        self._local = threading.local()
        self._read_connections: list[sqlite3.Connection] = []
        self._closing = False
        self.commits = 0
        # Set once SQLite has found the file malformed: what it answers then is worth nothing.
        self.damaged = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._connection = await asyncio.to_thread(self._create)
        except sqlite3.Error as failed:
            raise self._failure("opened", failed) from failed
        self._thread = threading.Thread(
            target=self._write_for_ever,
            args=(self._connection,),
            name=f"write-{self._path.stem}",
            daemon=True,
        )
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._jobs.put(None)
        self._hurry.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._read_connections:
            connection.close()
        if self._connection is not None:
            # The last: it brings everything into the one file and takes the write-ahead log away.
            await asyncio.to_thread(self._connection.close)

    async def write(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        """Runs `change` in the writing thread and returns its result when it is durable.

        Changes commit in groups; one that raises is rolled back alone and raises here. Raises Unavailable
        when the file cannot be written, Damaged when it does not hold together. Cancelled, it no longer
        waits; the change is made all the same.
        """
        return await self.submit(change)

    def submit(
        self, change: Callable[[sqlite3.Connection], _T], *, may_wait: bool = False
    ) -> "asyncio.Future[_T]":
        """Like write, but keeps the order of calls without waiting for each.

        may_wait: for a moment, so that more changes share its commit.
        """
        future: asyncio.Future[_T] = self._loop.create_future()
        if self._closing:
            # Behind the writing thread's last job nobody would ever answer.
            future.set_exception(Unavailable(f"{self._path} is being closed; try again after the restart"))
        else:
            self._jobs.put((change, future))
            if not may_wait or self._jobs.qsize() >= _GROUP_LIMIT:
                self._hurry.set()
        return future

    async def read(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        """Runs `question` on a read-only connection in a reading thread."""
        return await self._loop.run_in_executor(self._readers, self._ask, question)

    def _create(self) -> sqlite3.Connection:
        try:
            return self._open()
        except UnicodeDecodeError as quoted:
            # SQLite's error quotes a damaged word of the schema, which is no text any more.
            raise malformed(f"malformed database schema: {quoted}") from quoted

    def _open(self) -> sqlite3.Connection:
        # Nobody else may read what lies in a log or a spool.
        previous = os.umask(0o077)
        try:
            connection = connect(self._path, page_bytes=self._page_bytes)
        finally:
            os.umask(previous)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement in self._schema:
                connection.execute(statement)
            if self._prepare is not None:
                self._prepare(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = connect(self._path, read_only=True)
                self._local.connection = connection
                self._read_connections.append(connection)
            connection.execute("BEGIN")
            try:
                return question(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")
        except sqlite3.Error as failed:
            if not _is_of_the_disk(failed):
                raise
            raise self._failure("read", failed) from failed

    def _write_for_ever(self, connection: sqlite3.Connection) -> None:
        running, began = True, -self._gather_seconds
        while running:
            group = [self._jobs.get()]
            self._hurry.wait(began + self._gather_seconds - time.monotonic())
            # Who sets it later has put a job before, which is in this group or sets it for the next in vain.
            self._hurry.clear()
            began = time.monotonic()
            while len(group) < _GROUP_LIMIT and not self._jobs.empty():
                group.append(self._jobs.get())
            # Nothing comes behind the None: `submit` sees to that.
            running = group[-1] is not None
            outcomes = self._commit(connection, [job for job in group if job is not None])
            self._loop.call_soon_threadsafe(_resolve, outcomes)

    def _commit(
        self,
        connection: sqlite3.Connection,
        group: list[tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]"]],
    ) -> list[tuple["asyncio.Future[Any]", Any, BaseException | None]]:
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for change, future in group:
                outcomes.append((future, *self._change(connection, change)))
            connection.execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as failed:
            cause = self._failure("written", failed)
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return [(future, None, cause) for _, future in group]
        if self._committed is not None:
            try:
                self._committed(connection)
            except sqlite3.Error as failed:
                # What was changed is durable all the same; that the file is damaged is said of it.
                self._failure("read", failed)
        return outcomes

    def _change(
        self, connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], Any]
    ) -> tuple[Any, BaseException | None]:
        """Makes one change of a group; raises only when the whole group is lost."""
        connection.execute("SAVEPOINT one")
        try:
            result, error = change(connection), None
        except Exception as refused:
            result, error = None, refused
            if isinstance(refused, sqlite3.Error):
                if not connection.in_transaction:
                    # SQLite itself has rolled everything back, as it may when the disk is full.
                    raise
                if _is_of_the_disk(refused):
                    error = self._failure("written", refused)
            connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return result, error

    def _failure(self, verb: str, failed: sqlite3.Error) -> Unavailable:
        """What is said of an error of the file or its disk."""
        cause: Unavailable
        if is_damage(failed):
            cause = Damaged(
                f"{self._path} cannot be {verb}: {failed}; the next start recovers what can be read"
            )
            self._loop.call_soon_threadsafe(self.damaged.set)
        else:
            cause = Unavailable(f"{self._path} cannot be {verb}: {failed}; check the disk's space and health")
        cause.__cause__ = failed
        return cause


def is_damage(failed: sqlite3.Error) -> bool:
    """Whether the file does not hold together, and not merely its disk is full or busy."""
    return getattr(failed, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def malformed(what: str) -> sqlite3.DatabaseError:
    """For what SQLite itself did not notice: counts as damage of the file."""
    found = sqlite3.DatabaseError(what)
    found.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return found


def row_checksum(row: Sequence[Any]) -> int:
    """Over all that a row says, its place included; texts as bytes, the largest column last.

    CRC-32 finds any burst of flips up to 32 bits.
    """
    *facts, content = row
    # A flip may have made it something else than bytes.
    return zlib.crc32(content, zlib.crc32(repr(facts).encode())) if isinstance(content, bytes) else -1


def add_column(db: sqlite3.Connection, table: str, column: str, kind: str) -> None:
    """Adds a column to a table of an earlier version, unless it is there."""
    if column not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
        db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def _is_of_the_disk(failed: sqlite3.Error) -> bool:
    """Whether the file or its disk is at fault, and not the statement."""
    return isinstance(failed, sqlite3.OperationalError) or type(failed) is sqlite3.DatabaseError


def _resolve(outcomes: list[tuple["asyncio.Future[Any]", Any, BaseException | None]]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
