"""What did not arrive: a source, or one product of a source that otherwise speaks.

A product promises how long a living source stays without a new batch. The time that counts is the received
time, and only while this service listens without lag (see hearing.py): whoever is deaf must not call others
silent. The window of such a finding begins with the last batch, so its id is the same whenever it is found.
"""

from collections.abc import Iterable

import duckdb

from services.analysis import episodes
from services.analysis.clock import SECOND
from services.analysis.detection import Rule, View
from services.analysis.signals import Signal, Subject

# `hearing(product, since)` holds the products that can be judged and since when they are heard without lag.
_SILENT_SOURCES = """
SELECT source, arg_max(product, received) AS product, max(received) AS last, min(freshness) AS freshness,
       any_value(origin) AS origin
FROM streams JOIN hearing USING (product) WHERE run = ''
GROUP BY source HAVING greatest(last, max(hearing.since)) + $factor * min(freshness) < $now
"""

# Only where the source spoke of something else after this was due: otherwise the source as a whole is silent.
_SILENT_PRODUCTS = """
SELECT source, product, received AS last, freshness, origin
FROM streams JOIN hearing USING (product)
JOIN (SELECT source, max(received) AS spoke FROM streams WHERE run = '' GROUP BY source) USING (source)
WHERE run = '' AND greatest(received, hearing.since) + $factor * freshness < least($now, spoke)
"""

_OPEN = "SELECT source, product, since FROM episodes WHERE detection = ?"


class _Silence(Rule):
    """What both have in common: who is overdue and not told of yet, and who has come back."""

    _overdue: str

    def clock(self, now: int, view: View) -> Iterable[Signal]:
        open_since: dict[tuple[str, str], int] = {
            (source, product): since
            for source, product, since in view.sql.execute(_OPEN, [view.detection.name]).fetchall()
        }
        factor = view.thresholds.silence_factor
        overdue = [
            row
            for row in view.sql.execute(self._overdue, {"factor": factor, "now": now}).fetchall()
            if (row[0], self._subject(row[0], row[1]).product) not in open_since
        ]
        for (source, product), since in open_since.items():
            # Those beyond the bound share one finding, without a source; it ends with the last of them.
            if source:
                yield from self._returned(source, product, since, view)
            elif not overdue:
                title = "The others speak again"
                yield Signal(Subject.of_product("", episodes.OTHERS), False, since, now, title, occurrences=0)
        # When a whole network falls silent, one of those beyond the bound stands for them all.
        room = max(0, episodes.MOST_OPEN - len(open_since))
        for source, product, last, freshness, origin in overdue[: room + 1]:
            subject = self._subject(source, product)
            bound = int(factor * freshness)
            yield Signal(
                subject=subject,
                holds=True,
                since=last,
                at=last + bound,
                title=self._title(subject, product, bound // SECOND),
                evidence=(
                    ("last_product", product),
                    ("promised_seconds", f"{freshness / SECOND:g}"),
                    ("allowed_factor", f"{factor:g}"),
                ),
                threshold=bound / SECOND,
                unit="s",
                origin=origin,
            )

    def _returned(self, source: str, product: str, since: int, view: View) -> Iterable[Signal]:
        (heard,) = self._last_heard(view.sql, source, product)
        subject = self._subject(source, product)
        if heard is None:
            # Its state was dropped: nobody waits for it any more.
            at, title = since, f"{subject.entity} has been silent so long that it is no longer expected"
        elif heard > since:
            at, title = heard, f"{subject.entity} speaks again{' of ' + product if product else ''}"
        else:
            return
        silent = ("silent_seconds", f"{(at - since) / SECOND:g}")
        yield Signal(subject, holds=False, since=since, at=at, title=title, evidence=(silent,), occurrences=0)

    def _last_heard(self, sql: duckdb.DuckDBPyConnection, source: str, product: str) -> tuple[int | None]:
        row = sql.execute(
            "SELECT max(received) FROM streams"
            " WHERE source = $source AND ($product = '' OR product = $product)",
            {"source": source, "product": product},
        ).fetchone()
        return row if row is not None else (None,)

    def _subject(self, source: str, product: str) -> Subject:
        raise NotImplementedError

    def _title(self, subject: Subject, product: str, seconds: int) -> str:
        raise NotImplementedError


class SourceSilence(_Silence):
    """A source of which no product came for a multiple of the shortest time that it promised."""

    _overdue = _SILENT_SOURCES

    def _subject(self, source: str, product: str) -> Subject:
        return Subject.of_source(source)

    def _title(self, subject: Subject, product: str, seconds: int) -> str:
        return f"{subject.entity} has told nothing for more than {seconds} s"


class ProductSilence(_Silence):
    """A product that a source stopped telling while it goes on to tell others."""

    _overdue = _SILENT_PRODUCTS

    def _subject(self, source: str, product: str) -> Subject:
        return Subject.of_source(source, product=product)

    def _title(self, subject: Subject, product: str, seconds: int) -> str:
        return f"{subject.entity} has told nothing of {product} for more than {seconds} s"
