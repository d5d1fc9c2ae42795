"""What passes between the spool and whoever seals its batches."""

from collections.abc import Callable
from dataclasses import dataclass

from telltale.api.mesh.v1.batch_pb2 import Hole, Loss, SealedBatch


@dataclass(frozen=True)
class Draft:
    """What the spool gives whoever seals: the place in the chain, and what the header has to declare."""

    epoch: int
    sequence: int
    previous_header_sha256: bytes
    holes: tuple[Hole, ...] = ()
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Sealed:
    """A batch ready for the spool.

    `certificates`: the signer's chain in DER. `late`: sealed while that was not valid: nobody takes it.
    """

    batch: SealedBatch
    records: int
    certificates: tuple[bytes, ...]
    late: bool = False


Sealer = Callable[[Draft], Sealed]
Resealer = Callable[[Draft, SealedBatch], Sealed]
