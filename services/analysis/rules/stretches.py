"""Stretches above a limit: folded from rows by SQL, and carried over from chunk to chunk.

How records are cut into chunks changes nothing: what is open at the end of one enters the next as a row
before all others. The cost per record is DuckDB's; Python sees only the few stretches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa

from services.analysis.clock import length
from services.analysis.signals import Subject
from services.analysis.thresholds import Limit
from telltale.api.analysis.v1.findings_pb2 import EntityKind
from telltale.api.mesh.v1.batch_pb2 import Origin

Key = tuple[str, str, str]

TABLE = """CREATE TABLE IF NOT EXISTS stretches (
    detection TEXT NOT NULL, product TEXT NOT NULL, source TEXT NOT NULL, host TEXT NOT NULL,
    part TEXT NOT NULL, run TEXT NOT NULL, origin INTEGER NOT NULL, since BIGINT NOT NULL,
    latest BIGINT NOT NULL, peak DOUBLE NOT NULL, seen BIGINT NOT NULL, told BIGINT NOT NULL,
    PRIMARY KEY (detection, product, source, host, part)
)"""

# `mark` says of a row whether it is above; between the two limits a row goes on with what was before it.
# A stretch that was open before this chunk enters as row -1.
_QUERY = """
WITH marked AS (
    SELECT _source AS source, {host} AS host, {part} AS part, _run AS run, _origin AS origin,
           _batch AS batch, _at AS moment, ({value})::DOUBLE AS value, {evidence} AS evidence,
           CASE WHEN value >= $raise_at THEN TRUE WHEN value < $clear_at THEN FALSE END AS mark,
           _at AS since, 0 AS seen
    FROM observed WHERE NOT _late AND value IS NOT NULL AND ({where})
), carried AS (
    SELECT source, host, part, run, origin, -1 AS batch, latest AS moment, peak AS value, NULL AS evidence,
           TRUE AS mark, since, seen
    FROM stretches WHERE detection = $detection AND product = $product
), touched AS (
    SELECT source, host, part FROM marked WHERE mark
    UNION
    SELECT source, host, part FROM carried SEMI JOIN marked USING (source, host, part)
), rows AS (
    SELECT *, row_number() OVER (PARTITION BY source, host, part ORDER BY batch, moment, value) AS place
    FROM (SELECT * FROM marked UNION ALL SELECT * FROM carried) SEMI JOIN touched USING (source, host, part)
), filled AS (
    SELECT *, coalesce(last_value(mark IGNORE NULLS) OVER sofar, FALSE) AS above FROM rows
    WINDOW sofar AS (PARTITION BY source, host, part ORDER BY place ROWS UNBOUNDED PRECEDING)
), turned AS (
    SELECT *, above AND NOT coalesce(lag(above) OVER sofar, FALSE) AS up FROM filled
    WINDOW sofar AS (PARTITION BY source, host, part ORDER BY place)
), numbered AS (
    SELECT *, count_if(up) OVER sofar AS stretch FROM turned
    WINDOW sofar AS (PARTITION BY source, host, part ORDER BY place ROWS UNBOUNDED PRECEDING)
), counted AS (
    SELECT * EXCLUDE (since, seen), first_value(since) OVER sofar AS since,
           first_value(seen) OVER sofar + count_if(above AND batch >= 0) OVER sofar AS seen
    FROM numbered WHERE stretch > 0
    WINDOW sofar AS (PARTITION BY source, host, part, stretch ORDER BY place ROWS UNBOUNDED PRECEDING)
), judged AS (
    SELECT *, above AND batch >= 0 AND moment - since >= $hold AS raising FROM counted
)
SELECT source, host, part, any_value(run) AS run, any_value(origin) AS origin, min(since) AS since,
       max(moment) FILTER (above) AS latest, max(value) FILTER (above) AS peak, max(seen) AS seen,
       arg_min({{'at': moment, 'value': value, 'seen': seen, 'evidence': evidence}}, place)
           FILTER (raising) AS raised,
       arg_min({{'at': moment, 'value': value, 'evidence': evidence}}, place) FILTER (NOT above) AS cleared
