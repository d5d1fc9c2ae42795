"""The writer's database: one file, one writing thread, rows and cursor in one transaction."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Self, TypeVar

from services.writer import sql
from services.writer.decoding import Decoded, decode
from services.writer.group import Group, Tally
from services.writer.inventory import RowNumbers
from services.writer.plans import Plans, foresee
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

# Batches that one transaction of the retention removes: short enough that storing goes on.
_PRUNED_AT_ONCE = 200
_NOTES_AT_ONCE = 5_000
# Refused batches that are kept, of at most 64 KiB each.
_QUARANTINE = 10_000
# No promise makes anybody keep more than this.
_LONGEST_RETENTION = timedelta(days=3_650)


class Store:
    """Everything that the writer keeps. Use as `async with`."""

    def __init__(self, path: Path, distrust: Distrust | None = None) -> None:
        """distrust: whose batches are not stored, however lately that was said."""
        self._distrust = distrust or Distrust()
        self._database = Database(path, sql.SCHEMA)
        # Both are used by the writing thread, one commit at a time.
        self._plans = Plans()
        self._numbers = RowNumbers()

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
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
        decoded = await asyncio.to_thread(_decode, items)
        try:
            return await self._database.write(partial(self._apply, decoded))
        except BaseException:
            # What they remember of tables and rows was rolled back. Only this commit used them.
            self._forget()
            raise

    async def tables(self) -> list[tuple[str, str, str | None]]:
        """Every product with its table and, for an inventory, the table of its history."""
        columns = ("product", "table_name", "history_table")
        rows = await self._database.read(lambda connection: sql.select(connection, "products", columns, {}))
        return [(product, table, history) for product, table, history in rows]

    async def change(self, change: Callable[[Connection], _T]) -> _T:
        """Makes a change that concerns neither tables nor the numbers of rows, in one transaction."""
        return await self._database.write(change)

    async def foresee(self, contract: Contract, schema: Schema) -> None:
        """Makes the tables of a product that nobody has sent yet; raises InvalidInput if it cannot."""
        table = table_of(contract)
        await self._database.write(partial(foresee, contract=contract, schema=schema, table=table))

    async def prune(self, now: datetime) -> int:
        """Removes what is past its product's retention, in short transactions; returns the batches."""
        retentions = await self._database.read(
            lambda connection: sql.select(
                connection, "products", ("product", "table_name", "history_table", "retention_seconds"), {}
            )
        )
        removed = 0
        for product, table, history, seconds in retentions:
            keep = min(timedelta(seconds=min(seconds, 1e9)), _LONGEST_RETENTION)
            before = time_text(now.astimezone(UTC) - keep)
            pruned = _PRUNED_AT_ONCE
            while pruned == _PRUNED_AT_ONCE:
                pruned = await self._database.write(
                    partial(_prune, product=product, table=history or table, before=before)
                )
                removed += pruned
        await self._database.write(lambda connection: sql.prune_quarantine(connection, _QUARANTINE))
        return removed

    def _apply(self, items: list[Decoded | Missing], connection: Connection) -> Tally:
        now = time_text(datetime.now(UTC))
        group = Group(connection, self._plans, self._numbers, now, self._distrust)
        return group.apply(items)

    def _forget(self) -> None:
        self._plans.forget()
        self._numbers.forget()


def _decode(items: Sequence[Item]) -> list[Decoded | Missing]:
    decoded = iter(decode([item for item in items if isinstance(item, Delivered)]))
    return [item if isinstance(item, Missing) else next(decoded) for item in items]


def _prune(connection: Connection, *, product: str, table: str, before: str) -> int:
    batches = sql.old_batches(connection, product, before, _PRUNED_AT_ONCE)
    for source, epoch, sequence, first, last in batches:
        if first is not None and last is not None:
            sql.delete_rows(connection, table, first, last)
        sql.mark_pruned(connection, product, source, epoch, sequence)
        identity = {"product": product, "source": source, "epoch": epoch, "sequence": sequence}
        sql.delete(connection, "batches", identity)
    for notes, column in (("losses", "received_time"), ("holes", "noticed_time"), ("gaps", "noticed_time")):
        sql.prune_older(connection, notes, column, product, before, _NOTES_AT_ONCE)
    return len(batches)
