"""The recent batches of one product, bounded by bytes, that all its live subscribers read.

Each item has a number, counted by this gateway since it started; subscribers who read the ring remember
the number that is next. Positions of the log serve to come in from elsewhere without a hole or a repeat.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.frames import Batch, Item, Missing, Reached

# What an item costs beside its bytes: objects, references, list slots.
OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Piece:
    """What a subscriber takes from the ring at once: at most one gap, which stands before the batches."""

    missing: Missing | None
    batches: Sequence[Batch]
    # Number to go on with.
    next: int


class Ring:
    """Items from `first` to before `next`, and of which positions they hold everything that follows."""

    def __init__(self, max_bytes: int) -> None:
        self._items: list[Batch | Missing] = []
        # Items before this index are evicted; the list is cut when they are the larger half.
        self._start = 0
        self._bytes = 0
        self._max_bytes = max_bytes
        self.first = 0
        self.next = 0
        # Everything of `log` after the offset `floor` and up to `head` is in the ring, from item `_run` on.
        # `log` is empty until the first batch or mark after a start or a gap.
        self.log = ""
        self.floor = 0
        self.head = 0
        self._run = 0
        self.repeated = 0
        self._position: tuple[str, int] | None = None
        self._readers: set[asyncio.Event] = set()

    @property
    def bytes(self) -> int:
        """Memory that the items take, about."""
        return self._bytes

    @property
    def position(self) -> tuple[str, int] | None:
        """Log and offset after which the upstream goes on; None before the first batch or mark."""
        return self._position

    def resize(self, max_bytes: int) -> None:
        """Sets another bound; evicts what no longer fits."""
        self._max_bytes = max_bytes
        self._evict()

    def wakes(self, reader: asyncio.Event) -> None:
        """Sets the event whenever something is added."""
        self._readers.add(reader)

    def forgets(self, reader: asyncio.Event) -> None:
        """Stops what `wakes` began."""
        self._readers.discard(reader)

    def extend(self, items: Iterable[Item]) -> list[Batch]:
        """Appends what the domain sent; returns the batches that are new."""
        added: list[Batch] = []
        for item in items:
            match item:
                case Batch():
                    if self._append(item):
                        added.append(item)
                case Missing():
                    self._put(item, OVERHEAD_BYTES)
                    # What the gap left out is not here: nobody comes in before the next batch.
                    self.log = ""
                case Reached(log, offset):
                    if not self.log:
                        self._begin(log, floor=offset)
                        self._position = log, offset
        self._evict()
        for reader in self._readers:
            reader.set()
        return added

    def _append(self, batch: Batch) -> bool:
        if batch.log != self.log:
            # The batch before it is unknown, so only those who have this one already may come in.
            self._begin(batch.log, floor=batch.offset)
        elif batch.offset <= self.head:
            # A domain that sends a place twice would make every subscriber repeat it.
            self.repeated += 1
            return False
        self._put(batch, len(batch.wire) + OVERHEAD_BYTES)
        self.head = batch.offset
        self._position = batch.log, batch.offset
        return True

    def _begin(self, log: str, floor: int) -> None:
        self.log, self.floor, self.head, self._run = log, floor, floor, self.next

    def _put(self, item: Batch | Missing, cost: int) -> None:
        self._items.append(item)
        self._bytes += cost
        self.next += 1

    def _evict(self) -> None:
        # The newest item stays, however large it is.
        while self._bytes > self._max_bytes and self.next - self.first > 1:
            item = self._items[self._start]
            self._bytes -= OVERHEAD_BYTES
            if isinstance(item, Batch):
                self._bytes -= len(item.wire)
                if self.first >= self._run:
                    self.floor = item.offset
            self._start += 1
            self.first += 1
        if self._start > len(self._items) // 2:
            del self._items[: self._start]
            self._start = 0
        self._run = max(self._run, self.first)

    def after(self, log: str, offset: int) -> int | None:
        """Number to go on with after this position; None when the ring does not hold all that follows it."""
        if not self.log or log != self.log or offset < self.floor:
            return None
        run = self._start + self._run - self.first
        index = bisect_right(self._items, offset, lo=run, key=_offset)
        return self.first + index - self._start

    def piece(self, number: int, max_bytes: int) -> Piece | None:
        """The items from this number on, at least one and then up to `max_bytes`.

        None when there is none yet. The caller has checked that `number` is not before `first`.
        """
        if number >= self.next:
            return None
        missing: Missing | None = None
        batches: list[Batch] = []
        size = 0
        for index in range(self._start + number - self.first, len(self._items)):
            item = self._items[index]
            if isinstance(item, Missing):
                if missing is not None or batches:
                    break
                missing = item
            else:
                cost = item.cost(batches[-1] if batches else None)
                if batches and size + cost > max_bytes:
                    break
                batches.append(item)
                size += cost
            number += 1
        return Piece(missing, batches, number)


def _offset(item: Batch | Missing) -> int:
    # A run holds batches only: a gap ends it.
    return item.offset if isinstance(item, Batch) else 0
