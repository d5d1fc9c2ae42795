"""A value that stays too high: raised at one limit for a time, cleared below another.

SQL folds the rows of each key into stretches above the limit, so that the cost per record is DuckDB's;
Python sees only the few stretches. What is open at the end of a chunk is carried over in `stretches`,
and how records are cut into chunks changes nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from services.analysis.clock import length
from services.analysis.detection import Rule, View
from services.analysis.finding import Signal, Subject
from services.analysis.records import quoted
from services.analysis.thresholds import Limit, Thresholds
from telltale.api.analysis.v1.findings_pb2 import EntityKind
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.api.mesh.v1.product_pb2 import Role
from telltale.contract.product import Contract
from telltale.naming import matches

_TABLE = """CREATE TABLE IF NOT EXISTS stretches (
    detection TEXT NOT NULL, product TEXT NOT NULL, source TEXT NOT NULL, host TEXT NOT NULL,
    part TEXT NOT NULL, run TEXT NOT NULL, origin INTEGER NOT NULL, since BIGINT NOT NULL,
    latest BIGINT NOT NULL, peak DOUBLE NOT NULL, seen BIGINT NOT NULL, raised BOOLEAN NOT NULL,
    PRIMARY KEY (detection, product, source, host, part)
)"""

# `mark` says of a row whether it is above; between the two limits a row goes on with what was before it.
# A stretch that was open before this chunk enters as row -1.
_STRETCHES = """
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
class _Stretch:
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
    raised: dict[str, Any] | None
    cleared: dict[str, Any] | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.host, self.part

    def subject(self) -> Subject:
        of_source = Subject.of_source(self.source, product=self.product, part=self.part, run=self.run)
        if not self.host or self.host == of_source.host:
            return of_source
        # The record names the host: it is the one that matters, whoever told of it.
        return replace(of_source, entity_kind=EntityKind.ENTITY_KIND_HOST, entity=self.host, host=self.host)


def _facts(evidence: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in (evidence or {}).items() if value is not None)


@dataclass(frozen=True)
class Threshold(Rule):
    """Reads a number of every product that a pattern names and that has the fields."""

    products: tuple[str, ...]
    # Fields that the records must have, and an SQL expression over them.
    fields: tuple[str, ...]
    value: str
    unit: str
    limit: Callable[[Thresholds], Limit]
    # What the title says of it: `{part} is {value:.0%} full`.
    title: str
    # SQL condition on the records that count.
    where: str = "TRUE"
    # Fields shown as evidence, where the records have them.
    evidence: tuple[str, ...] = ()

    tables = (_TABLE,)

    def reads(self, contract: Contract) -> bool:
        known = contract.record.fields_by_name
        return matches(contract.name, self.products) and all(field in known for field in self.fields)

    def records(self, contract: Contract, view: View) -> Iterable[Signal]:
        limit = self.limit(view.thresholds)
        known = {
            (row[0], row[1], row[2]): (bool(row[3]), int(row[4]))
            for row in view.sql.execute(
                "SELECT source, host, part, raised, seen FROM stretches WHERE detection = ? AND product = ?",
                [view.detection.name, contract.name],
            ).fetchall()
        }
        if not known and not self._any_above(limit, view):
            # The common case, for a tenth of the price.
            return
        found = view.sql.execute(
            self._query(contract),
            {
                "raise_at": limit.raise_at,
                "clear_at": limit.clear_at,
                "hold": length(limit.hold),
                "detection": view.detection.name,
                "product": contract.name,
            },
        ).fetchall()
        for row in found:
            stretch = _Stretch(contract.name, *row)
            was_raised, was_seen = known.pop(stretch.key, (False, 0))
            yield from self._tell(stretch, was_raised, was_seen, limit)
            self._keep(stretch, was_raised, view)

    def _any_above(self, limit: Limit, view: View) -> bool:
        row = view.sql.execute(
            f"""SELECT 1 FROM observed
            WHERE NOT _late AND ({self.value}) >= $raise_at AND ({self.where}) LIMIT 1""",
            {"raise_at": limit.raise_at},
        ).fetchone()
        return row is not None

    def _query(self, contract: Contract) -> str:
        hosts = contract.fields_with(Role.ROLE_ENTITY_HOST)
        host = f"coalesce(nullif({quoted(hosts[0])}, ''), _host)" if hosts else "_host"
        keys = [quoted(field) for field in contract.key_fields if field not in hosts]
        shown = [field for field in self.evidence if field in contract.record.fields_by_name]
        packed = ", ".join(f"'{field}': {quoted(field)}::TEXT" for field in shown)
        return _STRETCHES.format(
            host=host,
            part=f"concat_ws(' ', {', '.join(keys)})" if keys else "''",
            value=self.value,
            evidence=f"{{{packed}}}" if shown else "NULL",
            where=self.where,
        )

    def _tell(self, stretch: "_Stretch", was_raised: bool, was_seen: int, limit: Limit) -> Iterable[Signal]:
        told = was_seen
        if was_raised and stretch.seen > told:
            yield self._signal(stretch, limit, stretch.latest, stretch.peak, (), stretch.seen - told)
        elif not was_raised and stretch.raised is not None:
            raised = stretch.raised
            yield self._signal(
                stretch, limit, raised["at"], raised["value"], _facts(raised["evidence"]), raised["seen"]
            )
            if stretch.seen > raised["seen"]:
                yield self._signal(
                    stretch, limit, stretch.latest, stretch.peak, (), stretch.seen - raised["seen"]
                )
        if stretch.cleared is not None and (was_raised or stretch.raised is not None):
            cleared = stretch.cleared
            facts = (("peak", f"{stretch.peak:g}"), *_facts(cleared["evidence"]))
            yield self._signal(stretch, limit, cleared["at"], cleared["value"], facts, 0, holds=False)

    def _signal(
        self,
        stretch: "_Stretch",
        limit: Limit,
        at: int,
        value: float,
        facts: tuple[tuple[str, str], ...],
        occurrences: int,
        holds: bool = True,
    ) -> Signal:
        subject = stretch.subject()
        return Signal(
            subject=subject,
            holds=holds,
            since=stretch.since,
            at=at,
            title=self.title.format(part=subject.part, entity=subject.entity, value=value),
            evidence=facts,
            value=value,
            threshold=limit.raise_at if holds else limit.clear_at,
            unit=self.unit,
            occurrences=occurrences,
            origin=stretch.origin,
        )

    def _keep(self, stretch: "_Stretch", was_raised: bool, view: View) -> None:
        if stretch.cleared is not None:
            view.sql.execute(
                "DELETE FROM stretches"
                " WHERE detection = ? AND product = ? AND source = ? AND host = ? AND part = ?",
                [view.detection.name, stretch.product, *stretch.key],
            )
            return
        view.sql.execute(
            """INSERT INTO stretches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET since = excluded.since, latest = excluded.latest, peak = excluded.peak,
                seen = excluded.seen, raised = excluded.raised""",
            [
                view.detection.name,
                stretch.product,
                *stretch.key,
                stretch.run,
                stretch.origin,
                stretch.since,
                stretch.latest,
                stretch.peak,
                stretch.seen,
                was_raised or stretch.raised is not None,
            ],
        )
