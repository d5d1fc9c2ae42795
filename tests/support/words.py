"""Words of distrust as an authority of a throwaway mesh signs them."""

from datetime import UTC, datetime, timedelta

from telltale.api.mesh.v1.authority_pb2 import SignedDistrustList
from telltale.identity.distrust import DistrustList, Entry
from telltale.identity.distrust_lists import make_list
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId
from tests.support.mesh import Mesh


def word(
    spiffe_id: SpiffeId,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    issued: datetime | None = None,
) -> Entry:
    """Distrusted since a minute ago unless said otherwise; said just now."""
    now = datetime.now(UTC)
    return Entry(spiffe_id, since or now - timedelta(minutes=1), until, "stolen", "console", issued or now)


def signed_list(mesh: Mesh, domain: str, sequence: int, *entries: Entry) -> DistrustList:
    authority = mesh.authorities[domain]
    return make_list(authority.trust_domain, sequence, entries, authority.sign)


def as_sent(made: DistrustList) -> SignedDistrustList:
    return SignedDistrustList(statement=made.statement, entries=made.encoded)


def say(trust: Trust, mesh: Mesh, *entries: Entry) -> None:
    """Lets a process hear words on identities of one domain, beside those that it knows."""
    issuer = entries[0].spiffe_id.trust_domain
    known = trust.distrust.of(issuer)
    before = known.entries if known is not None else ()
    sequence = known.sequence + 1 if known is not None else 1
    domain = issuer.partition(".")[0].replace("-", "_")
    trust.distrust.take(signed_list(mesh, domain, sequence, *before, *entries))


def lift(trust: Trust, mesh: Mesh, spiffe_id: SpiffeId, until: datetime | None = None) -> None:
    """Lets a process hear that a word was lifted."""
    known = trust.distrust.of(spiffe_id.trust_domain)
    assert known is not None
    ended = until or datetime.now(UTC)
    entries = [
        Entry(one.spiffe_id, one.since, ended, one.reason, one.by, one.issued)
        if one.spiffe_id == spiffe_id and one.until is None
        else one
        for one in known.entries
    ]
    domain = spiffe_id.trust_domain.partition(".")[0].replace("-", "_")
    trust.distrust.take(signed_list(mesh, domain, known.sequence + 1, *entries))
