"""What damage that shows excuses: a gap what lies in its place, a hole without a count its own batches.

Everything is bounded by its neighbours: nothing excuses what is missing between two batches but what lies
between the same two.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.journal import Announced
from tests.chaos.records import Load

# More than any campaign seals: behind the end of a log that was replaced nobody knows how much there was.
_UNKNOWN = 1 << 62


@dataclass(frozen=True, order=True)
class Place:
    """Where a batch, or the beginning of a gap, lies in its product: logs count in their order."""

    log: int
    offset: int


@dataclass(frozen=True)
class Batch:
    """A stored batch of one source and product."""

    epoch: int
    sequence: int
    place: Place


@dataclass(frozen=True)
class _Gap:
    log: str
    begins: Place
    after: int
    resumed_log: str | None
    resumed: int

    @property
    def batches(self) -> int:
        """As many as it may hide."""
        # A log that was cut a little keeps its name, and is told anew from its beginning.
        if self.resumed_log != self.log or self.resumed <= self.after:
            return _UNKNOWN
        return max(0, self.resumed - self.after - 1)

    def covers(self, log: str, offset: int) -> bool:
        """Whether an offset of a log lies in it."""
        if self.log == log and offset <= self.after:
            return False
        return log in (self.log, self.resumed_log) and (self.resumed_log != log or offset < self.resumed)


@dataclass(frozen=True)
class Excuses:
    """Of one product: its gaps, and which of a source's batches nobody can read any more."""

    gaps: tuple[_Gap, ...] = ()
    # Source, epoch, first and last sequence: of holes without a count, and of the quarantine.
    unread: tuple[tuple[str, int, int, int], ...] = ()

    def between(self, source: str, before: Batch | None, after: Batch | None) -> int:
        """As many batches of a source as may be missing between two of its stored ones, or at an end."""
        return self.in_gaps(before, after) + sum(
            last - first + 1
            for one, epoch, first, last in self.unread
            if one == source
            and (before is None or (epoch, first) > (before.epoch, before.sequence))
            and (after is None or (epoch, last) < (after.epoch, after.sequence))
        )

    def in_gaps(self, before: Batch | None, after: Batch | None) -> int:
        return sum(
            gap.batches
            for gap in self.gaps
            if (before is None or before.place <= gap.begins) and (after is None or gap.begins < after.place)
        )

    def cover(self, log: str, offset: int) -> bool:
        return any(gap.covers(log, offset) for gap in self.gaps)


def excuses(stored: sqlite3.Connection, product: str) -> Excuses:
    """What the database shows of damage."""
    logs = _logs(stored, product)
    gaps = []
    for log, after, resumed_log, resumed in stored.execute(
        "SELECT log, after_offset, resumed_log, coalesce(resumed_offset, 0) FROM gaps WHERE product = ?",
        (product,),
    ):
        # Of a log from which nothing was stored: all of it lies before the log that came after it.
        begins = Place(logs[log], after) if log in logs else Place(logs.get(resumed_log, 0) - 1, _UNKNOWN)
        gaps.append(_Gap(log, begins, after, resumed_log, resumed))
    unread = stored.execute(
        "SELECT source, epoch, first_sequence, last_sequence FROM holes WHERE product = ? AND records IS NULL"
        " AND reason <> 'UNDECLARED' UNION ALL"
        " SELECT source, epoch, sequence, sequence FROM quarantine WHERE product = ?",
        (product, product),
    )
    return Excuses(tuple(gaps), tuple(unread))


def batches(stored: sqlite3.Connection, product: str, source: str) -> list[Batch]:
    """The stored ones of a source, in the order of its chains."""
    logs = _logs(stored, product)
    return [
        Batch(epoch, sequence, Place(logs[log], offset))
        for epoch, sequence, log, offset in stored.execute(
            'SELECT epoch, sequence, log, "offset" FROM batches WHERE product = ? AND source = ?'
            " ORDER BY epoch, sequence",
            (product, source),
        )
    ]


def excused_records(
    stored: sqlite3.Connection, load: Load, source: str, announced: Sequence[Announced], seen: set[int]
) -> set[int]:
    """Records of publications that lie whole where damage shows: between the neighbours that are stored.

    A publication is a batch or more, so an excuse for a number of batches is one for as many publications.
    """
    known = {(one.epoch, one.sequence): one for one in batches(stored, load.product, source)}
    place: dict[int, Batch | None] = {
        number: known.get((epoch, sequence))
        for number, epoch, sequence in stored.execute(
            f"SELECT {load.columns[0]}, _epoch, _sequence FROM {load.table} WHERE _source = ?", (source,)
        )
    }
    shown = excuses(stored, load.product)
    excused: set[int] = set()
    before: Batch | None = None
    run: list[range] = []

    def end(after: Batch | None) -> None:
        for numbers in run[: shown.between(source, before, after)] if run else ():
            excused.update(numbers)
        run.clear()

    for one in sorted(announced, key=lambda one: one.first):
        numbers = range(one.first, one.first + len(one.digests))
        stored_of_it = [place[number] for number in numbers if number in seen]
        if stored_of_it:
            end(stored_of_it[0])
            before = stored_of_it[-1]
        elif one.kept:
            run.append(numbers)
    end(None)
    return excused


def lies_in_a_gap(
    stored: sqlite3.Connection, product: str, source: str, epoch: int, first: int, last: int
) -> bool:
    """Whether a gap lies between the stored batches around a hole, and is as large as the hole at least."""
    mine = batches(stored, product, source)
    before = [one for one in mine if (one.epoch, one.sequence) < (epoch, first)][-1:]
    after = [one for one in mine if (one.epoch, one.sequence) > (epoch, last)][:1]
    size = excuses(stored, product).in_gaps(before[0] if before else None, after[0] if after else None)
    return size >= last - first + 1


def _logs(stored: sqlite3.Connection, product: str) -> dict[str, int]:
    """A product has one log after the other; rowids are in the order in which they were stored."""
    rows = stored.execute(
        "SELECT log FROM batches WHERE product = ? GROUP BY log ORDER BY min(rowid)", (product,)
    )
    return {log: number for number, (log,) in enumerate(rows)}
