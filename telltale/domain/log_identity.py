"""Who a log is, and how far its offsets may be handed out.

A log that lacks what it once handed out is another one: it gets another id, and its consumers a gap.
"""

import asyncio
import contextlib
import secrets
import sqlite3
from pathlib import Path

import structlog

from telltale import salvage
from telltale.domain import rows
from telltale.domain.lineage import Lineage, Verdict, judge
from telltale.errors import Damaged, Unavailable
from telltale.sqlite import Database

# How often room is made for the offsets to come: one fsync, and only while the log grows.
_MARK_SECONDS = 1.0

log = structlog.get_logger(__name__)


class LogIdentity:
    """The id of a log and the mark beside its file, for as long as the file is open."""

    def __init__(self, path: Path, database: Database) -> None:
        self._path = path
        self._database = database
        self._lineage = Lineage(path.with_suffix(".seen"))
        self._marking = asyncio.Lock()
        # The highest offset that is durable.
        self.reached = 0
        self.id = ""

    async def take_up(self) -> None:
        """Judges the open file by its mark; gives it an id if it has none, or not the one that it had."""
        mark = await asyncio.to_thread(self._lineage.read)

        def change(db: sqlite3.Connection) -> tuple[str, int, Verdict]:
            last = rows.last_offset(db)
            row = db.execute("SELECT value FROM meta WHERE name = 'log'").fetchone()
            known = str(row[0]) if row else ""
            verdict = judge(mark, known, last)
            if not known or verdict is Verdict.REPLACED:
                known = secrets.token_hex(8)
                db.execute("INSERT OR REPLACE INTO meta VALUES ('log', ?)", (known,))
            if mark is not None and verdict is Verdict.CRASHED:
                rows.skip_to(db, mark.bound)
                last = mark.bound
            return known, last, verdict

        self.id, self.reached, verdict = await self._database.write(change)
        if verdict is Verdict.REPLACED or (mark is not None and mark.log != self.id):
            log.error("this is not the log that was here before; it gets another id", file=str(self._path))
        try:
            await self._make_room(self.reached)
        except Unavailable as failed:
            # What lies there can be read by the mark that was left; `watch` tries again, and so does `cover`.
            log.warning("no room for offsets", reason=str(failed))

    async def close(self) -> None:
        """Marks the end of a log that is closed in order."""
        if self._database.damaged.is_set():
            return
        try:
            # In the writing thread: behind everything that was appended.
            self.reached = await self._database.write(rows.last_offset)
            await asyncio.to_thread(self._lineage.close, self.id, self.reached)
        except Unavailable as failed:
            log.warning(
                "the log's end is not marked; the next start takes it for a crash", reason=str(failed)
            )

    async def watch(self) -> None:
        """Makes room for offsets while the log grows, for ever; raises Damaged when its file is malformed."""
        damaged = self._database.damaged
        while not damaged.is_set():
            try:
                await self._make_room(self.reached)
            except Unavailable as failed:
                log.warning("no room for offsets", reason=str(failed))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MARK_SECONDS):
                    await damaged.wait()
        await asyncio.to_thread(salvage.mark, self._path)
        raise Damaged(f"{self._path} is malformed; it is recovered at the next start")

    async def cover(self, offset: int) -> None:
        """Returns when an offset may be handed out."""
        mark = self._lineage.mark
        if mark is None or mark.log != self.id or offset > mark.bound:
            await self._make_room(offset)

    async def _make_room(self, reached: int) -> None:
        async with self._marking:
            mark = self._lineage.mark
            if mark is None or mark.log != self.id or mark.closed or reached > mark.reached:
                await asyncio.to_thread(self._lineage.advance, self.id, reached)


def forget(db: sqlite3.Connection) -> None:
    """The log becomes another one when it is taken up."""
    db.execute("DELETE FROM meta WHERE name = 'log'")
