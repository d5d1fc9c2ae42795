"""Seals a batch: fills the header's digests and signs the header's bytes."""

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.identity.credentials import Credentials

# Keeps a signature made here from meaning anything elsewhere.
SIGNATURE_CONTEXT = b"telltale batch v1\x00"

# Bounds of one batch, kept by sources and checked by domain services.
MAX_RECORDS = 10_000
MAX_PAYLOAD_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 10


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def seal(credentials: Credentials, header: Header, payload: bytes) -> SealedBatch:
    """Completes the header for this payload and signs it. The header's other fields are the caller's."""
    header.payload_sha256 = sha256(payload)
    header.signer_sha256 = credentials.thumbprint
    encoded = header.SerializeToString()
    signature = credentials.key.sign(SIGNATURE_CONTEXT + encoded, ec.ECDSA(hashes.SHA256()))
    return SealedBatch(header=encoded, signature=signature, payload=payload)
