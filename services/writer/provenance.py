"""Where a row comes from: the columns that every row carries besides its record."""

from dataclasses import dataclass

from services.writer.rows import time_text
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.consume.delivered import Delivered

VERIFIED = "VERIFIED"
# The batch itself holds; batches before it in its chain are missing and nobody declared them lost.
VERIFIED_AFTER_BREAK = "VERIFIED_AFTER_BREAK"
# It was stored, and its source turned out not to have been believable when it sealed it.
DISTRUSTED = "DISTRUSTED"


@dataclass(frozen=True)
class Provenance:
    """Values of sql.PROVENANCE, in its order."""

    source: str
    epoch: int
    sequence: int
    log: str
    offset: int
    received_time: str
    verified: str
    origin: str
    replay_run: str | None

    @classmethod
    def of(cls, item: Delivered) -> "Provenance":
        broken = item.missing and not item.after_gap
        origin = item.header.origin
        known = origin in Origin.values()
        return cls(
            item.header.source,
            item.header.epoch,
            item.header.sequence,
            item.position.log,
            item.position.offset,
            time_text(item.received_time),
            VERIFIED_AFTER_BREAK if broken else VERIFIED,
            Origin.Name(origin).removeprefix("ORIGIN_") if known else str(origin),
            item.header.replay_run or None,
        )

    @property
    def values(self) -> tuple[str | int | None, ...]:
        return (
            self.source,
            self.epoch,
            self.sequence,
            self.log,
            self.offset,
            self.received_time,
            self.verified,
            self.origin,
            self.replay_run,
        )
