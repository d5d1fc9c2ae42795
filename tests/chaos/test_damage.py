"""What is flipped or cut off is really so, and what a spool has lost by it is counted."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.damage import flip, truncate

PRODUCT, BATCHES = "servers.cpu", 40


@pytest.fixture(params=["in the file", "in the write-ahead log"])
def spool(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The part of a spool that damage is about, as a killed process leaves it."""
    path = tmp_path / "spool.db"
    original = tmp_path / "original.db"
    with closing(sqlite3.connect(original, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE batches (id INTEGER PRIMARY KEY, product, records, batch)")
        for number in range(BATCHES):
            db.execute("INSERT INTO batches VALUES (NULL, ?, 2, ?)", (PRODUCT, bytes([number]) * 9_000))
        if request.param == "in the file":
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for end in ("", "-wal"):
            Path(f"{path}{end}").write_bytes(Path(f"{original}{end}").read_bytes())
    return path


def batches(spool: Path) -> list[bytes]:
    with closing(sqlite3.connect(spool)) as db:
        return [row[0] for row in db.execute("SELECT batch FROM batches ORDER BY id")]


def test_a_flip_changes_one_bit_or_what_the_write_ahead_log_takes_back_for_it(spool: Path) -> None:
    before = {path.name: path.read_bytes() for path in spool.parent.glob("spool.db*")}
    assert waiting(spool)[PRODUCT] == 2 * BATCHES
    assert flip(spool, 5)
    changed = [
        bin(a ^ b).count("1")
        for name, content in before.items()
        for a, b in zip(content, (spool.parent / name).read_bytes(), strict=True)
        if a != b and not name.endswith("-shm")
    ]
    assert changed == [1]
    gone = 2 * BATCHES - waiting(spool)[PRODUCT]
    assert gone == 2 * (BATCHES - len(batches(spool)))


def test_a_cut_takes_the_end(spool: Path) -> None:
    sizes = sum(path.stat().st_size for path in (spool, Path(f"{spool}-wal")))
    assert truncate(spool, 5)
    assert sum(path.stat().st_size for path in (spool, Path(f"{spool}-wal"))) < sizes
    assert waiting(spool)[PRODUCT] < 2 * BATCHES


def test_there_is_nothing_to_flip_in_an_empty_spool(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE batches (batch)")
        db.commit()
    assert flip(path, 1) is None


def waiting(spool: Path) -> Counter[str]:
    """Records that wait in the spool of a dead process, by product; nothing is changed by looking. Blocks."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in (spool, Path(f"{spool}-wal")):
            if path.exists():
                shutil.copy(path, scratch)
        try:
            with closing(sqlite3.connect(Path(scratch) / spool.name)) as reading:
                rows = reading.execute("SELECT product, sum(records) FROM batches GROUP BY 1").fetchall()
        except sqlite3.DatabaseError:
            return Counter()
    return Counter(dict(rows))
