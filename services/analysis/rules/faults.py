"""Batches that do not hold and streams that are broken, whoever noticed: this service or another process.

What others refused comes as records of `mesh.refusals`. Faults of one source and product fold into one
finding until they have been quiet for a while.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.analysis.detection import Fault, Rule, View, Wrong
from services.analysis.signals import Signal, Subject, host_of
from telltale.contract.product import Contract

REFUSALS = "mesh.refusals"
_FIELDS = ("product", "batch_source", "reason", "detail", "peer", "epoch", "sequence")

# One row a minute, source, product and reason: a flood costs no Python per record.
_REFUSED = """
SELECT product, batch_source, peer, coalesce(reason, 'UNSPECIFIED') AS reason, _run, _origin,
       min(_at) AS first, max(_at) AS last, count(*) AS occurrences,
       arg_min({'detail': detail, 'epoch': epoch::TEXT, 'sequence': sequence::TEXT,
                'reported_by': _source}, (_at, _batch)) AS shown
FROM observed WHERE lower(coalesce(reason, 'UNSPECIFIED')) = ANY($wrong)
GROUP BY product, batch_source, peer, reason, _run, _origin, _at // 60_000_000
ORDER BY first, batch_source, peer, product, reason
"""


@dataclass(frozen=True)
class Faults(Rule):
    """Tells of faults of some kinds, each source and product apart."""

    wrong: frozenset[Wrong]
    # `{entity}`, `{source}`, `{product}` and `{wrong}` are filled in.
    title: str

    def reads(self, contract: Contract) -> bool:
        known = contract.record.fields_by_name
        return contract.name == REFUSALS and all(field in known for field in _FIELDS)

    def records(self, contract: Contract, view: View) -> Iterable[Signal]:
        wanted = [wrong.value for wrong in self.wrong]
        for row in view.sql.execute(_REFUSED, {"wrong": wanted}).fetchall():
            product, source, peer, reason, run, origin, first, last, occurrences, shown = row
            facts = tuple((name, value) for name, value in shown.items() if value)
            fault = Fault(
                Wrong.named(reason), product, source, first, "", facts, peer=peer, run=run, origin=origin
            )
            yield self._signal(fault, first, 1)
            if occurrences > 1:
                yield self._signal(fault, last, occurrences - 1)

    def fault(self, fault: Fault, view: View) -> Iterable[Signal]:
        if fault.wrong in self.wrong:
            yield self._signal(fault, fault.at, fault.occurrences)

    def _signal(self, fault: Fault, at: int, occurrences: int) -> Signal:
        # Who handed it in was proven by a handshake; the source is only what the batch claims.
        who = fault.peer or fault.source
        subject = (
            Subject.of_source(who, product=fault.product, run=fault.run)
            if who
            else Subject.of_product(fault.product)
        )
        said = [(name, value) for name, value in (("claimed_source", fault.source), ("detail", fault.detail))]
        return Signal(
            subject=subject,
            holds=True,
            since=fault.at,
            at=at,
            title=self.title.format(
                entity=subject.entity,
                source=host_of(fault.source) or fault.source,
                product=fault.product or "an unknown product",
                wrong=fault.wrong.value.replace("_", " "),
            ),
            evidence=(
                ("reason", fault.wrong.value),
                *(fact for fact in said if fact[1]),
                *fault.evidence,
            ),
            occurrences=occurrences,
            origin=fault.origin,
        )
