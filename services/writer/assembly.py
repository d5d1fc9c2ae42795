"""Batches of a product to the columns of one file: their records, and where each comes from."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from services.writer import manifest, sql
from services.writer.decoding import Chunk, Decoded
from services.writer.files import Directory
from services.writer.inventory import RowNumbers
from services.writer.provenance import Provenance
from services.writer.rows import ARROW_TYPES, time_of
from services.writer.tables import Table
from telltale.naming import table_name


@dataclass(frozen=True)
class Part:
    """A batch on its way into a file."""

    decoded: Decoded
    provenance: Provenance


class Assembly:
    """The batches of one transaction that go into files: one file a product."""

    def __init__(self, directory: Directory, numbers: RowNumbers, wrote: Callable[[str], None]) -> None:
        """wrote: told the name of each file; whether it counts is known when the transaction is over."""
        self._wrote = wrote
        self._directory = directory
        self._numbers = numbers
        self._parts: dict[str, list[Part]] = {}

    def add(self, connection: sqlite3.Connection, table: Table, part: Part) -> int:
        """Puts a batch behind the others of its product; returns the number of its first row."""
        if part.decoded.count:
            self._parts.setdefault(table.product, []).append(part)
        return self._numbers.take(connection, table.product, part.decoded.count, manifest.last_row)

    def write(self, connection: sqlite3.Connection, now: str) -> None:
        """Makes the files durable, then names them in the manifest: that commits with the transaction."""
        for product, parts in self._parts.items():
            last = self._numbers.take(connection, product, 0, manifest.last_row) - 1
            first = last + 1 - sum(part.decoded.count for part in parts)
            received = [part.provenance.received_time for part in parts]
            written = self._directory.write(stem(product, first), [assemble(parts, first)])
            self._wrote(written.name)
            file = manifest.File(
                file=written.name,
                product=product,
                first_row=first,
                last_row=last,
                merges=0,
                bytes=written.size,
                sha256=written.sha256,
                first_received_time=min(received),
                last_received_time=max(received),
                made_time=now,
            )
            manifest.add(connection, file)


def stem(product: str, first_row: int) -> str:
    """How the name of a file begins, for people who look at the directory."""
    return f"{table_name(product)}-{first_row:012d}"


def assemble(parts: Sequence[Part], first_row: int) -> pa.Table:
    """All records of the parts in their order, numbered from `first_row` on.

    Versions of a product may be mixed: a column that a version lacks is null in its rows.
    """
    records = pa.concat_tables(
        [
            pa.Table.from_batches([chunk.columns.slice(first, last - first)])
            for chunk, first, last in _runs(parts)
        ],
        promote_options="default",
    )
    ends = pa.array(accumulate(part.decoded.count for part in parts), pa.int32())
    by_column = zip(*(part.provenance.values for part in parts), strict=True)
    for (name, declared), values in zip(sql.PROVENANCE, by_column, strict=True):
        records = records.append_column(name, _repeated(declared, values, ends))
    numbers = pa.arange(first_row, first_row + records.num_rows)
    return records.append_column("_row", numbers)


def _runs(parts: Sequence[Part]) -> Iterator[tuple[Chunk, int, int]]:
    """Ranges of chunks; batches that follow each other in a chunk are one range."""
    chunk, first, last = None, 0, 0
    for part in parts:
        decoded = part.decoded
        if decoded.chunk is chunk and decoded.first == last:
            last = decoded.last
            continue
        if chunk is not None:
            yield chunk, first, last
        chunk, first, last = decoded.chunk, decoded.first, decoded.last
    if chunk is not None:
        yield chunk, first, last


def _repeated(declared: str, values: Sequence[str | int | None], ends: pa.Array) -> pa.Array:
    """One value a batch to one a record. Texts stay words of a dictionary, which Parquet takes as it is."""
    if declared == "TIMESTAMP":
        each = pa.array(
            [None if value is None else time_of(str(value)) for value in values], pa.timestamp("us")
        )
        return pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, each))
    each = pa.array(values, ARROW_TYPES[declared])
    if declared != "TEXT":
        return pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, each))
    words = each.dictionary_encode()
    places = pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, words.indices))
    return pa.DictionaryArray.from_arrays(places, words.dictionary)
