"""Records of a chunk as columns, beside what their batches say: the view that SQL rules read.

`observed` has every field of the record under its own name, and
`_source`, `_host`, `_run`, `_origin`, `_batch` (order of arrival), `_at` (event time in microseconds, never
later than the received time, so that a clock in the future moves nobody) and `_late` (whether the source
had already spoken of later times when the batch came).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from telltale.contract.product import Contract


@dataclass(frozen=True)
class Opened:
    """A batch that holds, with what its records are judged by."""

    contract: Contract
    payload: bytes
    # Number of records that the header states.
    records: int
    source: str
    host: str
    run: str
    origin: int
    # Received time, and the latest event time of the batches before it; microseconds.
    received: int
    watermark: int


class Records:
    """Columns of some batches of one version of one product."""

    def __init__(self, batches: Sequence[Opened], columns: pa.RecordBatch, counts: Sequence[int]) -> None:
        self.contract = batches[0].contract
        self._batches = pa.table(
            {
                "_batch": pa.array(range(len(batches)), pa.int64()),
                "_source": pa.array([one.source for one in batches], pa.string()),
                "_host": pa.array([one.host for one in batches], pa.string()),
                "_run": pa.array([one.run for one in batches], pa.string()),
                "_origin": pa.array([one.origin for one in batches], pa.int32()),
                "_received": pa.array([one.received for one in batches], pa.int64()),
                "_watermark": pa.array([one.watermark for one in batches], pa.int64()),
            }
        )
        ends = pa.array(accumulate(counts, initial=0), pa.int32())
        number = pc.list_parent_indices(pa.ListArray.from_arrays(ends, pa.nulls(columns.num_rows)))
        self._columns = pa.Table.from_batches([columns]).append_column("_number", number)

    def show(self, sql: duckdb.DuckDBPyConnection) -> None:
        """Makes them the view `observed`."""
        sql.register("_batches", self._batches)
        sql.register("_columns", self._columns)
        time = quoted(self.contract.time_field)
        sql.execute(
            f"""CREATE OR REPLACE TEMP VIEW observed AS
            SELECT r.* EXCLUDE (_number), b.* EXCLUDE (_received, _watermark),
                   least(coalesce(epoch_us(r.{time}), b._received), b._received) AS _at,
                   _at < b._watermark AS _late
            FROM _columns r JOIN _batches b ON r._number = b._batch"""
        )

    def hide(self, sql: duckdb.DuckDBPyConnection) -> None:
        """Lets go of the columns."""
        sql.execute("DROP VIEW IF EXISTS observed")
        sql.unregister("_columns")
        sql.unregister("_batches")


def quoted(identifier: str) -> str:
    """An identifier as SQL writes it, whatever its letters are."""
    return '"' + identifier.replace('"', '""') + '"'
