"""Flips bits in stored batches, and cuts files short, as failing disks do."""

import mmap
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

# Does something to a file by a choice, and says what; None when there was nothing to do it to.
Damage = Callable[[Path, int], str | None]

# Of a batch's bytes: enough to be found again in the file, in one piece on a page.
_SAMPLE = 48
# Several batches of the load at the most.
_MOST_CUT = 64 << 10
# Bytes of SQLite's format of a write-ahead log.
_WAL_HEADER, _FRAME_HEADER = 32, 24


def flip(database: Path, choice: int) -> str | None:
    """Flips one bit of the last batch of a log or a spool whose process is dead; says where, or None.

    The bit is in the database file, or in its write-ahead log while the batch lies there. Blocks.
    """
    draw = random.Random(choice)
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as reading:
        row = reading.execute("SELECT batch FROM batches ORDER BY rowid DESC LIMIT 1").fetchone()
    if row is None:
        return None
    start = draw.randrange(max(1, len(row[0]) - _SAMPLE))
    sample = row[0][start : start + _SAMPLE]
    for path in (database, Path(f"{database}-wal")):
        if not path.exists() or not path.stat().st_size:
            continue
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            # Its latest copy.
            place = content.rfind(sample)
            if place >= 0:
                place += draw.randrange(len(sample))
                content[place] ^= 1 << draw.randrange(8)
                return f"byte {place} of {path.name}"
    return None


def truncate(database: Path, choice: int) -> str | None:
    """Cuts the last part off the write-ahead log, or off the file itself when there is none. Blocks."""
    draw = random.Random(choice)
    wal = Path(f"{database}-wal")
    path, end = (wal, live) if (live := _live_bytes(wal)) else (database, database.stat().st_size)
    left = end - draw.randrange(1, max(2, min(end // 2, _MOST_CUT)))
    os.truncate(path, left)
    return f"{end - left} bytes of {path.name}"


def _live_bytes(wal: Path) -> int:
    """How far a write-ahead log counts: what lies behind is of before its last checkpoint."""
    content = wal.read_bytes() if wal.exists() else b""
    page, salts = int.from_bytes(content[8:12], "big"), content[16:24]
    end = _WAL_HEADER
    while content[end + 8 : end + 16] == salts and salts:
        end += _FRAME_HEADER + page
    return end if end > _WAL_HEADER else 0
