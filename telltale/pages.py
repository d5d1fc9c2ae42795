"""The rows in a SQLite file's leaf pages, found without the tree that leads to them, which may be damaged.

Rows of all tables come mixed, with deleted ones and damaged ones among them: who asks must be able to tell,
by a checksum, which are whole and its own. The format is https://www.sqlite.org/fileformat.html.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TABLE_LEAF = 13
# Larger than any row of ours; a damaged length must not take all memory.
_MAX_ROW = 64 << 20
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)

Value = int | float | bytes | None


def leaf_rows(path: Path) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """Row numbers and columns as stored: text as bytes, a row number's own column as None. Blocks."""
    with open(path, "rb") as file:
        pages = _Pages(file)
        for number in range(1, pages.count + 1):
            page = pages.page(number)
            start = 100 if number == 1 else 0
            if len(page) <= start + 8 or page[start] != _TABLE_LEAF:
                continue
            cells = min(int.from_bytes(page[start + 3 : start + 5]), (len(page) - start - 8) // 2)
            for place in range(start + 8, start + 8 + 2 * cells, 2):
                try:
                    yield pages.row(page, int.from_bytes(page[place : place + 2]))
                except (IndexError, ValueError):
                    continue


class _Pages:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        header = file.read(100)
        size = int.from_bytes(header[16:18])
        # 1 stands for 65536. Of a damaged header the default is the best guess.
        self._size = 65536 if size == 1 else size if size in {1 << power for power in range(9, 16)} else 4096
        self._usable = self._size - (header[20] if len(header) > 20 and header[20] <= 32 else 0)
        self.count = os.fstat(file.fileno()).st_size // self._size

    def page(self, number: int) -> bytes:
        self._file.seek((number - 1) * self._size)
        return self._file.read(self._size)

    def row(self, page: bytes, place: int) -> tuple[int, tuple[Value, ...]]:
        size, place = _varint(page, place)
        rowid, place = _varint(page, place)
        if not 0 < size <= _MAX_ROW:
            raise ValueError("no row is so long")
        payload = self._payload(page, place, size)
        end, place = _varint(payload, 0)
        values: list[Value] = []
        body = end
        while place < end:
            kind, place = _varint(payload, place)
            value, body = _value(payload, body, kind)
            values.append(value)
        return rowid, tuple(values)

    def _payload(self, page: bytes, place: int, size: int) -> bytes:
        """The bytes of a row: on its page, and what did not fit there from a chain of others."""
        most, usable = self._usable - 35, self._usable
        local = size
        if size > most:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (usable - 4)
            local = local if local <= most else least
        parts, have = [page[place : place + local]], local
        following = int.from_bytes(page[place + local : place + local + 4]) if local < size else 0
        while have < size:
            if not 0 < following <= self.count:
                raise ValueError("the chain of a row is broken")
            overflow = self.page(following)
            part = overflow[4 : 4 + min(size - have, usable - 4)]
            parts.append(part)
            have += len(part)
            following = int.from_bytes(overflow[:4])
        return b"".join(parts)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = 0
    for index in range(8):
        byte = data[place + index]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, place + index + 1
    number = number << 8 | data[place + 8]
    return number - (1 << 64) if number >> 63 else number, place + 9


def _value(payload: bytes, place: int, kind: int) -> tuple[Value, int]:
    if kind in (8, 9):
        return kind - 8, place
    if kind == 7 or kind in (10, 11) or kind < 0:
        # No column of ours is a fraction.
        raise ValueError("of no kind that is stored here")
    length = _INTEGER_BYTES[kind] if kind < 7 else (kind - 12) // 2
    part = payload[place : place + length]
    if len(part) < length:
        raise ValueError("a row ends before its columns do")
    if kind == 0:
        return None, place
    return (int.from_bytes(part, signed=True) if kind < 7 else part), place + length
