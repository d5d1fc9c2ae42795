"""What a domain remembers of its log outside of the log's file, so that one that was rolled back is noticed.

A file cannot tell that it is an old copy of itself. Beside it lies a mark: the log's id, an offset that was
durable, and one beyond which nothing was ever handed out. It is written about once a second while the log
grows, because it leaves room for the offsets of the next seconds.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import structlog

from telltale.errors import Unavailable
from telltale.salvage import sync_directory

# Offsets that may be handed out before the mark is written again: some seconds of the busiest log.
_AHEAD = 50_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Mark:
    """reached: an offset that was durable. bound: nothing beyond it was handed out. closed: in good order."""

    log: str
    reached: int
    bound: int
    closed: bool


class Verdict(Enum):
    """What a mark says of a log that is opened."""

    SAME = "same"
    # It was not closed. Nothing that was handed out is missing, unless power or a copy took the very last:
    # offsets go on behind the bound, so that none is given twice.
    CRASHED = "crashed"
    # It lacks what was handed out, or is another log.
    REPLACED = "replaced"


def judge(mark: Mark | None, log: str, last: int) -> Verdict:
    """last: the highest offset that the log ever gave; 0 when it is empty."""
    if mark is None:
        return Verdict.REPLACED if last else Verdict.SAME
    if mark.log != log or last < mark.reached:
        return Verdict.REPLACED
    return Verdict.SAME if mark.closed or last >= mark.bound else Verdict.CRASHED


class Lineage:
    """The mark beside a log. Methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mark: Mark | None = None

    def read(self) -> Mark | None:
        """None when there is none, or none that can be read."""
        try:
            self.mark = Mark(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as broken:
            _log.warning("the mark of a log cannot be read", file=str(self._path), reason=str(broken))
            return None
        return self.mark

    def advance(self, log: str, reached: int) -> None:
        """Makes room for the offsets that follow `reached`, which is durable."""
        self._write(Mark(log, reached, reached + _AHEAD, closed=False))

    def close(self, log: str, reached: int) -> None:
        """The log is closed; this was its last offset."""
        self._write(Mark(log, reached, reached, closed=True))

    def _write(self, mark: Mark) -> None:
        scratch = self._path.with_name(f".{self._path.name}.new")
        try:
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(json.dumps(asdict(mark)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._path)
            sync_directory(self._path.parent)
        except OSError as failed:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise Unavailable(
                f"{self._path} cannot be written: {failed}; check the disk's space and health"
            ) from failed
        self.mark = mark
