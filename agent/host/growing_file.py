"""A file of fixed-size records that others append to and rotate, read a piece at a time."""

import os
from pathlib import Path

from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_UPSTREAM, Loss

# What one reading takes at most; the rest waits for the next.
READ_BYTES = 1 << 20


class GrowingFile:
    """Reads what was appended after `position`, (inode, offset); without one, after what is there already."""

    def __init__(self, path: Path, record_bytes: int, position: tuple[int, int] | None = None) -> None:
        self.path = path
        self._record_bytes = record_bytes
        if position is None:
            found = path.stat()
            position = (found.st_ino, self._whole(found.st_size))
        self.position = position

    def before(self, most: int) -> bytes:
        """Up to `most` bytes that stand before the position in the file that is there now."""
        inode, offset = self.position
        if self.path.stat().st_ino != inode:
            return b""
        start = max(0, offset - self._whole(most))
        return self._read(self.path, start, offset - start)

    def read(self) -> tuple[bytes, list[Loss]]:
        """The whole records that were appended, and what is known to be lost by a rotation."""
        inode, offset = self.position
        found = self.path.stat()
        losses: list[Loss] = []
        rest = b""
        if found.st_ino != inode:
            rotated = self.path.with_name(self.path.name + ".1")
            if rotated.exists() and rotated.stat().st_ino == inode:
                rest = self._read(rotated, offset, READ_BYTES)
                if len(rest) == self._whole(READ_BYTES):
                    self.position = (inode, offset + len(rest))
                    return rest, losses
            else:
                losses.append(self._loss("was rotated away before its end was read"))
            offset = 0
        elif found.st_size < offset:
            losses.append(self._loss("was cut"))
            offset = 0
        appended = self._read(self.path, offset, READ_BYTES)
        self.position = (found.st_ino, offset + len(appended))
        return rest + appended, losses

    def _read(self, path: Path, offset: int, most: int) -> bytes:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), self._whole(most), offset)
        return data[: self._whole(len(data))]

    def _whole(self, length: int) -> int:
        return length - length % self._record_bytes

    def _loss(self, what: str) -> Loss:
        return Loss(reason=LOSS_REASON_UPSTREAM, detail=f"{self.path} {what}")
