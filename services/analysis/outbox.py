"""Findings on their way out: sealed here, once, and handed to the product log until it has acked them.

A batch is sealed and kept in one transaction with the chain that it continues. A crash at any later point
leaves the very same batch to be handed over again, and the log takes a batch that it has as done: nothing
is published twice and nothing is lost.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.analysis.state import State
from telltale.api.analysis.v1.findings_pb2 import FindingsFrame, FindingsRecord
from telltale.api.mesh.v1.batch_pb2 import Header, Origin, SealedBatch
from telltale.identity.credentials import Credentials
from telltale.seal.sealing import seal, sha256

PRODUCT = "analysis.findings"
TABLES = (
    "CREATE SEQUENCE IF NOT EXISTS outbox_numbers",
    """CREATE TABLE IF NOT EXISTS outbox (
        number BIGINT DEFAULT nextval('outbox_numbers'), record BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS chain (
        epoch BIGINT NOT NULL, sequence BIGINT NOT NULL, header_sha256 BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS sealed (batch BLOB NOT NULL, certificates BLOB[] NOT NULL)",
)
# Well below the bounds of a batch: a record with all its evidence has up to 100 KB.
_RECORDS_A_BATCH = 500
_BYTES_A_BATCH = 256 << 10


@dataclass(frozen=True)
class Pending:
    """A sealed batch that the log has not acked yet, with its signer's certificates in DER, leaf first."""

    batch: SealedBatch
    certificates: tuple[bytes, ...]


class Outbox:
    """The outbox of a state. Records enter within the state's transaction; sealing makes its own."""

    def __init__(
        self, state: State, credentials: Callable[[], Credentials], source: str, schema_sha256: bytes
    ) -> None:
        self._state = state
        self._credentials = credentials
        self._source = source
        self._schema = schema_sha256

    def pending(self) -> Pending | None:
        """The batch that is to be handed over now; seals one when there are records and none is waiting."""
        return self._waiting() or self.seal()

    def seal(self, *, empty: bool = False) -> Pending | None:
        """Seals the oldest records into a batch; an `empty` one shows that the source lives."""
        with self._state.transaction():
            rows = self._state.sql.execute(
                """SELECT number, record FROM (
                    SELECT number, record,
                           coalesce(sum(octet_length(record)) OVER (
                               ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
                    FROM (SELECT * FROM outbox ORDER BY number LIMIT ?)
                ) WHERE before < ? ORDER BY number""",
                [_RECORDS_A_BATCH, _BYTES_A_BATCH],
            ).fetchall()
            if not rows and not empty:
                return None
            records = [FindingsRecord.FromString(row[1]) for row in rows]
            pending = self._seal(FindingsFrame.Records(records=records))
            if rows:
                self._state.sql.execute("DELETE FROM outbox WHERE number <= ?", [rows[-1][0]])
        return pending

    def acked(self) -> None:
        """The log has the waiting batch."""
        with self._state.transaction():
            self._state.sql.execute("DELETE FROM sealed")

    def begin_chain(self, above: int) -> None:
        """Seals the waiting batch anew at the start of a chain whose epoch is above one that the log knows.

        Needed when this state is older than the log, for example after a restore. The records keep their ids.
        """
        waiting = self._waiting()
        with self._state.transaction():
            row = self._state.sql.execute("SELECT max(epoch) FROM chain").fetchone()
            known = row[0] if row and row[0] else 0
            self._state.sql.execute("DELETE FROM chain")
            self._state.sql.execute("DELETE FROM sealed")
            self._state.sql.execute(
                "INSERT INTO chain VALUES (?, 0, ?)", [max(_now_ms(), known + 1, above + 1), b""]
            )
            if waiting is not None:
                self._seal(FindingsFrame.Records.FromString(waiting.batch.payload))

    def _waiting(self) -> Pending | None:
        row = self._state.sql.execute("SELECT batch, certificates FROM sealed").fetchone()
        return None if row is None else Pending(SealedBatch.FromString(row[0]), tuple(row[1]))

    def _seal(self, records: FindingsFrame.Records) -> Pending:
        row = self._state.sql.execute("SELECT epoch, sequence, header_sha256 FROM chain").fetchone()
        epoch, sequence, previous = row if row is not None else (_now_ms(), 0, b"")
        header = Header(
            product=PRODUCT,
            source=self._source,
            epoch=epoch,
            sequence=sequence + 1,
            record_count=len(records.records),
            previous_header_sha256=previous,
            schema_sha256=self._schema,
            origin=Origin.ORIGIN_AUTHENTICATED,
        )
        times = sorted((record.time.seconds, record.time.nanos) for record in records.records)
        if times:
            header.first_event_time.seconds, header.first_event_time.nanos = times[0]
            header.last_event_time.seconds, header.last_event_time.nanos = times[-1]
        header.sealed_time.FromNanoseconds(time.time_ns())
        credentials = self._credentials()
        batch = seal(credentials, header, records.SerializeToString())
        self._state.sql.execute("DELETE FROM chain")
        self._state.sql.execute(
            "INSERT INTO chain VALUES (?, ?, ?)", [epoch, sequence + 1, sha256(batch.header)]
        )
        self._state.sql.execute(
            "INSERT INTO sealed VALUES (?, ?)", [batch.SerializeToString(), list(credentials.certificates)]
        )
        return Pending(batch, credentials.certificates)


def put(state: State, records: Sequence[FindingsRecord]) -> None:
    """Puts records into the outbox, within the state's transaction."""
    if records:
        state.sql.executemany(
            "INSERT INTO outbox (record) VALUES (?)", [[record.SerializeToString()] for record in records]
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
