"""A campaign's result as a table for people and as JSON for machines."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import Outcome
from tests.chaos.comparison import Comparison
from tests.chaos.schedule import Event

# Differences of one kind that are printed; the JSON has as many.
_MOST_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """Everything that a campaign has found."""

    seed: int
    events: Sequence[Event]
    seconds: float
    outcome: Outcome
    # By phase: after the faults strictly, after the damage with what damage excuses.
    comparisons: Mapping[str, Comparison]
    left_out: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether the promise was kept, and everybody came back."""
        outcome = self.outcome
        kept = bool(self.comparisons) and all(one.holds for one in self.comparisons.values())
        return kept and not (outcome.missed or outcome.never_recovered or outcome.not_quiet)

    def as_json(self) -> str:
        document: dict[str, Any] = {
            "seed": self.seed,
            "holds": self.holds,
            "seconds": round(self.seconds, 1),
            "kills": sum(self.outcome.kills.values()),
            "outcome": asdict(self.outcome),
            "comparisons": {
                phase: {
                    **asdict(found),
                    **{name: len(differences) for name, differences in found.broken.items()},
                    "first": {name: some[:_MOST_SHOWN] for name, some in found.broken.items()},
                }
                for phase, found in self.comparisons.items()
            },
            "left_out": list(self.left_out),
            "schedule": [str(event) for event in self.events],
        }
        return json.dumps(document, indent=2)

    def print(self, console: Console) -> None:
        self._print_processes(console)
        self._print_counts(console)
        for line in self.left_out:
            console.print(f"left out: {line}", style="yellow")
        for line in (*self.outcome.not_quiet, *self.outcome.never_recovered):
            console.print(f"not back: {line}", style="red", markup=False)
        for line in self.outcome.missed:
            console.print(f"missed: {line}", style="red", markup=False)
        for phase, found in self.comparisons.items():
            for promise, differences in found.broken.items():
                for line in differences[:_MOST_SHOWN]:
                    console.print(f"{promise} after {phase}: {line}", style="red", markup=False)
        verdict = "kept" if self.holds else "BROKEN"
        console.print(f"seed {self.seed}: the promise was {verdict}", style="green" if self.holds else "red")

    def _print_processes(self, console: Console) -> None:
        table = Table("process", "kills", "back after (median)", "at most", "peak memory")
        outcome = self.outcome
        for name in sorted({*outcome.kills, *outcome.peak_bytes, *outcome.recovery_seconds}):
            took = outcome.recovery_seconds.get(name, [])
            table.add_row(
                name,
                str(outcome.kills.get(name, "")),
                f"{statistics.median(took):.1f} s" if took else "",
                f"{max(took):.1f} s" if took else "",
                f"{outcome.peak_bytes[name] / 1e6:.0f} MB" if name in outcome.peak_bytes else "",
            )
        console.print(table)

    def _print_counts(self, console: Console) -> None:
        outcome = self.outcome
        table = Table("what", "count")
        for name, count in outcome.faults.items():
            table.add_row(f"fault: {name}", str(count))
        table.add_row("kills", str(sum(outcome.kills.values())))
        for label, seconds in (
            ("fleet: all heard of after its start", outcome.fleet_start_seconds),
            ("fleet: all heard of again after its service was killed", outcome.fleet_reconnect_seconds),
        ):
            if seconds is not None:
                table.add_row(label, f"{seconds:.1f} s")
        console.print(table)
        compared = Table("compared", *(f"after {phase}" for phase in self.comparisons))
        counts = [_counts(found) for found in self.comparisons.values()]
        for label in counts[0] if counts else ():
            compared.add_row(label, *(f"{one[label]:,}" for one in counts))
        console.print(compared)


def _counts(found: Comparison) -> dict[str, int]:
    return {
        "chains": found.chains,
        "batches stored": found.batches_stored,
        "load records sealed": found.records_sealed,
        "load records in doubt (killed or refused while being sealed)": found.records_in_doubt,
        "load records stored": found.records_stored,
        "records missing, and declared": found.records_declared_lost,
        "records missing where damage shows": found.records_excused,
        "batches declared lost": found.batches_declared_lost,
        "in quarantine": found.quarantined,
        "gaps": found.gaps,
        **{name: len(differences) for name, differences in found.broken.items()},
    }
