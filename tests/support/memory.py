"""What lies in the memory of a live process, as somebody with root on its machine reads it."""

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_JWT = re.compile(rb"eyJ[\w-]{16,}\.eyJ[\w-]{16,}\.[\w-]{80,90}")
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{100,400}-----END PRIVATE KEY-----")
_CHUNK = 64 << 20
# Longer than any key or token, so that none is cut between two chunks.
_OVERLAP = 16 << 10


@dataclass(frozen=True)
class StolenToken:
    """A token as it was found, and what it says."""

    text: str

    @cached_property
    def claims(self) -> dict[str, Any]:
        body = self.text.split(".")[1]
        try:
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except ValueError:
            # A piece of memory that only looks like one.
            return {}
        return claims if isinstance(claims, dict) else {}

    @property
    def subject(self) -> str:
        return str(self.claims["sub"])


def can_be_read() -> bool:
    """Whether this process may read the memory of others. Our own processes refuse it to all but root."""
    return os.geteuid() == 0


def tokens_in(pid: int) -> set[StolenToken]:
    """Every bearer token in the memory of a process."""
    found = {match for chunk in _writable(pid) for match in _JWT.findall(chunk)}
    stolen = set()
    for text in found:
        token = StolenToken(text.decode())
        if token.claims.get("sub"):
            stolen.add(token)
    return stolen


def keys_in(pid: int, known: Iterable[ec.EllipticCurvePrivateKey] = ()) -> set[int]:
    """The private keys in the memory of a process, as numbers.

    Those in PEM, whosever they are; and of the known ones those whose number alone is there, in either
    order of bytes, as a library keeps it.
    """
    numbers = {key.private_numbers().private_value for key in known}
    patterns = {order: {n: n.to_bytes(32, order) for n in numbers} for order in ("big", "little")}
    found = set()
    for chunk in _writable(pid):
        for pem in _PEM.findall(chunk):
            try:
                key = load_pem_private_key(pem, None)
            except ValueError:
                continue
            if isinstance(key, ec.EllipticCurvePrivateKey):
                found.add(key.private_numbers().private_value)
        for by_number in patterns.values():
            found |= {number for number, pattern in by_number.items() if pattern in chunk}
    return found


def _writable(pid: int) -> Iterator[bytes]:
    """The memory that a process can write, piece by piece: what it was started from holds no secret of it."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, permissions, *_ = line.split()
            if "w" not in permissions:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            while start < end:
                size = min(_CHUNK, end - start)
                try:
                    memory.seek(start)
                    yield memory.read(size)
                except OSError:
                    # Reserved and not there, or gone since.
                    pass
                start += size - (_OVERLAP if size == _CHUNK else 0)
