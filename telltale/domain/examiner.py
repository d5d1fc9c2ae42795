"""Decides on batches as far as that needs no knowledge of their chain: from the signature to the payload."""

from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, RefusalReason
from telltale.contract.product import Contract
from telltale.domain.access import Access
from telltale.domain.cedar import Decision, Principal
from telltale.domain.log import Candidate
from telltale.domain.payload import open_payload
from telltale.domain.products import Products
from telltale.errors import BatchRefused, TelltaleError
from telltale.naming import SpiffeId
from telltale.seal.parts import Parts
from telltale.seal.sealing import MAX_HEADER_BYTES, sha256
from telltale.seal.verify import Verifier, check_owner, open_header


class Examiner:
    """Runs in a thread or, on little, on the event loop; one at a time."""

    def __init__(self, products: Products, access: Access, verifier: Verifier) -> None:
        self._products = products
        self._access = access
        self._verifier = verifier

    def examine(
        self, source: SpiffeId, request: PushRequest, before: dict[str, tuple[int, int]]
    ) -> list[Candidate | tuple[Header, BatchRefused]]:
        """`before`: epoch and sequence of each product's last batch on the same stream; kept up to date."""
        self._verifier.learn(request.certificates)
        now = datetime.now(UTC)
        return [self._examine_one(source, batch, now, before) for batch in request.batches]

    def _examine_one(
        self, source: SpiffeId, sealed: SealedBatch, now: datetime, before: dict[str, tuple[int, int]]
    ) -> Candidate | tuple[Header, BatchRefused]:
        # Exactly the known fields, so that nothing rides along unsigned.
        batch = Parts.of(sealed)
        try:
            header = open_header(batch)
        except BatchRefused as refused:
            return _readable(batch.header), refused
        if header.source != str(source):
            reason = RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE
            foreign = BatchRefused(reason, f"{source} pushes in the name of {header.source}")
            self._deny(source, header, foreign, subject=header.source)
            return header, foreign
        if header.product not in self._products.contracts:
            # Nothing is remembered of it: a source may invent any number of names.
            unknown = _not_permitted(source, "push", header.product)
            self._deny(source, header, unknown)
            return header, unknown
        digest = sha256(batch.header)
        epoch, sequence = before.get(header.product, (0, 0))
        follows = sequence if epoch == header.epoch and sequence < header.sequence else 0
        before[header.product] = header.epoch, header.sequence
        try:
            contract = self._check(batch, header, source, now)
            change = open_payload(contract, header, batch.payload)
        except BatchRefused as refused:
            if not refused.final:
                return header, refused
            # The source itself sent it, so its chain may go on behind it.
            unproven = refused.reason == RefusalReason.REFUSAL_REASON_SIGNATURE
            digest = b"" if unproven else digest
            return Candidate(header, digest, b"", (), refused=refused, follows=follows)
        signer = self._verifier.certificates_of(header)
        return Candidate(header, digest, batch.encode(), signer, change, follows=follows)

    def _deny(self, source: SpiffeId, header: Header, refused: BatchRefused, *, subject: str = "") -> None:
        """Records what no rule of the policy was asked about."""
        decision = Decision(False, refused.detail)
        self._access.record(Principal(source), "push", header.product, decision, subject=subject)

    def _check(self, batch: Parts, header: Header, source: SpiffeId, now: datetime) -> Contract:
        self._verifier.verify(batch, now, header)
        present = self._products.contracts[header.product]
        action = "replay" if header.replay_run else "push"
        if not self._access.allows(Principal(source), action, present):
            raise _not_permitted(source, action, header.product)
        check_owner(header, open_to_all=present.options.open_to_all_trust_domains, mesh=self._access.mesh)
        try:
            return self._products.schema(header.schema_sha256).contract(header.product)
        except TelltaleError as unknown:
            raise BatchRefused(
                RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA,
                f"{unknown}; call Schemas.Register first",
                final=False,
            ) from None


def _not_permitted(source: SpiffeId, action: str, product: str) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_PERMISSION,
        f"{source} lacks the permission `{action}` on {product}; ask the product's owner",
    )


def _readable(data: bytes) -> Header:
    """The header of a refused batch as far as it can be read; empty when it is too large to be looked at."""
    if len(data) > MAX_HEADER_BYTES:
        return Header()
    try:
        return Header.FromString(data)
    except DecodeError:
        return Header()
