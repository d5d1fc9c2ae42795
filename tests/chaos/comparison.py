"""Compares what sources sealed with what the database holds: record by record, and batch by batch.

It looks at files alone, and at all of them: journals of the load, spools, product logs, the database.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.chaos.excuses import Excuses, batches, excused_records, excuses, lies_in_a_gap
from tests.chaos.journal import Announced, digest
from tests.chaos.records import LOADS, Load

# Reasons that the writer itself gives a hole: nobody has declared it, or it lies in a gap of the log.
_UNDECLARED, _IN_A_GAP = "UNDECLARED", "GAP"


@dataclass
class Comparison:
    """Counts, and what is not as it should be, in words."""

    records_sealed: int = 0
    records_stored: int = 0
    records_in_doubt: int = 0
    batches_stored: int = 0
    chains: int = 0
    # Losses that a header declares, or that a gap or the quarantine shows.
    records_declared_lost: int = 0
    # Records that lie where damage shows, and that nobody could count.
    records_excused: int = 0
    batches_declared_lost: int = 0
    quarantined: int = 0
    gaps: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    undeclared: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, list[str]]:
        """Each promise by name, with where it was broken."""
        return {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "out of order": self.disordered,
            "changed": self.changed,
            "undeclared holes": self.undeclared,
        }

    @property
    def holds(self) -> bool:
        return not any(self.broken.values())


def compare(
    database: Path,
    announced: Sequence[Announced],
    spools: Iterable[tuple[str, Path]],
    logs: Iterable[Path],
    *,
    damaged: bool = False,
) -> Comparison:
    """Compares everything. spools: source and file of each. damaged: files were damaged on purpose, so that
    gaps, holes without a count and the quarantine excuse what lies in them, and nothing else.
    """
    found = Comparison()
    with _reading(database) as stored:
        found.gaps = _one(stored, "SELECT count(*) FROM gaps")
        found.quarantined = _one(stored, "SELECT count(*) FROM quarantine")
        if not damaged:
            _expect_undamaged(stored, found)
        for load in LOADS:
            mine = [one for one in announced if one.product == load.product]
            for source in sorted({one.source for one in mine}):
                records = [one for one in mine if one.source == source]
                _compare_records(stored, load, source, records, damaged, found)
        chains = _chains(stored)
        _compare_chains(stored, chains, damaged, found)
        _compare_rows(stored, found)
        unread: dict[tuple[str, str, int], set[int]] = {}
        for path in logs:
            _compare_log(stored, path, unread, damaged, found)
        for source, path in spools:
            _compare_spool(stored, source, path, chains, unread, damaged, found)
    return found


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Closed behind it: a file that is open here would be held to its index when it is damaged next."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def _one(database: sqlite3.Connection, question: str, *values: object) -> int:
    return int(database.execute(question, values).fetchone()[0])


def _expect_undamaged(stored: sqlite3.Connection, found: Comparison) -> None:
    for product, source, sequence, reason, detail in stored.execute(
        "SELECT product, source, sequence, reason, detail FROM quarantine"
    ):
        found.lost.append(f"{product} of {source}: batch {sequence} is in quarantine: {reason}: {detail}")
    for product, log, offset, reason in stored.execute("SELECT product, log, after_offset, reason FROM gaps"):
        found.undeclared.append(f"{product}: gap after {offset} of log {log}: {reason}")


def _compare_records(
    stored: sqlite3.Connection,
    load: Load,
    source: str,
    announced: Sequence[Announced],
    damaged: bool,
    found: Comparison,
) -> None:
    """Each record of one source and product, by its number."""
    expected: dict[int, str] = {}
    kept: set[int] = set()
    for one in announced:
        numbers = range(one.first, one.first + len(one.digests))
        expected.update(zip(numbers, one.digests, strict=True))
        if one.kept:
            kept.update(numbers)
    found.records_sealed += len(kept)
    found.records_in_doubt += len(expected) - len(kept)
    name = f"{load.product} of {source}"
    seen: set[int] = set()
    last = 0
    for values in _rows(stored, load, source):
        number = values[0]
        found.records_stored += 1
        if number in seen:
            found.duplicated.append(f"{name}: record {number} is stored twice")
        elif number < last:
            found.disordered.append(f"{name}: record {number} is stored after {last}")
        if number not in expected:
            found.changed.append(f"{name}: record {number} was never sealed")
        elif digest(values) != expected[number]:
            found.changed.append(f"{name}: record {number} is stored as {values}, which was not sealed")
        seen.add(number)
        last = max(last, number)
    missing = sorted(kept - seen)
    excused = excused_records(stored, load, source, announced, seen) if damaged and missing else set()
    missing = [number for number in missing if number not in excused]
    declared = _declared_lost(stored, load.product, source)
    if len(missing) > declared:
        shown = ", ".join(map(str, missing[:5]))
        found.lost.append(
            f"{name}: {len(missing)} records are missing and {declared} are declared lost; missing: {shown}"
        )
    found.records_excused += len(excused)
    found.records_declared_lost += min(len(missing), declared)


def _rows(stored: sqlite3.Connection, load: Load, source: str) -> Iterator[tuple[int, ...]]:
    columns = ", ".join(f'"{column}"' for column in load.columns)
    if not _one(stored, "SELECT count(*) FROM sqlite_master WHERE name = ?", load.table):
        return iter(())
    return stored.execute(f"SELECT {columns} FROM {load.table} WHERE _source = ? ORDER BY _row", (source,))


def _declared_lost(stored: sqlite3.Connection, product: str, source: str) -> int:
    """Records that the source itself has declared lost."""
    mine = "WHERE product = ? AND source = ?"
    return _one(stored, f"SELECT coalesce(sum(records), 0) FROM holes {mine}", product, source) + _one(
        stored, f"SELECT coalesce(sum(records), 0) FROM losses {mine}", product, source
    )


# Sequences, by product, source and epoch.
_Chains = dict[tuple[str, str, int], list[int]]


def _chains(stored: sqlite3.Connection) -> _Chains:
    """Sequences of each chain, in the order of the logs' offsets."""
    chains: _Chains = {}
    # A product has one log after the other; rowids are in the order in which they were stored.
    for product, source, epoch, sequence in stored.execute(
        "SELECT product, source, epoch, sequence FROM batches ORDER BY rowid"
    ):
        chains.setdefault((product, source, epoch), []).append(sequence)
    return chains


