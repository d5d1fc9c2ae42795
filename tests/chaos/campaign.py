"""Runs a campaign: a mesh under load, the faults of the schedule, then quiet until everything has arrived."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from telltale.cli.supervisor import Bounds, Program, Supervisor, supervising
from tests.chaos import disks
from tests.chaos.faults import Faults, Missed
from tests.chaos.identities import join
from tests.chaos.link import Link
from tests.chaos.load import SPOOL
from tests.chaos.members import Members
from tests.chaos.schedule import LOAD, Event
from tests.chaos.witness import Witness
from tests.support.running_mesh import ROOT, RunningMesh, environment

# How often memory and the database are looked at.
_LOOK_SECONDS = 0.25
# For everything to arrive after the last fault: keepalive notices a half-open connection after 40 seconds.
_QUIET_SECONDS = 180.0
# Faults meet, and records get through between them all the same, on a slow machine too.
_MOST_DOWN = 2
# While nothing happens somebody wants to know what is waited for.
_TELL_SECONDS = 5.0
# For every agent of a fleet to be heard of again.
_FLEET_SECONDS = 600.0


@dataclass(frozen=True)
class Shape:
    """How much load there is: sources as processes of their own, and the fleet, which comes after the faults.

    every: seconds between two publications of a source. records: of one publication.
    """

    sources: int = 3
    every: float = 0.1
    records: int = 20
    fleet: int = 1_000
    fleet_processes: int = 4
    fleet_every: float = 10.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"load-{number}" for number in range(1, self.sources + 1))


@dataclass
class Outcome:
    """What was done, and how it went until all was quiet."""

    peak_bytes: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    recovery_seconds: dict[str, list[float]] = field(default_factory=dict)
    # Faults whose target was never there.
    missed: list[str] = field(default_factory=list)
    never_recovered: list[str] = field(default_factory=list)
    # Seconds until the first batch of each agent of the fleet was stored: at its start, and after it lost its
    # service and every connection at once.
    fleet_start_seconds: float | None = None
    fleet_reconnect_seconds: float | None = None
    not_quiet: list[str] = field(default_factory=list)


Say = Callable[[str], None]


class Campaign:
    """One campaign in a directory that holds nothing yet."""

    def __init__(self, directory: Path, shape: Shape, *, full_disk: bool) -> None:
        self.home = directory / "home"
        self.loads = {name: directory / "load" / name for name in shape.names}
        self.fleet = [directory / "fleet" / str(number) for number in range(shape.fleet_processes)]
        self._shape = shape
        self._disks: dict[str, Path] = {}
        if full_disk:
            self._disks = {
                "servers": self.home / "state" / "servers",
                "writer": self.home / "state" / "writer",
                LOAD: self.loads["load-1"] / "load-1",
            }

    @property
    def database(self) -> Path:
        return self.home / "state" / "writer" / "telltale.db"

    def prepare(self) -> None:
        """Before the mesh starts: its small disks."""
        for directory in self._disks.values():
            disks.mount(directory)

    def end(self, *, keep: bool) -> None:
        """Takes the small disks away; what lies on them is put where it outlives this process. Blocks."""
        for directory in self._disks.values():
            disks.unmount(directory, keep=keep)

    async def run(
        self, mesh: RunningMesh, events: Sequence[Event], say: Say, outcome: Outcome, *, fleet: bool
    ) -> None:
        """Runs the faults on a mesh that was just started; once more on the same files, when it has ended.

        outcome: what was done and found is added to it. fleet: whether the fleet comes after the faults.
        """
        witness = Witness(self.database)
        service, authority = await asyncio.to_thread(_addresses, mesh)
        places = [(name, directory / name) for name, directory in self.loads.items()]
        await asyncio.to_thread(join, self.home, places)
        started = time.time()
        async with Link(service) as link, self._sources(link.address, authority, self.loads):
            members = Members(mesh.process.pid, self.loads)
            here = await self._until(
                lambda: self._heard(self._shape.names, started), "the first records", say
            )
            if here is None:
                outcome.not_quiet.append("the mesh has not started: see the logs")
                return
            async with _looking(members, witness):
                faults = Faults(members, link, witness, self._disks, self.home, self.loads, say)
                outcome.missed += await self._follow(events, faults, say)
                faults.end()
                say("no more faults: waiting until everybody is back")
                outcome.never_recovered += await self._back(witness, say)
                members.signal_loads(signal.SIGUSR1)
                outcome.not_quiet += await self._arrived(self._spools(self.loads.values()), say)
                if fleet and self._shape.fleet:
                    await self._run_fleet(mesh, members, service, authority, outcome, say)
            _add(outcome.faults, faults.done)
        _add(outcome.kills, members.kills)
        for name, peak in members.peak_bytes.items():
            outcome.peak_bytes[name] = max(peak, outcome.peak_bytes.get(name, 0))
        for name, took in witness.recovered.items():
            outcome.recovery_seconds.setdefault(name, []).extend(took)

    async def _follow(self, events: Sequence[Event], faults: Faults, say: Say) -> list[str]:
        """In order of time; while too many are down the clock of the schedule stands. What was missed."""
        before = 0.0
        missed: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            for event in events:
                await asyncio.sleep(event.at - before)
                before = event.at
                await self._until(lambda: faults.down <= _MOST_DOWN, "less to be down", say)
                say(str(event))
                tasks.create_task(self._one(event, faults, missed))
        return missed

    @staticmethod
    async def _one(event: Event, faults: Faults, missed: list[str]) -> None:
        try:
            await faults.run(event)
        except Missed as failed:
            missed.append(f"{event.fault} {event.target}: {failed}")

    async def _run_fleet(
        self,
        mesh: RunningMesh,
        members: Members,
        service: str,
        authority: str,
        outcome: Outcome,
        say: Say,
    ) -> None:
        size = self._shape.fleet
        names = [f"fleet-{number:04}" for number in range(size)]
        say(f"a fleet of {size} agents starts")
        places = [(name, self.fleet[number % len(self.fleet)] / name) for number, name in enumerate(names)]
        await asyncio.to_thread(join, self.home, places)
        directories = {directory.name: directory for directory in self.fleet if directory.exists()}
        async with self._sources(service, authority, directories, every=self._shape.fleet_every, records=2):
            watching = Members(mesh.process.pid, {f"fleet-{name}": at for name, at in directories.items()})
            async with _looking(watching, Witness(self.database)):
                started = time.time()
                heard = await self._until(
                    lambda: self._heard(names, started), "the fleet", say, _FLEET_SECONDS
                )
                outcome.fleet_start_seconds = heard
                say("the servers' service is killed: the whole fleet reconnects at once")
                killed = time.time()
                watching.kill("servers")
                heard = await self._until(
                    lambda: self._heard(names, killed), "the fleet again", say, _FLEET_SECONDS
                )
                outcome.fleet_reconnect_seconds = heard
                if heard is None:
                    outcome.never_recovered.append("fleet")
                watching.signal_loads(signal.SIGUSR1)
                outcome.not_quiet += await self._arrived(self._spools(directories.values()), say)
        for name, peak in watching.peak_bytes.items():
            members.peak_bytes[name] = max(peak, members.peak_bytes.get(name, 0))
        _add(members.kills, watching.kills)

    @contextlib.asynccontextmanager
    async def _sources(
        self,
        service: str,
        authority: str,
        directories: dict[str, Path],
        every: float | None = None,
        records: int | None = None,
    ) -> AsyncIterator[Supervisor]:
        """A load process for each directory, started again when it dies."""
        programs = []
        for name, directory in directories.items():
            command = (
                *(sys.executable, "-m", "tests.chaos.load", "--directory", str(directory)),
                *("--trust", str(self.home / "trust"), "--authority", authority, "--service", service),
                *("--every", str(every or self._shape.every)),
                *("--records", str(records or self._shape.records)),
            )
            log = directory.parent / f"{name}.log"
            programs.append(Program(name, command, environment(), ROOT, log))
        async with supervising(programs, Bounds(longest_delay=2.0)) as supervisor:
            yield supervisor

    @staticmethod
    def _spools(directories: Iterable[Path]) -> list[Path]:
        return [path for directory in directories for path in sorted(directory.glob(f"*/{SPOOL}"))]

    def _heard(self, hosts: Sequence[str], since: float) -> bool:
        """Whether something that each host sealed after a time is stored."""
        moment = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        try:
            with contextlib.closing(_reading(self.database)) as stored:
                rows = stored.execute(
                    "SELECT DISTINCT source FROM chains"
                    " WHERE product LIKE 'servers.%' AND last_sealed_time > ?",
                    (moment,),
                ).fetchall()
        except sqlite3.Error:
            return False
        return {source.rpartition("/")[2] for (source,) in rows} >= set(hosts)

    async def _back(self, witness: Witness, say: Say) -> list[str]:
        await self._until(lambda: not witness.waiting, "everybody", say)
        return sorted(witness.waiting)

    async def _arrived(self, spools: Sequence[Path], say: Say) -> list[str]:
        """Waits until spools are empty and the ends of their chains are stored; what has not arrived."""
        waiting: list[str] = []

        def look() -> bool:
            waiting[:] = [f"{path.parent.name}: {why}" for path in spools if (why := self._waits(path))]
            return not waiting

        say("waiting until everything has arrived")
        deadline = time.monotonic() + _QUIET_SECONDS
        while await self._until(look, "the last records", say, _TELL_SECONDS) is None:
            say(f"{len(waiting)} of {len(spools)} spools: {waiting[0]}")
            if time.monotonic() > deadline:
                break
        return waiting

    def _waits(self, spool: Path) -> str:
        """What of a spool has not been stored yet; empty when everything has."""
        source = f"%/agent/{spool.parent.name}"
        try:
            with (
                contextlib.closing(_reading(spool)) as kept,
                contextlib.closing(_reading(self.database)) as stored,
            ):
                (batches,) = kept.execute("SELECT count(*) FROM batches").fetchone()
                if batches:
                    return f"{batches} batches wait in its spool"
                for product, epoch, sequence in kept.execute("SELECT product, epoch, sequence FROM chains"):
                    row = stored.execute(
                        "SELECT epoch, sequence FROM chains WHERE product = ? AND source LIKE ?",
                        (product, source),
                    ).fetchone()
                    if row is None or row < (epoch, sequence):
                        return f"{product} {(epoch, sequence)} is not stored; {row} is"
        except sqlite3.Error as failed:
            return str(failed)
        return ""

    async def _until(
        self, look: Callable[[], bool], what: str, say: Say, seconds: float = _QUIET_SECONDS
    ) -> float | None:
        """Seconds until something is so; None when it does not become so."""
        started = time.monotonic()
        while not await asyncio.to_thread(look):
            if time.monotonic() - started > seconds:
                say(f"{what}: not within {seconds:.0f} s")
                return None
            await asyncio.sleep(_LOOK_SECONDS)
        return time.monotonic() - started


@contextlib.asynccontextmanager
async def _looking(members: Members, witness: Witness) -> AsyncIterator[None]:
    async def look() -> None:
        while True:
            await asyncio.to_thread(members.measure)
            await asyncio.to_thread(witness.look)
            await asyncio.sleep(_LOOK_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        yield
        looking.cancel()


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def _addresses(mesh: RunningMesh) -> tuple[str, str]:
    """Where the servers' agents push, and their authority; waits until the mesh has started that far."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while True:
        try:
            file = json.loads((mesh.home / "mesh.json").read_text())
            service = psutil.Process(mesh.pid("services.servers")).environ()["TELLTALE_ADVERTISE"]
            return service, str(file["authorities"]["servers"])
        except (OSError, RuntimeError, psutil.Error, KeyError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2.0)
