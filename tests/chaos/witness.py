"""How long it takes from a kill until the first record that was sealed after it is stored."""

import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.load import TRUST_DOMAIN
from tests.chaos.records import LOADS
from tests.chaos.schedule import EVERYTHING

# Whose records show that a process is back: its own, where none of the load go through it. A process tells
# its own metrics every ten seconds.
_OWN = {
    "agent": ("servers.cpu", f"spiffe://{TRUST_DOMAIN}/agent/%"),
    "analysis": ("mesh.processes", "spiffe://analysis.%/service"),
    "network": ("mesh.processes", "spiffe://network.%/service"),
    "platform": ("mesh.processes", "%"),
    "authorities": ("mesh.processes", "%/authority"),
}
# They are not on the way of the records.
BESIDE = frozenset({"analysis", "network", "platform", "authorities"})
LOAD_SOURCES = f"spiffe://{TRUST_DOMAIN}/agent/load-%"


@dataclass(frozen=True)
class _Kill:
    target: str
    at: float


class Witness:
    """Looks at the writer's database from outside, again and again."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._open: list[_Kill] = []
        # Seconds, by target.
        self.recovered: dict[str, list[float]] = {}

    def killed(self, target: str) -> None:
        self._open.append(_Kill(target, time.time()))

    @property
    def waiting(self) -> frozenset[str]:
        """Targets that have not been seen again."""
        return frozenset(kill.target for kill in self._open)

    def look(self) -> None:
        """Finds what is back by now. Blocks."""
        # Others are killed meanwhile.
        waiting = list(self._open)
        if not waiting:
            return
        try:
            with_database = sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True, timeout=1.0)
        except sqlite3.Error:
            return
        try:
            latest = {kill.target: _latest(with_database, kill.target) for kill in waiting}
        except sqlite3.Error:
            # The writer is being started again.
            return
        finally:
            with_database.close()
        now = time.time()
        for kill in waiting:
            if latest[kill.target] > kill.at:
                self._open.remove(kill)
                self.recovered.setdefault(kill.target, []).append(now - kill.at)


def _latest(database: sqlite3.Connection, target: str) -> float:
    """Unix time at which the latest stored batch that speaks for a target was sealed."""
    product, source = LOADS[0].product, LOAD_SOURCES
    if target.startswith("load-"):
        source = f"spiffe://{TRUST_DOMAIN}/agent/{target}"
    elif target != EVERYTHING:
        product, source = _OWN.get(target, (product, source))
    row = database.execute(
        "SELECT max(last_sealed_time) FROM chains WHERE product = ? AND source LIKE ?", (product, source)
    ).fetchone()
    if row[0] is None:
        return 0.0
    return datetime.fromisoformat(row[0]).replace(tzinfo=UTC).timestamp()