def _holes(stored: sqlite3.Connection, damaged: bool) -> _Chains:
    """Sequences that were declared as given up; with damage, those in a gap and in quarantine besides."""
    holes: _Chains = {}
    for product, source, epoch, first, last, reason in stored.execute(
        "SELECT product, source, epoch, first_sequence, last_sequence, reason FROM holes"
    ):
        if reason not in ((_UNDECLARED,) if damaged else (_UNDECLARED, _IN_A_GAP)):
            holes.setdefault((product, source, epoch), []).extend(range(first, last + 1))
    if damaged:
        for product, source, epoch, sequence in stored.execute(
            "SELECT product, source, epoch, sequence FROM quarantine"
        ):
            holes.setdefault((product, source, epoch), []).append(sequence)
    return holes


def _compare_chains(stored: sqlite3.Connection, chains: _Chains, damaged: bool, found: Comparison) -> None:
    holes = _holes(stored, damaged)
    found.chains = len(chains)
    for key, sequences in chains.items():
        name = "{} of {} ({})".format(*key)
        found.batches_stored += len(sequences)
        if sequences != sorted(sequences):
            worst = next(b for a, b in pairwise(sequences) if b < a)
            found.disordered.append(f"{name}: batch {worst} is stored after later ones")
        declared = set(holes.get(key, ()))
        found.batches_declared_lost += len(declared)
        missing = sorted(set(range(1, max(sequences) + 1)) - set(sequences) - declared)
        if missing:
            found.undeclared.append(f"{name}: {len(missing)} batches are missing: {missing[:5]}")
    for product, source, epoch, first, last, reason in stored.execute(
        "SELECT product, source, epoch, first_sequence, last_sequence, reason FROM holes"
    ):
        if reason == _UNDECLARED or (
            reason == _IN_A_GAP
            and not (damaged and lies_in_a_gap(stored, product, source, epoch, first, last))
        ):
            found.undeclared.append(f"{product} of {source}: hole {first} to {last}: {reason}")


