"""What one push stream has sent, has not yet heard of, and may not send."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from telltale.api.mesh.v1.ingest_pb2 import Ack, Refusal
from telltale.seal.sealing import sha256
from telltale.source.rows import Spooled

# Batches that may wait for their acks: bounds what is sent again after a break.
_WINDOW = 1_024


@dataclass
class PushStream:
    """held: products whose batches are not sent, because the domain does not take their schema. told: those
    whose schema it was told of. unknown: those it has to be told of; the stream ends when all is answered.
    """

    held: set[str]
    told: frozenset[str]
    unknown: set[str] = field(default_factory=set)
    last_id: int = 0
    # There is room for more batches on their way.
    room: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    _sent: dict[tuple[str, int, int], Spooled] = field(default_factory=dict)
    _certificates: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.room.set()

    @property
    def waits(self) -> bool:
        """Whether batches wait for their answers."""
        return bool(self._sent)

    def send(self, batches: Sequence[Spooled]) -> None:
        """Notes that these are on their way."""
        self.last_id = batches[-1].id
        for one in batches:
            # The bytes are on disk; here they would only fill memory until the ack.
            self._sent[one.product, one.epoch, one.sequence] = replace(one, batch=b"", certificates=())
        if len(self._sent) >= _WINDOW:
            self.room.clear()

    def answered(self, answer: Ack | Refusal) -> Spooled | None:
        """What it answers; None when that is not on its way."""
        found = self._sent.pop((answer.product, answer.epoch, answer.sequence), None)
        if len(self._sent) < _WINDOW:
            self.room.set()
        return found

    def unseen(self, batches: Sequence[Spooled]) -> list[bytes]:
        """Certificates of these that the stream has not carried yet; it carries them now."""
        new = []
        for spooled in batches:
            for der in spooled.certificates:
                digest = sha256(der)
                if digest not in self._certificates:
                    self._certificates.add(digest)
                    new.append(der)
        return new
