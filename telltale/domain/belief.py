"""Which stored batches are no longer believed, for SQL to ask: the log keeps them, the state hides them."""

import sqlite3
from datetime import UTC

from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.errors import InvalidInput
from telltale.identity.distrust import Distrust
from telltale.naming import SpiffeId

# Appended to a WHERE; the second question is asked of sources alone that anybody ever distrusted.
BELIEVED = "(believed_source({source}) OR believed_batch({batch}))"


class Belief:
    """The functions `believed_source(source)` and `believed_batch(batch)` of a connection."""

    def __init__(self, distrust: Distrust) -> None:
        self._distrust = distrust

    def teach(self, db: sqlite3.Connection) -> None:
        suspects = {str(entry.spiffe_id) for entry in self._distrust.entries}
        db.create_function("believed_source", 1, lambda source: source not in suspects)
        db.create_function("believed_batch", 1, self._batch)

    def _batch(self, data: bytes | None) -> bool:
        if data is None:
            return True
        try:
            header = Header.FromString(SealedBatch.FromString(data).header)
            sealed = header.sealed_time.ToDatetime(UTC)
            # What an old key sealed after the lift was refused at the door.
            return self._distrust.at(SpiffeId.parse(header.source), sealed, sealed) is None
        except (DecodeError, InvalidInput, ValueError, OverflowError):
            # Nothing like that was ever stored.
            return False
