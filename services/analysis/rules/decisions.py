"""What the authorities of the mesh have decided about identities, as they tell it in `mesh.audit`."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.analysis.detection import Rule, View
from services.analysis.signals import Signal, Subject
from telltale.contract.product import Contract

AUDIT = "mesh.audit"
_FIELDS = ("action", "subject", "reason", "address", "count")

# An authority's word counts for its own trust domain alone. One row a minute and subject.
_DECIDED = """
SELECT subject, _source, _run, _origin, min(_at) AS first, max(_at) AS last,
       sum(greatest(coalesce("count", 1), 1))::BIGINT AS occurrences,
       arg_min(reason, (_at, _batch)) AS reason,
       string_agg(DISTINCT address, ', ' ORDER BY address) AS addresses
FROM observed
WHERE action = $action AND _source = regexp_extract(subject, '^spiffe://[^/]+') || '/authority'
GROUP BY subject, _source, _run, _origin, _at // 60_000_000
ORDER BY first, subject
"""


@dataclass(frozen=True)
class Decided(Rule):
    """Tells of one action of the authorities, each identity apart."""

    action: str
    # `{entity}` is filled in.
    title: str

    def reads(self, contract: Contract) -> bool:
        known = contract.record.fields_by_name
        return contract.name == AUDIT and all(field in known for field in _FIELDS)

    def records(self, contract: Contract, view: View) -> Iterable[Signal]:
        for row in view.sql.execute(_DECIDED, {"action": self.action}).fetchall():
            subject_id, reporter, run, origin, first, last, occurrences, reason, addresses = row
            subject = Subject.of_source(subject_id, product=AUDIT, run=run)
            yield Signal(
                subject=subject,
                holds=True,
                since=first,
                at=last,
                title=self.title.format(entity=subject.entity),
                evidence=(
                    ("detail", reason),
                    *((("addresses", addresses),) if addresses else ()),
                    ("reported_by", reporter),
                ),
                occurrences=occurrences,
                origin=origin,
            )
