"""Keeps the files few and the directory clean: merges small files, and removes what is no longer read."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import structlog

from services.writer import manifest
from services.writer.assembly import stem
from services.writer.files import ROW_GROUP, Directory
from services.writer.manifest import File
from services.writer.rows import time_of, time_text

# So many files of equal age become one. A commit every 0.2 s makes one file in 6 s, one of those in 200 s
# and so on: few files for a question to open, and a row is written again once for each factor of 32.
MERGED_AT_ONCE = 32
# Files of this size are left alone. A question opens four of them a second.
_LARGE_BYTES = 32 << 20
_LARGEST_BYTES = 128 << 20
# A file goes when its newest row is past the retention: its oldest stays longer by no more than this share.
_SPAN_OF_RETENTION = 1 / 50
# A question that read the manifest before a file was removed from it may still want to open the file.
_GRACE = timedelta(minutes=10)

_log = structlog.get_logger("telltale.writer")


def tidy(directory: Directory, connection: sqlite3.Connection) -> None:
    """At the start: removes what no commit names, and leaves out what is not as it was written."""
    named = manifest.named(connection)
    directory.remove(directory.names() - {file.file for file in named})
    for file in named:
        if file.removed_time is None:
            # One that was damaged may have come back from a copy.
            fault = directory.fault(file.file, file.bytes, file.sha256 if file.damage else None)
            if fault != file.damage:
                note_damage(connection, file, fault)


def note_damage(connection: sqlite3.Connection, file: File, fault: str | None) -> None:
    """Writes down what is wrong with a file, or that it is right again."""
    manifest.damaged(connection, file, fault)
    said = {"product": file.product, "file": file.file, "rows": file.last_row - file.first_row + 1}
    if fault is None:
        _log.info("a file is as it was written again, and back in the history", **said)
    else:
        _log.error("a file is left out of the history; put a copy in its place", fault=fault, **said)


def settle(directory: Directory, names: list[str], connection: sqlite3.Connection) -> None:
    """Removes those of the named files that no commit names; a commit that failed may have left them."""
    while names:
        # One by one: a merge may add another meanwhile.
        name = names.pop()
        if not manifest.names_file(connection, name):
            directory.remove([name])


def swept(connection: sqlite3.Connection, *, now: datetime) -> list[str]:
    """Files that left the history so long ago that no question has them open any more."""
    return manifest.removed_before(connection, time_text(now - _GRACE))


def sweep(directory: Directory, names: list[str], connection: sqlite3.Connection) -> None:
    """Deletes files that have left the history.

    They go before the manifest forgets them: a kill in between leaves a name without a file, which the next
    sweep forgets.
    """
    directory.remove(names)
    manifest.forget(connection, names)


@dataclass(frozen=True)
class Merge:
    """Adjacent files of a product that are to become one."""

    files: tuple[File, ...]

    @classmethod
    def next_of(cls, files: Sequence[File], retention_seconds: float) -> "Merge | None":
        """The next merge among a product's current files, which are in the order of their rows."""
        span = timedelta(seconds=min(retention_seconds, 1e9) * _SPAN_OF_RETENTION)
        for run in _runs(files):
            # Where a file spans as much as it may already, the one after it gets its turn.
            for first in range(len(run) - MERGED_AT_ONCE + 1):
                chosen = _fitting(run[first : first + MERGED_AT_ONCE], span)
                if len(chosen) > 1:
                    return cls(chosen)
        return None

    def write(self, directory: Directory, now: datetime) -> tuple[File | None, list[tuple[File, str]]]:
        """Makes the merged file, durable but in no manifest yet; or says which of the files are damaged."""
        faults = [(file, directory.fault(file.file, file.bytes, file.sha256)) for file in self.files]
        damaged = [(file, fault) for file, fault in faults if fault is not None]
        if damaged:
            return None, damaged
        first, last = self.files[0], self.files[-1]
        schema = pa.unify_schemas([directory.schema(file.file) for file in self.files])
        written = directory.write(stem(first.product, first.first_row), self._parts(directory, schema))
        return (
            File(
                file=written.name,
                product=first.product,
                first_row=first.first_row,
                last_row=last.last_row,
                merges=first.merges + 1,
                bytes=written.size,
                sha256=written.sha256,
                first_received_time=min(file.first_received_time for file in self.files),
                last_received_time=max(file.last_received_time for file in self.files),
                made_time=time_text(now),
            ),
            [],
        )

    def _parts(self, directory: Directory, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of all files in row groups worth their name, with the columns of every version."""
        waiting: list[pa.Table] = []
        for file in self.files:
            for group in directory.read(file.file):
                waiting.append(pa.concat_tables([schema.empty_table(), group], promote_options="default"))
                if sum(part.num_rows for part in waiting) >= ROW_GROUP:
                    yield pa.concat_tables(waiting)
                    waiting = []
        if waiting:
            yield pa.concat_tables(waiting)


def _runs(files: Sequence[File]) -> Iterator[list[File]]:
    """Neighbours that were merged equally often and are not large."""
    run: list[File] = []
    for file in files:
        small = file.bytes < _LARGE_BYTES
        if run and not (small and file.merges == run[-1].merges and file.first_row == run[-1].last_row + 1):
            yield run
            run = []
        if small:
            run.append(file)
    if run:
        yield run


def _fitting(files: Sequence[File], span: timedelta) -> tuple[File, ...]:
    """The first of the files that may be one together."""
    chosen: list[File] = []
    size, earliest, latest = 0, files[0].first_received_time, files[0].last_received_time
    for file in files:
        size += file.bytes
        earliest, latest = min(earliest, file.first_received_time), max(latest, file.last_received_time)
        if size > _LARGEST_BYTES or time_of(latest) - time_of(earliest) > span:
            break
        chosen.append(file)
    return tuple(chosen)
