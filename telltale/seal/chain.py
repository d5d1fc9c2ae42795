"""The chain of a source's batches for one product: what comes next, what is missing, what is a fork."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.seal.verify import MAX_FUTURE

Range = tuple[int, int]
# How far ahead of a clock a chain may begin: as far as a batch may be sealed.
_MAX_AHEAD_MS = MAX_FUTURE // timedelta(milliseconds=1)


@dataclass(frozen=True)
class Head:
    """The last batch of a chain that somebody has seen. An empty digest: it was seen, but not its header."""

    epoch: int
    sequence: int
    header_sha256: bytes


class Link(Enum):
    """What a batch is to a chain whose head is known."""

    NEXT = "next"
    """It follows, perhaps after missing sequences: see missing_before."""
    SEEN = "seen"
    """Its place lies at or before the head: a duplicate, or a fork when its digest is another."""
    FORK = "fork"
    """It follows a batch that is not the head: two holders of one chain."""
    STALE = "stale"
    """Its epoch lies below the head's."""


def follow(head: Head | None, header: Header, header_sha256: bytes) -> Link:
    """Places a batch. A chain without a head begins with whatever comes first."""
    if head is None or header.epoch > head.epoch:
        return Link.NEXT
    if header.epoch < head.epoch:
        return Link.STALE
    if header.sequence == head.sequence and head.header_sha256:
        return Link.SEEN if header_sha256 == head.header_sha256 else Link.FORK
    if header.sequence <= head.sequence:
        return Link.SEEN
    follows_directly = header.sequence == head.sequence + 1 and head.header_sha256
    if follows_directly and header.previous_header_sha256 != head.header_sha256:
        return Link.FORK
    return Link.NEXT


def missing_before(head: Head | None, header: Header) -> tuple[Range, ...]:
    """Closed ranges of sequences between the head and a batch that follows it, less the holes it declares.

    Without a head nothing is known to be missing; a new epoch starts at 1.
    """
    if head is None:
        return ()
    first = head.sequence + 1 if header.epoch == head.epoch else 1
    if header.sequence <= first:
        return ()
    return without([(first, header.sequence - 1)], holes_of(header))


def holes_of(header: Header) -> tuple[Range, ...]:
    """The ranges that a header declares as lost, those that make no sense left out."""
    return tuple(
        (hole.first_sequence, hole.last_sequence)
        for hole in header.holes
        if 0 < hole.first_sequence <= hole.last_sequence < header.sequence
    )


def without(ranges: Iterable[Range], holes: Iterable[Range]) -> tuple[Range, ...]:
    """Ranges less holes, in order; all closed. Sorted once, for a header may declare many holes."""
    left: list[Range] = []
    ordered = sorted(holes)
    start = 0
    for begin, end in sorted(ranges):
        while start < len(ordered) and ordered[start][1] < begin:
            start += 1
        at = start
        while begin <= end and at < len(ordered) and ordered[at][0] <= end:
            first, last = ordered[at]
            if begin < first:
                left.append((begin, first - 1))
            begin = max(begin, last + 1)
            at += 1
        if begin <= end:
            left.append((begin, end))
    return tuple(left)


def covers(ranges: Iterable[Range], sequence: int) -> bool:
    return any(first <= sequence <= last for first, last in ranges)


def is_ahead(epoch: int, now_ms: int) -> bool:
    """Whether a chain began so far ahead of a clock that a domain with the same clock refuses it."""
    return epoch > now_ms + _MAX_AHEAD_MS
