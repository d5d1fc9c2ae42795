"""What the analysis remembers of each source's stream of a product: where its chain and its time stand.

The watermark of a stream is the latest event time that it has reached, never later than the received time of
the batch that said so: a clock in the future holds nobody up, not even itself once it is set right. A clock
that is set back takes its watermark with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.analysis.clock import of_timestamp
from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.seal.chain import Head, Range, holes_of, without

# Ranges of one chain that wait for a word about them; what lies beyond is told at once.
MOST_PENDING = 64


@dataclass(frozen=True)
class Stream:
    """One product of one source. Times in microseconds."""

    product: str
    source: str
    run: str = ""
    origin: int = 0
    # What the product promises.
    freshness: int = 0
    head: Head | None = None
    received: int = 0
    watermark: int = 0
    sealed: int = 0
    # Sequences that are missing and may still be declared as lost, and the received time that showed it.
    pending: tuple[Range, ...] = field(default=())
    pending_since: int = 0
    # Whether a gap was announced since the last batch, so that the next one may skip.
    after_gap: bool = False

    def advanced(self, header: Header, digest: bytes, received: int, freshness: int) -> "Stream":
        """The stream after its next batch."""
        sealed = of_timestamp(header.sealed_time)
        # Absent, or before there was time: it says nothing.
        reached = max(0, min(of_timestamp(header.last_event_time), received))
        return replace(
            self,
            run=header.replay_run,
            origin=header.origin,
            freshness=freshness,
            head=Head(header.epoch, header.sequence, digest),
            received=max(self.received, received),
            watermark=reached if reached and sealed < self.sealed else max(self.watermark, reached),
            sealed=sealed,
            after_gap=False,
        )

    def missing(self, header: Header, ranges: Sequence[Range], received: int) -> "Stream":
        """The stream once a batch showed that sequences before it are missing and declared others as lost."""
        of_this_epoch = self.pending if self.head is None or self.head.epoch == header.epoch else ()
        left = without(of_this_epoch, holes_of(header))
        pending = (*left, *ranges)
        return replace(self, pending=pending, pending_since=self.pending_since if left else received)

    def undeclared(self, header: Header, received: int, grace: int) -> tuple[Range, ...]:
        """The sequences that the source should have declared by now, or that are too many to wait for.

        A source learns of a loss about when we do, so a header that it sealed well after says all there is to
        say; one that it sealed before cannot know. A clock that is far behind gets ten times the grace.
        """
        if not self.pending:
            return ()
        told = of_timestamp(header.sealed_time) > self.pending_since + grace
        if told or received > self.pending_since + 10 * grace or len(self.pending) > MOST_PENDING:
            return self.pending
        return ()

    def settled(self) -> "Stream":
        """The stream once its missing sequences have been told."""
        return replace(self, pending=(), pending_since=0)


def count(ranges: Sequence[Range]) -> int:
    """Number of sequences in closed ranges."""
    return sum(last - first + 1 for first, last in ranges)
