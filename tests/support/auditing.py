"""An auditor whose record is a list."""

from telltale.audit import Decision


class Recorded:
    """What was decided, in its order."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def of(self, action: str) -> list[Decision]:
        return [decision for decision in self.decisions if decision.action == action]

    def __str__(self) -> str:
        return str(self.decisions)
