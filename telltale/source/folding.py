"""Equal decisions as one, with their count and the times of the first and the last; bounded in every way."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

from telltale.audit import Decision, neighbourhood_of, place_of

# A stranger may claim anything at any length.
_MAX_TEXT = 512

_Key = tuple[object, ...]


class _Caller(NamedTuple):
    """Whom a decision is on."""

    # Empty for a stranger.
    peer: str
    # The identity whose rights count; of a stranger the address, because the identity is theirs to invent.
    who: str


# Those who have no place of their own any more.
_MANY = _Caller("", "")


@dataclass(frozen=True)
class Room:
    """How many different decisions are kept apart in one interval."""

    # Of all callers together, beside the first one of each.
    shared: int
    # Of one caller. What is beyond is told as one.
    of_one: int
    # Callers whose decisions are told with their names.
    callers: int


@dataclass(frozen=True)
class Folded:
    """Equal decisions. Times are Unix nanoseconds."""

    decision: Decision
    first: int
    last: int
    count: int


class _Tally:
    """What is to be told of one decision."""

    __slots__ = ("count", "decision", "first", "last")

    def __init__(self, decision: Decision) -> None:
        # The first of its kind, as an example of what callers have written.
        self.decision = decision
        self.first = self.last = self.count = 0


class Folding:
    """Decisions of one interval. Not for two threads at once.

    No caller keeps out another: the first decision on each has a place of its own, more of them share a room
    of which nobody has all, and what finds no place is still counted, under the caller's name.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._open: dict[_Key, _Tally] = {}
        # Different decisions on each caller.
        self._callers: Counter[_Caller] = Counter()
        self._shared = 0
        # Those of the interval before.
        self._known: frozenset[_Key] = frozenset()
        self._fresh: list[_Key] = []

    def add(self, decision: Decision, now: int) -> bool:
        """Counts one decision; whether it is new: none like it in this interval and the one before."""
        key = _key(decision)
        tally = self._open.get(key)
        if tally is None:
            decision = _bounded(decision)
            key = _key(decision)
            tally = self._open.get(key)
        if tally is None and not self._has_place(caller := _caller(decision)):
            # Whatever callers invent, there are no more of these than callers and actions.
            caller = caller if caller in self._callers else _MANY
            key = (caller, decision.action, decision.allowed)
            tally = self._open.get(key)
            if tally is None:
                decision = self._crowded(decision, caller)
        fresh = False
        if tally is None:
            tally = self._open[key] = _Tally(decision)
            if fresh := key not in self._known:
                self._fresh.append(key)
        if tally.count == 0:
            tally.first = now
        # The wall clock may have been set back.
        tally.last = max(now, tally.first)
        tally.count += 1
        return fresh

    def _has_place(self, caller: _Caller) -> bool:
        """Takes a place for one more decision on the caller, where there is one."""
        if caller not in self._callers:
            if len(self._callers) >= self._room.callers:
                return False
        elif self._callers[caller] >= self._room.of_one or self._shared >= self._room.shared:
            return False
        else:
            self._shared += 1
        self._callers[caller] += 1
        return True

    def _crowded(self, decision: Decision, caller: _Caller) -> Decision:
        """What a decision without a place is told as: one of many on its caller, or on many callers."""
        if caller is _MANY:
            many = f"more than {self._room.callers} callers within a minute; those beyond are told as one"
            return Decision(decision.action, decision.allowed, "", many)
        many = "one of many different decisions on this caller within a minute; the first of them: "
        told = replace(decision, product="", subject="", rules=(), reason=_told(many + decision.reason))
        return told if decision.peer else replace(told, principal="", address=caller.who)

    def take_fresh(self) -> list[Folded]:
        """Those that are new. With this they are told, and what follows of them is counted anew."""
        fresh, self._fresh = self._fresh, []
        return [self._take(self._open[key]) for key in fresh]

    def take_all(self) -> list[Folded]:
        """All that is not told, and begins the next interval."""
        self._fresh.clear()
        taken = [self._take(tally) for tally in self._open.values() if tally.count]
        self._known = frozenset(self._open)
        self._open.clear()
        self._callers.clear()
        self._shared = 0
        return taken

    def _take(self, tally: _Tally) -> Folded:
        folded = Folded(tally.decision, tally.first, tally.last, tally.count)
        tally.count = 0
        return folded


def _key(decision: Decision) -> _Key:
    """What equal decisions have in common. Where a reason quotes its caller, it is not part of that."""
    return (
        decision.principal,
        decision.product,
        decision.action,
        decision.allowed,
        decision.subject,
        decision.peer,
        decision.address,
        decision.rules,
        decision.kind or decision.reason,
    )


def _caller(decision: Decision) -> _Caller:
    if decision.peer:
        return _Caller(decision.peer, decision.principal)
    return _Caller("", neighbourhood_of(decision.address) or decision.principal)


def _bounded(decision: Decision) -> Decision:
    """The decision as it is told: every text is short and can be encoded, the address lacks the port."""
    # Not by `replace`, which looks at every field: in a flood each decision comes here.
    return Decision(
        action=_told(decision.action),
        allowed=decision.allowed,
        principal=_told(decision.principal),
        reason=_told(decision.reason),
        product=_told(decision.product),
        subject=_told(decision.subject),
        peer=_told(decision.peer),
        address=_told(place_of(decision.address)),
        rules=decision.rules,
        kind=decision.kind,
    )


def _told(text: str) -> str:
    if len(text) <= _MAX_TEXT and text.isascii():
        return text
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()
