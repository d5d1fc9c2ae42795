"""The writer's database: one SQLite file, one writing thread, records and cursor in one transaction."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Self, TypeVar

from services.writer import manifest, retention, sql, upkeep
from services.writer.assembly import Assembly
from services.writer.decoding import Decoded, InFiles, decode
from services.writer.files import Directory
from services.writer.group import Group, Tally
from services.writer.inventory import RowNumbers
from services.writer.plans import Place, Plans, foresee, places
from services.writer.rows import time_text
from services.writer.tables import table_of
from telltale.api.mesh.v1.batch_pb2 import Cursor, Position
from telltale.consume.chains import KnownChain
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.contract.product import Contract
from telltale.contract.schema import Schema
from telltale.identity.distrust import Distrust
from telltale.seal.chain import Head
from telltale.sqlite import Database

_T = TypeVar("_T")

# Refused batches that are kept, of at most 64 KiB each.
_QUARANTINE = 10_000
# No promise makes anybody keep more than this.
_LONGEST_RETENTION = timedelta(days=3_650)


class Store:
    """Everything that the writer keeps. Use as `async with`."""

    def __init__(self, path: Path, distrust: Distrust | None = None) -> None:
        """distrust: whose batches are not stored, however lately that was said."""
        self._distrust = distrust or Distrust()
        self._database = Database(path, (*sql.SCHEMA, *manifest.SCHEMA))
        self._directory = Directory(path)
        # Both are used by the writing thread, one commit at a time.
        self._plans = Plans()
        self._numbers = RowNumbers()
        # Files that a transaction has named, or has not: the next one finds out.
        self._unsettled: list[str] = []

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        await self._database.write(sql.upgrade)
        await self._database.write(partial(upkeep.tidy, self._directory))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.__aexit__(kind, value, trace)

    async def cursor(self) -> Cursor:
        """Where the next subscription goes on."""
        rows = await self._database.read(
            lambda connection: sql.select(connection, "cursors", ("product", "log", "offset"), {})
        )
        return Cursor(positions=[Position(product=p, log=log, offset=offset) for p, log, offset in rows])

    async def chains(self) -> list[KnownChain]:
        """The last batch of every chain, whatever retention removed."""
        columns = ("product", "source", "epoch", "sequence", "header_sha256", "after_gap")
        rows = await self._database.read(lambda connection: sql.select(connection, "chains", columns, {}))
        return [
            KnownChain(product, source, Head(epoch, sequence, bytes.fromhex(digest)), bool(gap))
            for product, source, epoch, sequence, digest, gap in rows
        ]

    async def commit(self, items: Sequence[Item]) -> Tally:
        """Stores items and the cursor after them; raises Unavailable, with nothing stored, when it cannot."""
        decoded = await asyncio.to_thread(_decode, items, self._plans.in_files)
        try:
            return await self._database.write(partial(self._apply, decoded))
        except BaseException:
            # What they remember of tables and rows was rolled back. Only this commit used them.
            self._forget()
            raise

    async def places(self) -> list[Place]:
        """Where each product's records are."""
        return await self._database.read(places)

    async def change(self, change: Callable[[Connection], _T]) -> _T:
        """Makes a change that concerns neither tables nor the numbers of rows, in one transaction."""
        return await self._database.write(change)

    async def foresee(self, contract: Contract, schema: Schema) -> None:
        """Makes the tables of a product that nobody has sent yet; raises InvalidInput if it cannot."""
        table = table_of(contract)
        await self._database.write(partial(foresee, contract=contract, schema=schema, table=table))

    async def prune(self, now: datetime) -> int:
        """Removes what is past its product's retention, in short transactions; returns the batches."""
        removed = 0
        for place in await self.places():
            keep = min(timedelta(seconds=min(place.retention_seconds, 1e9)), _LONGEST_RETENTION)
            before = time_text(now.astimezone(UTC) - keep)
            for step in retention.steps(place, time_text(now.astimezone(UTC))):
                more = True
                while more:
                    batches, more = await self._database.write(partial(step, before=before))
                    removed += batches
        await self._database.write(lambda connection: sql.prune_quarantine(connection, _QUARANTINE))
        return removed

    async def merge(self) -> bool:
        """Makes one file of small ones, if a product has too many; returns whether it had."""
        now = datetime.now(UTC)
        for place in await self.places():
            if not place.in_files:
                continue
            files = await self._database.read(partial(manifest.current, product=place.product))
            merge = upkeep.Merge.next_of(files, place.retention_seconds)
            if merge is not None:
                await self._merge(merge, now)
                return True
        return False

    async def sweep(self, now: datetime) -> int:
        """Deletes files that have been out of the history for a while; returns how many."""
        # Asked apart: a transaction that is rolled back must not have named a file to be deleted.
        names = await self._database.read(partial(upkeep.swept, now=now))
        if names:
            await self._database.write(partial(upkeep.sweep, self._directory, names))
        return len(names)

    async def _merge(self, merge: upkeep.Merge, now: datetime) -> None:
        merged, damaged = await asyncio.to_thread(merge.write, self._directory, now)

        def change(connection: Connection) -> None:
            for file, fault in damaged:
                upkeep.note_damage(connection, file, fault)
            if merged is not None:
                manifest.replace(connection, merge.files, merged)

        try:
            await self._database.write(change)
        finally:
            if merged is not None:
                self._unsettled.append(merged.file)

    def _apply(self, items: list[Decoded | Missing], connection: Connection) -> Tally:
        upkeep.settle(self._directory, self._unsettled, connection)
        now = time_text(datetime.now(UTC))
        assembly = Assembly(self._directory, self._numbers, self._unsettled.append)
        group = Group(connection, self._plans, self._numbers, now, self._distrust, assembly)
        return group.apply(items)

    def _forget(self) -> None:
        self._plans.forget()
        self._numbers.forget()


def _decode(items: Sequence[Item], in_files: InFiles) -> list[Decoded | Missing]:
    decoded = iter(decode([item for item in items if isinstance(item, Delivered)], in_files))
    return [item if isinstance(item, Missing) else next(decoded) for item in items]
