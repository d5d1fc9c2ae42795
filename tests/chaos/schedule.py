"""What a campaign does and when: a pure function of the seed, so that a campaign can be run again."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from telltale.cli.processes import processes

_T = TypeVar("_T")


class Fault(StrEnum):
    """What is done to a target."""

    KILL = "kill"
    STALL = "stall"
    CUT = "cut"
    DELAY = "delay"
    THROTTLE = "throttle"
    HALF_OPEN = "half-open"
    FULL = "full disk"
    FLIP = "flip"
    TRUNCATE = "truncate"


# Members of the mesh by name, and the module that each runs.
MEMBERS = {"authorities": "certs", **{process.name: process.module for process in processes("")}}
EVERYTHING = "everything"
# The first load source, where a fault is of its own disk.
LOAD = "load"
_CONSUMERS = ("gateway", "writer", "analysis")
_DISKS = ("servers", "writer", LOAD)
_DAMAGED = ("servers", LOAD)
# Of so many kills one damaged file, each kind of damage once to each file at the least.
_DAMAGE_EVERY = 8
# Seconds between two kills: some fall into the start of what was killed before, some into steady running.
_PAUSE = (0.4, 3.0)
# A stall, a cut or a slow link lasts so long; a full disk until everybody has noticed.
_LASTS = (0.5, 4.0)
_FULL = (2.0, 5.0)
# Of so many kills one takes the whole machine: every process at the same moment.
_ALL_EVERY = 25


@dataclass(frozen=True)
class Event:
    """One fault. at, seconds: from the start of the campaign, and how long it lasts; a kill takes no time.

    choice: decides what the fault itself leaves open, such as the place of a flipped bit.
    """

    at: float
    fault: Fault
    target: str
    seconds: float = 0.0
    choice: int = 0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:7.2f} s  {self.fault} {self.target}{lasts}"


@dataclass(frozen=True)
class Parts:
    """Which faults a campaign has beside kills and stalls. pace: less than 1 lets kills follow faster."""

    pace: float = 1.0
    half_open: bool = True
    full_disk: bool = True
    damage: bool = True


def schedule(seed: int, kills: int, sources: Sequence[str], parts: Parts) -> tuple[Event, ...]:
    """The events of a campaign, in order of time. `kills` counts the processes that are killed one by one."""
    draw = random.Random(seed)
    victims = _decks(draw, (*MEMBERS, *sources))
    others = _decks(draw, _others(parts))
    events: list[Event] = []
    at = 0.0
    for number in range(1, kills + 1):
        at += draw.uniform(*_PAUSE) * parts.pace
        events.append(Event(at, Fault.KILL, next(victims)))
        if number % _ALL_EVERY == 0:
            at += draw.uniform(*_PAUSE) * parts.pace
            events.append(Event(at, Fault.KILL, EVERYTHING))
        if number % 2 == 0:
            fault, target = next(others)
            lasts = draw.uniform(*(_FULL if fault is Fault.FULL else _LASTS))
            # Beside the kills, so that the two meet in every way.
            events.append(Event(at + draw.uniform(0.0, 2.0), fault, target, lasts, draw.getrandbits(32)))
    return tuple(sorted(events, key=lambda event: event.at))


def damages(seed: int, kills: int, parts: Parts) -> tuple[Event, ...]:
    """The second phase, in order of time: damaged files alone, since they excuse what no other fault does."""
    if not parts.damage:
        return ()
    draw = random.Random(f"damage {seed}")
    all_of_them = [(fault, target) for fault in (Fault.FLIP, Fault.TRUNCATE) for target in _DAMAGED]
    cards = _decks(draw, all_of_them)
    events: list[Event] = []
    at = 0.0
    for _ in range(max(len(all_of_them), kills // _DAMAGE_EVERY)):
        at += draw.uniform(*_PAUSE) * parts.pace
        fault, target = next(cards)
        events.append(Event(at, fault, target, choice=draw.getrandbits(32)))
    return tuple(events)


def _others(parts: Parts) -> tuple[tuple[Fault, str], ...]:
    found = [(Fault.STALL, consumer) for consumer in _CONSUMERS]
    found += [(fault, "link") for fault in (Fault.CUT, Fault.CUT, Fault.DELAY, Fault.THROTTLE)]
    if parts.half_open:
        found.append((Fault.HALF_OPEN, "link"))
    if parts.full_disk:
        found += [(Fault.FULL, disk) for disk in _DISKS]
    return tuple(found)


def _decks(draw: random.Random, cards: Sequence[_T]) -> Iterator[_T]:
    """Every card once in random order, then again: chance alone would leave some out."""
    while True:
        deck = list(cards)
        draw.shuffle(deck)
        yield from deck
