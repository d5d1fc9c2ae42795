"""Equal decisions as one, with their count and the times of the first and the last; bounded in every way."""

from dataclasses import dataclass, replace

from telltale.audit import Decision, place_of

# A stranger may claim anything at any length.
_MAX_TEXT = 512


@dataclass(frozen=True)
class Folded:
    """Equal decisions. Times are Unix nanoseconds."""

    decision: Decision
    first: int
    last: int
    count: int


class _Tally:
    """What is to be told of one decision."""

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.first = self.last = self.count = 0


class Folding:
    """Decisions of one interval, at most `most` different ones. Not for two threads at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[Decision, _Tally] = {}
        # Those of the interval before.
        self._known: frozenset[Decision] = frozenset()
        self._fresh: list[Decision] = []
        # Decisions that found no room.
        self.lost = 0

    def add(self, decision: Decision, now: int) -> bool:
        """Counts one decision; whether it is new: none like it in this interval and the one before."""
        tally = self._open.get(decision)
        if tally is None:
            decision = _bounded(decision)
            tally = self._open.get(decision)
        fresh = False
        if tally is None:
            if len(self._open) >= self._most:
                self.lost += 1
                return False
            tally = self._open[decision] = _Tally()
            if fresh := decision not in self._known:
                self._fresh.append(decision)
        if tally.count == 0:
            tally.first = now
        # The wall clock may have been set back.
        tally.last = max(now, tally.first)
        tally.count += 1
        return fresh

    def take_fresh(self) -> list[Folded]:
        """Those that are new. With this they are told, and what follows of them is counted anew."""
        fresh, self._fresh = self._fresh, []
        return [self._take(decision) for decision in fresh]

    def take_all(self) -> list[Folded]:
        """All that is not told, and begins the next interval."""
        self._fresh.clear()
        taken = [self._take(decision) for decision, tally in self._open.items() if tally.count]
        self._known = frozenset(self._open)
        self._open.clear()
        return taken

    def take_lost(self) -> int:
        """How many decisions found no room, and counts anew."""
        lost, self.lost = self.lost, 0
        return lost

    def _take(self, decision: Decision) -> Folded:
        tally = self._open[decision]
        folded = Folded(decision, tally.first, tally.last, tally.count)
        tally.count = 0
        return folded


def _bounded(decision: Decision) -> Decision:
    """The decision as it is told: every text is short and can be encoded, the address lacks the port."""
    return replace(
        decision,
        action=_told(decision.action),
        principal=_told(decision.principal),
        reason=_told(decision.reason),
        product=_told(decision.product),
        subject=_told(decision.subject),
        peer=_told(decision.peer),
        address=_told(place_of(decision.address)),
    )


def _told(text: str) -> str:
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()
