"""Counts that a process under load keeps in a file, where whoever measures reads them at any moment."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Latencies are counted in buckets, each 5 % wider than the one before: a percentile is off by no more.
_GROWTH = math.log(1.05)
_SHORTEST = 1e-5
_BUCKETS = 340

_FIELDS = ("records", "batches", "bytes", "refused", "epoch_ns", "connected")
_SIZE = (len(_FIELDS) + _BUCKETS) * 8


@dataclass(frozen=True)
class Reading:
    """The counts at one moment, or the difference of two. epoch_ns: when the sender's schedule began.
    connected: simulated agents whose stream is open."""

    records: int
    batches: int
    bytes: int
    refused: int
    epoch_ns: int
    connected: int
    buckets: tuple[int, ...]

    def since(self, before: "Reading") -> "Reading":
        """What was counted after an earlier reading."""
        return Reading(
            self.records - before.records,
            self.batches - before.batches,
            self.bytes - before.bytes,
            self.refused - before.refused,
            self.epoch_ns,
            self.connected,
            tuple(now - then for now, then in zip(self.buckets, before.buckets, strict=True)),
        )

    def percentile(self, share: float) -> float | None:
        """Seconds within which this share of the latencies lies; None when there are none."""
        total = sum(self.buckets)
        seen = 0
        for number, count in enumerate(self.buckets):
            seen += count
            if count and seen >= share * total:
                return _SHORTEST * math.exp(_GROWTH * (number + 1))
        return None


class Counters:
    """One writer, any number of readers."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and makes it when it is not there yet."""
        with open(path, "a+b") as file:
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._values = memoryview(self._map).cast("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._values.release()
        self._map.close()

    def count(self, records: int, size: int, batches: int = 1) -> None:
        self._values[0] += records
        self._values[1] += batches
        self._values[2] += size

    def refuse(self) -> None:
        self._values[3] += 1

    def begin(self, epoch_ns: int) -> None:
        """Says when the schedule of what is sent began, in Unix nanoseconds."""
        self._values[4] = epoch_ns

    def connect(self) -> None:
        self._values[5] += 1

    def took(self, seconds: float, times: int = 1) -> None:
        """Counts a latency."""
        number = int(math.log(max(seconds, _SHORTEST) / _SHORTEST) / _GROWTH)
        self._values[len(_FIELDS) + min(number, _BUCKETS - 1)] += times

    def read(self) -> Reading:
        values = self._values.tolist()
        records, batches, size, refused, epoch_ns, connected = values[: len(_FIELDS)]
        return Reading(records, batches, size, refused, epoch_ns, connected, tuple(values[len(_FIELDS) :]))
