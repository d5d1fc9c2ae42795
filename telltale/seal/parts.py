"""A sealed batch taken out of its message: a message copies a field of bytes each time that it is read."""

from dataclasses import dataclass
from typing import Protocol, Self

from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from telltale.wire import message


class Batch(Protocol):
    """What is signed and by what: a SealedBatch, or its parts."""

    @property
    def header(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...
    @property
    def payload(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The fields of a SealedBatch that its source has made, and nothing else."""

    header: bytes
    signature: bytes
    payload: bytes

    @classmethod
    def of(cls, batch: SealedBatch) -> Self:
        return cls(batch.header, batch.signature, batch.payload)

    def encode(self) -> bytes:
        """The bytes of a SealedBatch with exactly these fields."""
        numbered = (
            (SealedBatch.HEADER_FIELD_NUMBER, self.header),
            (SealedBatch.SIGNATURE_FIELD_NUMBER, self.signature),
            (SealedBatch.PAYLOAD_FIELD_NUMBER, self.payload),
        )
        # An empty field is not written: so does protobuf, and the same batch has one encoding.
        return message((number, content) for number, content in numbered if content)
