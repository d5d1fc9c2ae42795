"""From signals to findings: a condition opens a finding once, folds what follows into it, and ends it once.

An episode is a condition that holds now. It is named by its detection, its subject and its start, and so is
the finding; a revision that was told is never told again.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from services.analysis.clock import length
from services.analysis.detection import Detection
from services.analysis.finding import finding_record
from services.analysis.signals import Signal, Subject
from services.analysis.state import State
from telltale.api.analysis.v1.findings_pb2 import FindingsRecord

TABLES = (
    """CREATE TABLE IF NOT EXISTS episodes (
        detection TEXT NOT NULL, entity_kind INTEGER NOT NULL, entity TEXT NOT NULL, part TEXT NOT NULL,
        host TEXT NOT NULL, product TEXT NOT NULL, source TEXT NOT NULL, run TEXT NOT NULL,
        since BIGINT NOT NULL, latest BIGINT NOT NULL, occurrences BIGINT NOT NULL, touched BIGINT NOT NULL,
        title TEXT NOT NULL, origin INTEGER NOT NULL,
        PRIMARY KEY (detection, entity_kind, entity, part, product, source, run))""",
    """CREATE TABLE IF NOT EXISTS told (
        id TEXT NOT NULL, revision INTEGER NOT NULL, told_at BIGINT NOT NULL, PRIMARY KEY (id, revision))""",
)
# Conditions of one detection that hold at a time. Whoever invents subjects gets one finding for the rest.
MOST_OPEN = 2_000
OTHERS = "others"
_OPENED, _ENDED = 1, 2
_KEY = (
    "detection = ? AND entity_kind = ? AND entity = ? AND part = ? AND product = ? AND source = ? AND run = ?"
)


class Episodes:
    """The conditions that hold, within the running transaction of a state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def take(self, detection: Detection, signals: Iterable[Signal], now: int) -> list[FindingsRecord]:
        """Applies a detection's signals in their order; returns the revisions to publish."""
        told: list[FindingsRecord] = []
        for signal in signals:
            told += self._apply(detection, signal, now)
        return [record for record in told if self._is_news(record, now)]

    def end_quiet(self, detection: Detection, now: int) -> list[FindingsRecord]:
        """Ends what was not seen for as long as the detection waits."""
        if detection.quiet is None:
            return []
        quiet = length(detection.quiet)
        # `touched` is our own clock: what is read late must not end before the rest of it is read.
        rows = self._state.sql.execute(
            "SELECT entity_kind, entity, part, host, product, source, run, since, latest, title, origin"
            " FROM episodes WHERE detection = ? AND latest < ? AND touched < ? ORDER BY since, entity, part",
            [detection.name, now - quiet, now - quiet],
        ).fetchall()
        ended = [
            Signal(
                Subject(*row[:7]), False, row[7], row[8] + quiet, _over(row[9]), occurrences=0, origin=row[10]
            )
            for row in rows
        ]
        return self.take(detection, ended, now)

    def forget(self, before: int) -> None:
        """Drops the memory of revisions that were told before."""
        self._state.sql.execute("DELETE FROM told WHERE told_at < ?", [before])

    def _apply(self, detection: Detection, signal: Signal, now: int) -> list[FindingsRecord]:
        episode = self._find(detection, signal.subject)
        if not signal.holds:
            return [] if episode is None else [self._end(detection, signal, episode)]
        ended: list[FindingsRecord] = []
        if episode is not None and detection.quiet is not None:
            latest, quiet = episode["latest"], length(detection.quiet)
            if signal.at - latest > quiet:
                over = replace(
                    signal,
                    holds=False,
                    at=latest + quiet,
                    title=_over(episode["title"]),
                    occurrences=0,
                    evidence=(),
                )
                ended, episode = [self._end(detection, over, episode)], None
        if episode is None:
            return [*ended, *self._open(detection, signal, now)]
        self._state.sql.execute(
            "UPDATE episodes SET latest = greatest(latest, ?), occurrences = occurrences + ?, touched = ?"
            f" WHERE {_KEY}",
            [signal.at, signal.occurrences, now, *_key(detection, signal.subject)],
        )
        return ended

    def _open(self, detection: Detection, signal: Signal, now: int) -> list[FindingsRecord]:
        subject = signal.subject
        row = self._state.sql.execute(
            "SELECT count(*) FROM episodes WHERE detection = ?", [detection.name]
        ).fetchone()
        others = Subject.of_product(subject.product, OTHERS)
        if row is not None and row[0] >= MOST_OPEN and subject != others:
            return self._apply(detection, replace(signal, subject=others), now)
        self._state.sql.execute(
            "INSERT INTO episodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                detection.name,
                subject.entity_kind,
                subject.entity,
                subject.part,
                subject.host,
                subject.product,
                subject.source,
                subject.run,
                signal.since,
                signal.at,
                signal.occurrences,
                now,
                signal.title,
                signal.origin,
            ],
        )
        return [self._record(detection, signal, _OPENED, signal.since, signal.occurrences)]

    def _end(self, detection: Detection, signal: Signal, episode: dict[str, Any]) -> FindingsRecord:
        self._state.sql.execute(f"DELETE FROM episodes WHERE {_KEY}", _key(detection, signal.subject))
        occurrences = episode["occurrences"] + signal.occurrences
        return self._record(detection, signal, _ENDED, episode["since"], occurrences)

    def _record(
        self, detection: Detection, signal: Signal, revision: int, since: int, occurrences: int
    ) -> FindingsRecord:
        subject = signal.subject
        return finding_record(
            detection,
            signal,
            revision=revision,
            since=since,
            occurrences=occurrences,
            completeness=self._state.completeness(subject.product, subject.source, since, signal.at),
        )

    def _find(self, detection: Detection, subject: Subject) -> dict[str, Any] | None:
        row = self._state.sql.execute(
            f"SELECT since, latest, occurrences, title FROM episodes WHERE {_KEY}", _key(detection, subject)
        ).fetchone()
        return (
            None if row is None else dict(zip(("since", "latest", "occurrences", "title"), row, strict=True))
        )

    def _is_news(self, record: FindingsRecord, now: int) -> bool:
        row = self._state.sql.execute(
            "INSERT INTO told VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
            [record.id, record.revision, now],
        ).fetchone()
        return row is not None


def _key(detection: Detection, subject: Subject) -> list[Any]:
    return [
        detection.name,
        subject.entity_kind,
        subject.entity,
        subject.part,
        subject.product,
        subject.source,
        subject.run,
    ]


def _over(title: str) -> str:
    return f"Not seen again: {title}"
