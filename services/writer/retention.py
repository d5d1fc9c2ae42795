"""Removes what is past its product's retention, in transactions short enough that storing goes on."""

from collections.abc import Callable, Iterable
from functools import partial
from sqlite3 import Connection

from services.writer import manifest, sql
from services.writer.plans import Place

_BATCHES_AT_ONCE = 200
# It may hold thousands of batches.
_FILES_AT_ONCE = 1
_NOTES_AT_ONCE = 5_000

# Removes what was received before a time; returns how many batches, and whether there may be more.
Step = Callable[..., tuple[int, bool]]


def steps(place: Place, now: str) -> Iterable[Step]:
    """What is to be repeated until nothing is left, each step in transactions of its own.

    A file goes as a whole, when its newest batch is old enough; and its batches with it.
    """
    if place.in_files:
        yield partial(_files, product=place.product, now=now)
    yield partial(_batches, place=place)


def _batches(connection: Connection, *, place: Place, before: str) -> tuple[int, bool]:
    batches = sql.old_batches(connection, place.product, before, _BATCHES_AT_ONCE, empty=place.in_files)
    for source, epoch, sequence, first, last in batches:
        if first is not None and last is not None:
            sql.delete_rows(connection, place.log, first, last)
        _forget(connection, place.product, source, epoch, sequence)
    for notes, column in (("losses", "received_time"), ("holes", "noticed_time"), ("gaps", "noticed_time")):
        sql.prune_older(connection, notes, column, place.product, before, _NOTES_AT_ONCE)
    return len(batches), len(batches) == _BATCHES_AT_ONCE


def _files(connection: Connection, *, product: str, now: str, before: str) -> tuple[int, bool]:
    files = manifest.oldest(connection, product, before, _FILES_AT_ONCE)
    batches = 0
    for file in files:
        for source, epoch, sequence in manifest.batches_in(connection, file):
            _forget(connection, product, source, epoch, sequence)
            batches += 1
        manifest.remove(connection, file, now)
    return batches, len(files) == _FILES_AT_ONCE


def _forget(connection: Connection, product: str, source: str, epoch: int, sequence: int) -> None:
    """What is left of a batch is that it was stored."""
    sql.mark_pruned(connection, product, source, epoch, sequence)
    identity = {"product": product, "source": source, "epoch": epoch, "sequence": sequence}
    sql.delete(connection, "batches", identity)
    sql.delete(connection, "distrusted", identity)
