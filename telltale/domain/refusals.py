"""Why the log does not take a batch: the sentences for the place that it has, or has not, in its chain."""

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.domain.chains import Place
from telltale.errors import BatchRefused


def refusal(place: Place, header: Header) -> BatchRefused:
    """For a place that is not the next one."""
    return _REFUSALS[place](header)


def unready(header: Header, before: int) -> BatchRefused:
    # Taken now, it would make the one before it a hole that nobody needs.
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_UNAVAILABLE,
        f"sequence {before} of {header.product} was not taken yet; send both again, in order",
        final=False,
    )


def _fork(header: Header) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_FORK,
        f"another batch holds sequence {header.sequence} of {header.source}'s chain for {header.product}:"
        " two hosts use one identity; enrol one of them anew",
    )


def _broken(header: Header) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_BROKEN_CHAIN,
        f"sequence {header.sequence} comes after later ones of {header.product} that are stored already",
    )


def _stale(header: Header) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_STALE_EPOCH,
        f"epoch {header.epoch} of {header.product} lies below a known one; ask Chains and start above it",
        final=False,
    )


def _contested(header: Header) -> BatchRefused:
    # Not final: nobody can tell which of the two holders is the right one, so the records of both are kept.
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_FORK,
        f"{header.source} goes on with the chain {header.epoch} for {header.product} although a later one has"
        " begun: two hosts use one identity; enrol one of them anew",
        final=False,
    )


def unknown_schema(header: Header) -> BatchRefused:
    # Nobody had used it for long, and it was forgotten between the look at the batch and now.
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA,
        f"no schema {header.schema_sha256.hex()} is registered here; call Schemas.Register first",
        final=False,
    )


def _ahead(header: Header) -> BatchRefused:
    # Not final: the source begins anew as soon as its clock is right.
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_FUTURE,
        f"epoch {header.epoch} of {header.product} lies more than five minutes ahead of this clock; set the"
        f" clock of {header.source}",
        final=False,
    )


_REFUSALS = {
    Place.FORK: _fork,
    Place.TOO_LATE: _broken,
    Place.STALE: _stale,
    Place.AHEAD: _ahead,
    Place.CONTESTED: _contested,
    Place.DUPLICATE: _broken,
}
