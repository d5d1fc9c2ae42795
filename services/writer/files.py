"""Parquet files beside the database: each is written once, made durable, and never changed.

A file counts from the commit on that puts it into the manifest. What the manifest does not name is no part of
the history, whatever it holds.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.writer.sql import PROVENANCE_NAMES
from telltale import archive
from telltale.errors import Unavailable

SUFFIX = ".parquet"
# What is being written and has not got its name yet.
_UNFINISHED = ".unfinished"
# As many rows as DuckDB gives one thread at a time; also what merging holds in memory.
ROW_GROUP = 122_880


@dataclass(frozen=True)
class Written:
    """A file that is durable: its name within the directory, its size and digest."""

    name: str
    size: int
    sha256: str


class Directory:
    """Where the files of one database lie."""

    def __init__(self, database: Path) -> None:
        self.path = archive.directory_of(database)

    def write(self, stem: str, parts: Iterable[pa.Table]) -> Written:
        """Writes one file of parts with the same columns, a row group each.

        When this returns, neither a killed process nor a power cut loses the file. Raises Unavailable, and
        leaves nothing behind but what the next start removes, when it cannot.
        """
        name = f"{stem}-{secrets.token_hex(4)}{SUFFIX}"
        unfinished = self.path / (name + _UNFINISHED)
        with self._accessible():
            try:
                self.path.mkdir(mode=0o700, exist_ok=True)
                # Nobody else may read what lies in the database.
                os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                _write(unfinished, parts)
                size, digest = unfinished.stat().st_size, archive.digest_of(unfinished)
                _sync(unfinished)
                unfinished.rename(self.path / name)
                _sync(self.path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        return Written(name, size, digest)

    def read(self, name: str) -> Iterator[pa.Table]:
        """The row groups of a file, one at a time."""
        with self._accessible(), pq.ParquetFile(self.path / name, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, use_threads=False)

    def schema(self, name: str) -> pa.Schema:
        """The columns of a file."""
        with self._accessible():
            return pq.read_schema(self.path / name)

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; one that is gone already is no error."""
        with self._accessible():
            for name in names:
                (self.path / name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Every file that the writer may have made, finished or not."""
        if not self.path.is_dir():
            return set()
        with self._accessible():
            return {path.name for path in self.path.iterdir() if path.name.endswith((SUFFIX, _UNFINISHED))}

    def fault(self, file: str, size: int, sha256: str | None) -> str | None:
        """What is wrong with a file, in a few words; without a digest only its size is looked at."""
        return archive.fault(self.path / file, size, sha256)

    @contextmanager
    def _accessible(self) -> Iterator[None]:
        try:
            yield
        except OSError as failed:
            raise Unavailable(
                f"{self.path} cannot be used: {failed}; check the disk's space and health"
            ) from failed


def _write(path: Path, parts: Iterable[pa.Table]) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for part in parts:
            if writer is None:
                writer = _writer(path, part.schema)
            writer.write_table(part, row_group_size=ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Few words, many times: texts, and where rows come from, which is the same for a whole batch.
    words = [field.name for field in schema if _is_text(field.type) or field.name in PROVENANCE_NAMES]
    numbers = [field.name for field in schema if field.name not in words and _is_whole(field.type)]
    return pq.ParquetWriter(
        path,
        schema,
        use_dictionary=words,
        # Texts that are nearly all different soon stand for themselves: fewer bytes, and less work.
        dictionary_pagesize_limit=64 << 10,
        # Half the bytes of a dictionary of numbers that are nearly all different, and less work.
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        compression="zstd",
        compression_level=1,
        # Other tools that read the files can tell a flipped bit as well.
        write_page_checksum=True,
        # The Arrow schema says nothing that Parquet's own does not.
        store_schema=False,
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_dictionary(kind))


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
