"""Does to the processes, the link and the disks what the schedule says."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tests.chaos import disks
from tests.chaos.damage import Damage, flip, truncate
from tests.chaos.link import Link
from tests.chaos.load import SPOOL
from tests.chaos.members import Members
from tests.chaos.schedule import LOAD, Event, Fault
from tests.chaos.witness import BESIDE, Witness

# What was killed comes back within seconds; a fault that finds nobody for so long is missed.
_PATIENCE_SECONDS = 60.0
# For batches to gather in a file that is to be damaged.
_WAITING_SECONDS = 1.0
_SLOW_BYTES_PER_SECOND = 16 << 10
_SLOW_SECONDS = 0.3


_T = TypeVar("_T")


class Missed(Exception):
    """The target of a fault was not there."""


class Faults:
    """Runs events; several may be under way."""

    def __init__(
        self,
        members: Members,
        link: Link,
        witness: Witness,
        small: Mapping[str, Path],
        home: Path,
        loads: Mapping[str, Path],
        say: Callable[[str], None],
    ) -> None:
        """small: the disks that may be filled, by the process whose they are."""
        self._members = members
        self._link = link
        self._witness = witness
        self._small = small
        self._home = home
        self._loads = loads
        self._say = say
        self._killing = 0
        self.done: dict[str, int] = {}

    async def run(self, event: Event) -> None:
        """Begins a fault and, where it lasts, ends it. Raises Missed when its target is never there."""
        match event.fault:
            case Fault.KILL:
                await self._kill(event.target)
            case Fault.STALL:
                await self._stall(event.target, event.seconds)
            case Fault.FULL:
                await self._fill(self._small[event.target], event.seconds)
            case Fault.FLIP | Fault.TRUNCATE:
                await self._damage(event)
            case _:
                await self._disturb(event)
        self.done[event.fault] = self.done.get(event.fault, 0) + 1

    @property
    def down(self) -> int:
        """Targets on the way of the records that were killed, and have not been seen again."""
        return self._killing + len(self._witness.waiting - BESIDE)

    def end(self) -> None:
        """Heals what may still be disturbed."""
        self._link.heal()
        for directory in self._small.values():
            disks.free(directory)

    async def _kill(self, target: str) -> None:
        self._killing += 1
        try:
            await self._met(self._members.kill, target)
            self._witness.killed(target)
        finally:
            self._killing -= 1

    async def _stall(self, target: str, seconds: float) -> None:
        stopped = await self._met(self._members.stop, target)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._members.go_on(stopped)

    @staticmethod
    async def _met(signal: Callable[[str], _T | None], target: str) -> _T:
        """What a signal to a process gives; waits until there is a process."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (met := await asyncio.to_thread(signal, target)):
            if time.monotonic() > deadline:
                raise Missed(f"{target} was not there for {_PATIENCE_SECONDS:.0f} s")
            await asyncio.sleep(0.1)
        return met

    async def _fill(self, directory: Path, seconds: float) -> None:
        await asyncio.to_thread(disks.fill, directory)
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(disks.free, directory)

    async def _damage(self, event: Event) -> None:
        """While batches wait in the file: their consumer is stalled, or their link is cut."""
        target, path = event.target, self._home / "state" / event.target / "log.db"
        consumer = None
        if event.target == LOAD:
            target, directory = next(iter(self._loads.items()))
            path = directory / target / SPOOL
            self._link.cut()
        else:
            consumer = await self._met(self._members.stop, "gateway")
        try:
            await asyncio.sleep(_WAITING_SECONDS)
            damage: Damage = flip if event.fault is Fault.FLIP else truncate
            place = await self._met(
                lambda name: self._members.damage(name, damage, path, event.choice), target
            )
            self._say(f"{event.fault}: {place}")
            self._witness.killed(target)
        finally:
            self._link.heal()
            if consumer is not None:
                self._members.go_on(consumer)

    async def _disturb(self, event: Event) -> None:
        match event.fault:
            case Fault.CUT:
                self._link.cut()
            case Fault.HALF_OPEN:
                self._link.fall_silent()
            case Fault.DELAY:
                self._link.delay = _SLOW_SECONDS
            case Fault.THROTTLE:
                self._link.bytes_per_second = _SLOW_BYTES_PER_SECOND
        try:
            await asyncio.sleep(event.seconds)
        finally:
            self._link.heal()
