"""Cuts encoded records into payloads of batches, and joins small ones."""

from collections.abc import Iterable, Iterator

import numpy as np

from agent.receiver.encoding import Encoded
from telltale.source.source import BATCH_BYTES, BATCH_RECORDS, Part


def parts(pieces: Iterable[Encoded]) -> Iterator[Part]:
    """Payloads within the bounds of a batch, in the order of the records."""
    payloads: list[bytes] = []
    size = records = 0
    first = last = 0
    for payload, count, earliest, latest in _cut(pieces):
        if payloads and (size + len(payload) > BATCH_BYTES or records + count > BATCH_RECORDS):
            yield Part.of(b"".join(payloads), records, first, last)
            payloads, size, records = [], 0, 0
        if not payloads:
            first, last = earliest, latest
        payloads.append(payload)
        size, records = size + len(payload), records + count
        first, last = min(first, earliest), max(last, latest)
    if payloads:
        yield Part.of(b"".join(payloads), records, first, last)


def _cut(pieces: Iterable[Encoded]) -> Iterator[tuple[bytes, int, int, int]]:
    """Payload, number of records, and their first and last event time."""
    for piece in pieces:
        start = place = 0
        while start < len(piece.ends):
            fits = int(np.searchsorted(piece.ends, place + BATCH_BYTES, side="right"))
            # One record is never larger than a batch may be.
            end = min(max(fits, start + 1), start + BATCH_RECORDS)
            times = piece.times[start:end]
            stop = int(piece.ends[end - 1])
            yield piece.payload[place:stop], end - start, int(times.min()), int(times.max())
            start, place = end, stop