def _compare_rows(stored: sqlite3.Connection, found: Comparison) -> None:
    """Every batch has as many rows as its source has sealed into it."""
    tables = stored.execute(
        "SELECT p.product, p.table_name FROM products p JOIN sqlite_master m ON m.name = p.table_name"
        " WHERE p.history_table IS NULL"
    ).fetchall()
    for product, table in tables:
        rows = Counter(
            {
                (source, epoch, sequence): count
                for source, epoch, sequence, count in stored.execute(
                    f'SELECT _source, _epoch, _sequence, count(*) FROM "{table}" GROUP BY 1, 2, 3'
                )
            }
        )
        for source, epoch, sequence, records in stored.execute(
            "SELECT source, epoch, sequence, records FROM batches WHERE product = ?", (product,)
        ):
            count = rows.pop((source, epoch, sequence), 0)
            where = (
                f"{product} of {source} ({epoch}): batch {sequence} has {records} records and {count} rows"
            )
            if count < records:
                found.lost.append(where)
            elif count > records:
                found.duplicated.append(where)
        for source, epoch, sequence in rows:
            found.changed.append(
                f"{product} of {source} ({epoch}): rows of batch {sequence}, which is unknown"
            )


def _compare_log(
    stored: sqlite3.Connection,
    path: Path,
    unread: dict[tuple[str, str, int], set[int]],
    damaged: bool,
    found: Comparison,
) -> None:
    """Everything that a domain service has acked is stored, or lies behind the writer's cursor."""
    with _reading(path) as log:
        name = log.execute("SELECT value FROM meta WHERE name = 'log'").fetchone()[0]
        cursors = dict(
            stored.execute('SELECT product, max("offset") FROM cursors WHERE log = ? GROUP BY 1', (name,))
        )
        for product, source, epoch, sequence, offset, sha256 in log.execute(
            "SELECT product, source, epoch, sequence, offset, header_sha256 FROM batches"
        ):
            if offset > cursors.get(product, 0):
                unread.setdefault((product, source, epoch), set()).add(sequence)
                continue
            row = stored.execute(
                "SELECT header_sha256 FROM batches WHERE product = ? AND source = ? AND epoch = ?"
                " AND sequence = ?",
                (product, source, epoch, sequence),
            ).fetchone()
            where = f"{product} of {source} ({epoch}): batch {sequence}"
            if row is None and not _is_visible(stored, product, sha256.hex(), name, offset, damaged):
                found.lost.append(f"{where} was acked and is not stored")
            elif row is not None and row[0] != sha256.hex():
                found.changed.append(f"{where} is stored as another than was acked")


def _is_visible(
    stored: sqlite3.Connection, product: str, header_sha256: str, log: str, offset: int, damaged: bool
) -> bool:
    """Whether a batch that is not stored lies in quarantine or, where damage was done, in a gap."""
    return bool(
        _one(stored, "SELECT count(*) FROM quarantine WHERE header_sha256 = ?", header_sha256)
        or (damaged and excuses(stored, product).cover(log, offset))
    )


def _compare_spool(
    stored: sqlite3.Connection,
    source: str,
    path: Path,
    chains: _Chains,
    unread: dict[tuple[str, str, int], set[int]],
    damaged: bool,
    found: Comparison,
) -> None:
    """Everything up to the end of a source's chains is stored, on its way, or declared."""
    holes = _holes(stored, damaged)
    with _reading(path) as spool:
        waiting: dict[tuple[str, int], set[int]] = {}
        for product, epoch, sequence in spool.execute("SELECT product, epoch, sequence FROM batches"):
            waiting.setdefault((product, epoch), set()).add(sequence)
        pending: dict[str, set[int]] = {}
        for product, first, last in spool.execute("SELECT product, first, last FROM holes"):
            pending.setdefault(product, set()).update(range(first, last + 1))
        for product, epoch, head in spool.execute("SELECT product, epoch, sequence FROM chains"):
            key = product, source, epoch
            accounted = (
                set(chains.get(key, ()))
                | set(holes.get(key, ()))
                | unread.get(key, set())
                | waiting.get((product, epoch), set())
                | pending.get(product, set())
            )
            missing = sorted(set(range(1, head + 1)) - accounted)
            # The end of a chain may lie in a gap, with nothing behind it that would show the hole.
            behind = [one for one in batches(stored, product, source) if one.epoch <= epoch][-1:]
            shown = excuses(stored, product) if damaged else Excuses()
            beyond = [
                one for one in missing if not behind or (epoch, one) > (behind[0].epoch, behind[0].sequence)
            ]
            if len(beyond) < len(missing) or len(beyond) > shown.in_gaps(behind[0] if behind else None, None):
                found.lost.append(
                    f"{product} of {source} ({epoch}): the source has sealed {head} batches, and"
                    f" {len(missing)} are nowhere: {missing[:5]}"
                )
