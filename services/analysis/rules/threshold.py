"""A value that stays too high: raised at one limit for a time, cleared below another."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.analysis.detection import Rule, View
from services.analysis.records import quoted
from services.analysis.rules.stretches import TABLE, Fold, Stretch, Stretches
from services.analysis.signals import Signal
from services.analysis.thresholds import Limit, Thresholds
from telltale.api.mesh.v1.product_pb2 import Role
from telltale.contract.product import Contract
from telltale.naming import matches


@dataclass(frozen=True)
class Threshold(Rule):
    """Reads a number of every product that a pattern names and that has the fields."""

    products: tuple[str, ...]
    # Fields that the records must have, and an SQL expression over them.
    fields: tuple[str, ...]
    value: str
    unit: str
    limit: Callable[[Thresholds], Limit]
    # What the title says of it: `{part} is {value:.0%} full`.
    title: str
    # SQL condition on the records that count.
    where: str = "TRUE"
    # Fields shown as evidence, where the records have them.
    evidence: tuple[str, ...] = ()

    tables = (TABLE,)

    def reads(self, contract: Contract) -> bool:
        known = contract.record.fields_by_name
        return matches(contract.name, self.products) and all(field in known for field in self.fields)

    def records(self, contract: Contract, view: View) -> Iterable[Signal]:
        limit = self.limit(view.thresholds)
        stretches = Stretches(view.sql, view.detection.name)
        for stretch in stretches.fold(contract.name, self._fold(contract), limit):
            yield from self._tell(stretch, limit)

    def clock(self, now: int, view: View) -> Iterable[Signal]:
        limit = self.limit(view.thresholds)
        for stretch in Stretches(view.sql, view.detection.name).vanished(view.thresholds.silence_factor):
            if stretch.told:
                over = {
                    "at": stretch.latest,
                    "value": stretch.peak,
                    "evidence": {"ended": "its source no longer tells of it"},
                }
                yield self._end(stretch, over, stretch.told, limit)

    def _fold(self, contract: Contract) -> Fold:
        hosts = contract.fields_with(Role.ROLE_ENTITY_HOST)
        keys = [quoted(field) for field in contract.key_fields if field not in hosts]
        shown = [field for field in self.evidence if field in contract.record.fields_by_name]
        packed = ", ".join(f"'{field}': {quoted(field)}::TEXT" for field in shown)
        return Fold(
            host=f"coalesce(nullif({quoted(hosts[0])}, ''), _host)" if hosts else "_host",
            part=f"concat_ws(' ', {', '.join(keys)})" if keys else "''",
            value=self.value,
            evidence=f"{{{packed}}}" if shown else "NULL",
            where=self.where,
        )

    def _tell(self, stretch: Stretch, limit: Limit) -> Iterable[Signal]:
        told = stretch.told
        if not told and stretch.raised is not None:
            told = stretch.raised["seen"]
            yield self._signal(stretch, stretch.raised, True, limit.raise_at, told)
        if told and stretch.cleared is not None:
            yield self._end(stretch, stretch.cleared, told, limit)

    def _end(self, stretch: Stretch, row: Mapping[str, Any], told: int, limit: Limit) -> Signal:
        peak = ("peak", f"{stretch.peak:g}")
        return self._signal(stretch, row, False, limit.clear_at, stretch.seen - told, peak)

    def _signal(
        self,
        stretch: Stretch,
        row: Mapping[str, Any],
        holds: bool,
        threshold: float,
        occurrences: int,
        *facts: tuple[str, str],
    ) -> Signal:
        subject = stretch.subject()
        shown = [(name, value) for name, value in (row["evidence"] or {}).items() if value is not None]
        return Signal(
            subject=subject,
            holds=holds,
            since=stretch.since,
            at=row["at"],
            title=self.title.format(part=subject.part, entity=subject.entity, value=row["value"]),
            evidence=(*facts, *shown),
            value=row["value"],
            threshold=threshold,
            unit=self.unit,
            occurrences=occurrences,
            origin=stretch.origin,
        )
