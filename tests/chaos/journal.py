"""What a load source has sealed, written down by itself before it is sealed: the campaign's own truth.

A line is written whole by one system call and so outlives the process; a line that a kill cut short says
nothing, because what it announces had not begun.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def digest(values: Sequence[object]) -> str:
    """Of a record's values, as the database holds them."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Announced:
    """Records that were handed to a source together, numbered from `first` on in their source and product.

    kept: the source said that they are durable. Otherwise it said that they are not, or was killed first,
    and they may be stored or not.
    """

    source: str
    product: str
    first: int
    digests: tuple[str, ...]
    kept: bool


class Journal:
    """Appends to a journal; several processes must not. Use as `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last: dict[tuple[str, str], int] = {}
        self._count = 0

    def __enter__(self) -> "Journal":
        for number, announced in enumerate(read(self._path), start=1):
            key = announced.source, announced.product
            self.last[key] = max(self.last.get(key, 0), announced.first + len(announced.digests) - 1)
            self._count = number
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # Ends a line that was cut short.
        os.write(self._file, b"\n")
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def announce(self, source: str, product: str, digests: Sequence[str]) -> int:
        """Before the records are sealed; returns what to say `keep` with."""
        first = self.last.get((source, product), 0) + 1
        self._count += 1
        self._write(
            {"id": self._count, "source": source, "product": product, "first": first, "digests": digests}
        )
        self.last[source, product] = first + len(digests) - 1
        return self._count

    def keep(self, identifier: int) -> None:
        """The source has them on its disk."""
        self._write({"kept": identifier})

    def _write(self, line: dict[str, Any]) -> None:
        encoded = json.dumps(line).encode() + b"\n"
        if os.write(self._file, encoded) != len(encoded):
            raise OSError(f"{self._path} took half a line; the campaign needs space of its own")


def read(path: Path) -> list[Announced]:
    """All that a journal announces, in its order."""
    lines = path.read_text().splitlines() if path.exists() else []
    announced: dict[int, dict[str, Any]] = {}
    kept: set[int] = set()
    for line in _whole(lines):
        if "kept" in line:
            kept.add(line["kept"])
        else:
            announced[line["id"]] = line
    return [
        Announced(line["source"], line["product"], line["first"], tuple(line["digests"]), identifier in kept)
        for identifier, line in announced.items()
    ]


def _whole(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue
