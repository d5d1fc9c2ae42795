"""A domain's frames, taken apart into batches by position and put together again for each subscriber.

Records are never decoded; of the header only what counting and certificates need.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from telltale import wire
from telltale.api.mesh.v1.batch_pb2 import Delivery, Gap, Header, Position, SealedFrame, Sync
from telltale.errors import LimitExceeded, Unavailable
from telltale.seal.sealing import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES

# Certificates of one domain's stream: leaves of 10,000 sources in two generations, and some to spare.
MAX_CERTIFICATES = 32_768
# Of one frame, which has at most 8 MiB: more than so many real ones do not fit.
MAX_BATCHES = 32_768
_MAX_CERTIFICATES_BYTES = 32 * 1024 * 1024
# What no honest owner reaches, and all subscribers of a stream would pay for, also those of other owners.
_MAX_CERTIFICATE_BYTES = 8 * 1024
_MAX_CHAIN = 8
_MAX_PLACE_BYTES = 1024
# A header, a payload, and what stands beside them.
_MAX_BATCH_BYTES = MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES + 4 * 1024
# The end of the year 9999.
_LAST_SECOND = 253_402_300_799
_BATCHES = SealedFrame.BATCHES_FIELD_NUMBER
_CERTIFICATES = SealedFrame.CERTIFICATES_FIELD_NUMBER
_GAP = SealedFrame.GAP_FIELD_NUMBER
_SYNC = SealedFrame.SYNC_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and the names that tell who signed it."""

    thumbprint: bytes
    der: bytes
    subject: bytes
    issuer: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """A sealed batch in its place, as it stands in a frame: tag, length and bytes."""

    wire: bytes
    log: str
    offset: int
    # The signer's certificate and its issuers; shared by all batches of the signer.
    chain: tuple[Certificate, ...]
    records: int
    # Unix nanoseconds, within what a Timestamp can say; 0 when the batch has none.
    event_time: int
    received_time: int

    def cost(self, before: "Batch | None") -> int:
        """Bytes that it adds to a frame behind another batch, with all of its certificates."""
        chain = () if before is not None and before.chain is self.chain else self.chain
        return len(self.wire) + sum(len(certificate.der) for certificate in chain)


@dataclass(frozen=True, slots=True)
class Missing:
    """The domain says that something can no longer be had here."""

    gap: Gap


@dataclass(frozen=True, slots=True)
class Reached:
    """The domain has sent everything up to this position; what follows is live."""

    log: str
    offset: int


Item = Batch | Missing | Reached


class FrameReader:
    """Takes apart the frames of one stream of one product; remembers the certificates sent on it."""

    def __init__(self, product: str) -> None:
        self._product = product
        self._certificates: dict[bytes, Certificate] = {}
        self._certificates_bytes = 0
        self._by_subject: dict[bytes, list[Certificate]] = {}
        self._chains: dict[bytes, tuple[Certificate, ...]] = {}

    def read(self, data: bytes) -> Iterator[Item]:
        """The frame's items in order; raises Unavailable when the domain breaks the format.

        Raises LimitExceeded when the stream carried too many certificates: on a new stream the domain
        sends again those that are still needed.
        """
        if wire.has_more_fields(data, MAX_BATCHES + MAX_CERTIFICATES):
            # Told before it is parsed: 8 MiB of empty batches would become 360 MiB.
            raise self._broken(f"more than {MAX_BATCHES + MAX_CERTIFICATES} batches and certificates")
        try:
            frame = SealedFrame.FromString(data)
            for der in frame.certificates:
                self._learn(der)
            if frame.HasField("gap"):
                yield Missing(self._own(frame.gap))
            for batch in frame.batches:
                header = Header.FromString(batch.header)
                delivery = Delivery.FromString(batch.delivery)
                if header.product != self._product or not delivery.log or not delivery.offset:
                    raise self._broken(
                        f"a batch of {header.product[:100]!r} without a place, or of another product"
                    )
                data = batch.SerializeToString()
                if len(data) > _MAX_BATCH_BYTES or len(batch.delivery) > _MAX_PLACE_BYTES:
                    raise self._broken(f"a batch of {len(data)} bytes, {len(batch.delivery)} for its place")
                yield Batch(
                    wire=wire.field(_BATCHES, data),
                    log=delivery.log,
                    offset=delivery.offset,
                    chain=self._chain(header.signer_sha256),
                    records=header.record_count,
                    # A source's clock may be anywhere; it was not later than the owner's when this arrived.
                    event_time=min(
                        _nanoseconds(header.last_event_time), _nanoseconds(delivery.received_time)
                    ),
                    received_time=_nanoseconds(delivery.received_time),
                )
            if frame.HasField("sync"):
                yield self._reached(frame.sync.position)
        except (DecodeError, ValueError, x509.InvalidVersion) as broken:
            raise self._broken(str(broken)) from None

    def _own(self, gap: Gap) -> Gap:
        if gap.product not in ("", self._product) or gap.ByteSize() > _MAX_PLACE_BYTES:
            raise self._broken(f"a gap of {gap.ByteSize()} bytes of the product {gap.product[:100]!r}")
        return gap

    def _reached(self, position: Position) -> Reached:
        if not position.log or position.ByteSize() > _MAX_PLACE_BYTES:
            raise self._broken(
                f"a sync mark of {position.ByteSize()} bytes, at the log {position.log[:100]!r}"
            )
        return Reached(position.log, position.offset)

    def _broken(self, what: str) -> Unavailable:
        return Unavailable(
            f"the owner of {self._product} sent a frame that is not what the contract says: {what}"
        )

    def _learn(self, der: bytes) -> None:
        thumbprint = hashlib.sha256(der).digest()
        if thumbprint in self._certificates:
            return
        if len(der) > _MAX_CERTIFICATE_BYTES:
            raise self._broken(f"a certificate of {len(der)} bytes")
        self._certificates_bytes += len(der)
        if len(self._certificates) >= MAX_CERTIFICATES or self._certificates_bytes > _MAX_CERTIFICATES_BYTES:
            raise LimitExceeded(
                "certificates",
                f"a stream of {self._product} carried {len(self._certificates)} certificates of "
                f"{self._certificates_bytes} bytes in all; open it again",
            )
        parsed = x509.load_der_x509_certificate(der)
        certificate = Certificate(
            thumbprint, der, parsed.subject.public_bytes(), parsed.issuer.public_bytes()
        )
        self._certificates[thumbprint] = certificate
        self._by_subject.setdefault(certificate.subject, []).append(certificate)
        self._chains.clear()

    def _chain(self, signer: bytes) -> tuple[Certificate, ...]:
        """The signer's certificate and those above it; empty when the domain did not send them."""
        chain = self._chains.get(signer)
        if chain is None:
            found: dict[bytes, Certificate] = {}
            above = [self._certificates[signer]] if signer in self._certificates else []
            while above and len(found) < _MAX_CHAIN:
                certificate = above.pop()
                if certificate.thumbprint not in found:
                    found[certificate.thumbprint] = certificate
                    # Two generations of an issuer share its name: whichever signed, it is among them.
                    above.extend(self._by_subject.get(certificate.issuer, ()))
            chain = self._chains[signer] = tuple(found.values())
        return chain


class FrameWriter:
    """Makes the frames of one subscriber's stream, with each certificate before its first use."""

    def __init__(self) -> None:
        self._sent: set[bytes] = set()

    def frame(self, batches: Sequence[Batch], missing: Missing | None = None) -> bytes:
        """One frame: what is missing, then the batches."""
        parts: list[bytes] = []
        if missing is not None:
            parts.append(wire.field(_GAP, missing.gap.SerializeToString()))
        last: tuple[Certificate, ...] | None = None
        for batch in batches:
            # Runs of one signer are the rule; identity of the shared tuple is the cheapest test.
            if batch.chain is not last:
                last = batch.chain
                parts.extend(self._unsent(last))
        parts.extend(batch.wire for batch in batches)
        return b"".join(parts)

    def _unsent(self, chain: tuple[Certificate, ...]) -> Iterator[bytes]:
        if len(self._sent) > MAX_CERTIFICATES:
            # A certificate that comes twice does no harm; a set without bound would.
            self._sent.clear()
        for certificate in chain:
            if certificate.thumbprint not in self._sent:
                self._sent.add(certificate.thumbprint)
                yield wire.field(_CERTIFICATES, certificate.der)


def mark_frame(product: str, reached: Reached) -> bytes:
    """The frame that tells a subscriber where it stands."""
    sync = Sync(position=Position(product=product, log=reached.log, offset=reached.offset))
    return wire.field(_SYNC, sync.SerializeToString())


def _nanoseconds(time: Timestamp) -> int:
    # By hand: the library raises on a clock that is far off, and one such source would stop its product.
    return min(max(0, time.seconds), _LAST_SECOND) * 1_000_000_000 + min(max(0, time.nanos), 999_999_999)
