"""The root certificate that a server presents, accepted only by the SHA-256 that an operator gave."""

import asyncio
import hashlib
import hmac

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from telltale.errors import Unauthenticated, Unavailable
from telltale.identity.credentials import dns_names_of

_PATIENCE = 10.0
# Leaf, issuing authority and roots are a few KiB; no honest handshake is longer.
_LARGEST_FLIGHT = 64 * 1024
_CHUNK = 16 * 1024


async def presented_root(address: str, sha256: bytes) -> bytes:
    """The root in PEM that the server at `host:port` presents and whose DER has this SHA-256.

    Nothing else of the handshake is believed and nothing is sent after it: this root has to prove
    the next connection. Raises Unavailable when nobody answers, Unauthenticated for another root.
    """
    return _root(await _chain(address), address, sha256)


async def presented_authority(address: str, sha256: bytes) -> tuple[bytes, tuple[str, ...]]:
    """As `presented_root`, with the names that the server says it is.

    Those are as little believed: the next connection has to prove the one that the caller chooses.
    """
    chain = await _chain(address)
    root = _root(chain, address, sha256)
    return root, dns_names_of(x509.load_der_x509_certificate(chain[0]))


async def _chain(address: str) -> list[bytes]:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _presented(address)
    except TimeoutError:
        raise Unavailable(
            f"{address} does not answer; check the address and that it can be reached"
        ) from None
    except (OSError, ValueError, SSL.Error) as failed:
        reason = str(failed) or "the TLS handshake failed"
        raise Unavailable(
            f"no authority can be reached at {address} ({reason}); check that it is the address of enrolment"
        ) from failed


def _root(chain: list[bytes], address: str, sha256: bytes) -> bytes:
    for der in chain:
        # Compared in constant time out of habit: the digest is no secret.
        if hmac.compare_digest(hashlib.sha256(der).digest(), sha256) and _is_root(der):
            return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    raise Unauthenticated(
        f"{address} shows no root certificate with the SHA-256 {sha256.hex()}: it is no enrolment port of "
        "that mesh, or somebody stands in between; compare both with what `telltale agent token` printed"
    )


async def _presented(address: str) -> list[bytes]:
    """The certificates of a TLS 1.3 server, in DER, without a judgement on them."""
    host, _, port = address.rpartition(":")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_alpn_protos([b"h2"])
    context.set_verify(SSL.VERIFY_NONE)
    tls = SSL.Connection(context, None)
    tls.set_connect_state()
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        received = 0
        while not _shaken(tls):
            writer.write(_outgoing(tls))
            await writer.drain()
            flight = await reader.read(_CHUNK)
            received += len(flight)
            if not flight or received > _LARGEST_FLIGHT:
                raise ConnectionError("it speaks no TLS of the mesh")
            tls.bio_write(flight)
        return [
            certificate.to_cryptography().public_bytes(Encoding.DER)
            for certificate in tls.get_peer_cert_chain() or ()
        ]
    finally:
        writer.transport.abort()


def _shaken(tls: SSL.Connection) -> bool:
    """Goes on with the handshake; whether it is done."""
    try:
        tls.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def _outgoing(tls: SSL.Connection) -> bytes:
    try:
        return tls.bio_read(_LARGEST_FLIGHT)
    except SSL.WantReadError:
        return b""


def _is_root(der: bytes) -> bool:
    certificate = x509.load_der_x509_certificate(der)
    return certificate.subject == certificate.issuer
