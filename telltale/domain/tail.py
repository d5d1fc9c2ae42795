"""The newest batches of a log, in memory: who keeps up reads them here, and the disk is for who does not."""

from bisect import bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from telltale.domain.rows import Entry

# Of all products together: some moments of a domain under load, and hours of a quiet one.
MAX_BYTES = 16 << 20
# What an entry costs beside its bytes.
_OVERHEAD_BYTES = 512


@dataclass
class _Product:
    """Its newest entries, oldest first, and the offset after which none of its batches is missing here."""

    floor: int
    entries: deque[Entry] = field(default_factory=deque)


class Tail:
    """Batches that are durable, by product, up to a size in all; the oldest of all leave first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._products: dict[str, _Product] = {}
        # Which product each entry is of, in the order in which they came.
        self._order: OrderedDict[int, str] = OrderedDict()

    def add(self, product: str, entry: Entry) -> None:
        """Adds a product's next durable batch; offsets increase over all products."""
        recent = self._products.setdefault(product, _Product(floor=entry.offset - 1))
        recent.entries.append(entry)
        self._order[entry.offset] = product
        self._bytes += _cost(entry)
        while self._bytes > self._max_bytes:
            offset, oldest = self._order.popitem(last=False)
            behind = self._products[oldest]
            self._bytes -= _cost(behind.entries.popleft())
            behind.floor = offset

    def clear(self) -> None:
        """Forgets everything: what retention has deleted is had from nowhere."""
        self._products.clear()
        self._order.clear()
        self._bytes = 0

    def after(self, product: str, offset: int, max_bytes: int, max_batches: int) -> list[Entry] | None:
        """The entries after an offset, at least one and then up to a size; None when not all are here."""
        recent = self._products.get(product)
        if recent is None or offset < recent.floor:
            return None
        found: list[Entry] = []
        size = 0
        start = bisect_right(recent.entries, offset, key=lambda entry: entry.offset)
        for index in range(start, min(len(recent.entries), start + max_batches)):
            entry = recent.entries[index]
            size += len(entry.batch)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found


def _cost(entry: Entry) -> int:
    return len(entry.batch) + _OVERHEAD_BYTES