FROM judged GROUP BY source, host, part, stretch ORDER BY min(place), source, host, part
"""


@dataclass(frozen=True)
class Stretch:
    """Rows of one key from the first above the limit to the one that clears it, as far as they came."""

    product: str
    source: str
    host: str
    part: str
    run: str
    origin: Origin
    since: int
    latest: int
    peak: float
    seen: int
    # The row that made it a finding, and the row that ended it, if they came in this chunk.
    raised: Mapping[str, Any] | None = None
    cleared: Mapping[str, Any] | None = None
    # Rows that it had when it was told of; 0 when it was not told of before this chunk.
    told: int = 0

    @property
    def key(self) -> Key:
        return self.source, self.host, self.part

    def subject(self) -> Subject:
        of_source = Subject.of_source(self.source, product=self.product, part=self.part, run=self.run)
        if not self.host or self.host == of_source.host:
            return of_source
        # The record names the host: it is the one that matters, whoever told of it.
        return replace(of_source, entity_kind=EntityKind.ENTITY_KIND_HOST, entity=self.host, host=self.host)


@dataclass(frozen=True)
class Fold:
    """SQL expressions over the view `observed` that say what is measured of whom."""

    host: str
    part: str
    value: str
    evidence: str
    where: str


class Stretches:
    """The open stretches of one detection, within the running transaction."""

    def __init__(self, sql: duckdb.DuckDBPyConnection, detection: str) -> None:
        self._sql = sql
        self._detection = detection

    def fold(self, product: str, fold: Fold, limit: Limit) -> Iterator[Stretch]:
        """What the rows of `observed` begin, continue or end, in their order; keeps what stays open."""
        told = dict(self._open(product))
        if not told and not self._any_above(fold, limit):
            # The common case, for a tenth of the price.
            return
        rows = self._sql.execute(
            _QUERY.format(**vars(fold)),
            {
                "raise_at": limit.raise_at,
                "clear_at": limit.clear_at,
                "hold": length(limit.hold),
                "detection": self._detection,
                "product": product,
            },
        ).fetchall()
        kept: dict[Key, Stretch] = {}
        for row in rows:
            stretch = Stretch(product, *row)
            # A second stretch of the same key is a new one.
            stretch = replace(stretch, told=told.pop(stretch.key, 0))
            kept[stretch.key] = stretch
            yield stretch
        self._keep(product, list(kept.values()))

    def vanished(self, patience: float) -> list[Stretch]:
        """Drops the stretches of what is told of no more, and returns them: its stream is not remembered any
        longer, or has gone on without it for `patience` times as long as it may stay without a record."""
        rows = self._sql.execute(
            """DELETE FROM stretches WHERE detection = $detection AND NOT EXISTS (
                SELECT 1 FROM streams
                WHERE streams.product = stretches.product AND streams.source = stretches.source
                  AND streams.watermark <= stretches.latest + $patience * streams.freshness)
            RETURNING product, source, host, part, run, origin, since, latest, peak, seen, told""",
            {"detection": self._detection, "patience": patience},
        ).fetchall()
        return [replace(Stretch(*row[:10]), told=row[10]) for row in rows]

    def _open(self, product: str) -> Iterator[tuple[Key, int]]:
        for *key, told in self._sql.execute(
            "SELECT source, host, part, told FROM stretches WHERE detection = ? AND product = ?",
            [self._detection, product],
        ).fetchall():
            yield (key[0], key[1], key[2]), told

    def _any_above(self, fold: Fold, limit: Limit) -> bool:
        row = self._sql.execute(
            f"""SELECT 1 FROM observed
            WHERE NOT _late AND ({fold.value}) >= $raise_at AND ({fold.where}) LIMIT 1""",
            {"raise_at": limit.raise_at},
        ).fetchone()
        return row is not None

    def _keep(self, product: str, stretches: Sequence[Stretch]) -> None:
        table = pa.table(
            {
                "detection": pa.array([self._detection] * len(stretches), pa.string()),
                "product": pa.array([product] * len(stretches), pa.string()),
                "source": pa.array([one.source for one in stretches], pa.string()),
                "host": pa.array([one.host for one in stretches], pa.string()),
                "part": pa.array([one.part for one in stretches], pa.string()),
                "run": pa.array([one.run for one in stretches], pa.string()),
                "origin": pa.array([one.origin for one in stretches], pa.int32()),
                "since": pa.array([one.since for one in stretches], pa.int64()),
                "latest": pa.array([one.latest for one in stretches], pa.int64()),
                "peak": pa.array([one.peak for one in stretches], pa.float64()),
                "seen": pa.array([one.seen for one in stretches], pa.int64()),
                "told": pa.array(
                    [one.told or (one.raised["seen"] if one.raised else 0) for one in stretches], pa.int64()
                ),
                "over": pa.array([one.cleared is not None for one in stretches], pa.bool_()),
            }
        )
        self._sql.register("kept", table)
        self._sql.execute(
            """DELETE FROM stretches USING kept
            WHERE over AND stretches.detection = kept.detection AND stretches.product = kept.product
              AND stretches.source = kept.source AND stretches.host = kept.host
              AND stretches.part = kept.part"""
        )
        self._sql.execute("INSERT OR REPLACE INTO stretches SELECT * EXCLUDE (over) FROM kept WHERE NOT over")
        self._sql.unregister("kept")
