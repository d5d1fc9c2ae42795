"""Files of records beside a database: where they lie, and whether one still is as it was written."""

import hashlib
from pathlib import Path


def directory_of(database: Path) -> Path:
    """The directory of a database's files: beside it, as SQLite's own `-wal` is."""
    return database.with_name(f"{database.name}-parquet")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(path: Path, size: int, sha256: str | None) -> str | None:
    """What is wrong with a file, in a few words; without a digest only its size is looked at."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"it has {found} bytes and not {size}"
        if sha256 is not None and digest_of(path) != sha256:
            return "its bytes are not those that were written"
    except FileNotFoundError:
        return "it is not there"
    except OSError as broken:
        return f"it cannot be read: {broken.strerror}"
    return None
