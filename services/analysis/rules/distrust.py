"""Identities that their own trust domain distrusts: a finding from the word until it is lifted."""

from collections.abc import Iterable

from services.analysis.clock import micros
from services.analysis.detection import Rule, View
from services.analysis.signals import Signal, Subject

_OPEN = "SELECT source, since FROM episodes WHERE detection = ?"


class Distrusted(Rule):
    """Tells each word once, and its end."""

    def words(self, view: View) -> Iterable[Signal]:
        open_since: dict[str, int] = dict(view.sql.execute(_OPEN, [view.detection.name]).fetchall())
        holding = {str(entry.spiffe_id): entry for entry in view.distrust.entries if entry.until is None}
        for source, since in open_since.items():
            # Those beyond the bound share one finding, which has no source; it stays.
            if source and source not in holding:
                lifted = [
                    micros(entry.until)
                    for entry in view.distrust.entries
                    if str(entry.spiffe_id) == source and entry.until is not None
                ]
                subject = Subject.of_source(source)
                title = f"{subject.entity} is believed again, with new keys"
                yield Signal(subject, False, since, max(lifted, default=since), title, occurrences=0)
        for source, entry in holding.items():
            if source not in open_since:
                subject = Subject.of_source(source)
                said = micros(entry.issued)
                yield Signal(
                    subject=subject,
                    holds=True,
                    since=said,
                    at=said,
                    title=f"{subject.entity} is not believed: its trust domain distrusts it",
                    evidence=(
                        ("distrusted_since", entry.since.isoformat()),
                        ("by", entry.by),
                        *((("reason", entry.reason),) if entry.reason else ()),
                    ),
                )
