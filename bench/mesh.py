"""A mesh of the real processes on this machine, with sources and subscribers under load beside them."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.counters import Counters
from bench.load import COUNTERS
from telltale.cli.home import Home
from telltale.cli.processes import Process, free_ports, plan
from telltale.cli.supervisor import ChildStatus, Program, State, Supervisor, last_line, supervising
from telltale.cli.up import prepare
from telltale.naming import OPERATORS

ROOT = Path(__file__).parents[1]
MESH = "telltale.bench"
# Whatever a section waits for has then failed.
_PATIENCE = 90.0


@dataclass(frozen=True)
class Member:
    """A process beside the mesh's own: its name, its module's arguments, and whom it speaks for."""

    name: str
    module: str
    domain: str
    path: str
    arguments: tuple[str, ...] = ()


def source(name: str, *arguments: str) -> Member:
    """A source of the servers domain under load."""
    return Member(name, "bench.load", "servers", f"/agent/{name}", arguments)


def fleet(name: str, agents: int, every: float) -> Member:
    """Simulated agents of the servers domain; they get their identities from its authority's own files."""
    arguments = ("--name", name, "--agents", str(agents), "--every", str(every))
    return Member(name, "bench.fleet", "servers", f"/agent/{name}", arguments)


def subscriber(name: str, *arguments: str) -> Member:
    """A subscriber with the rights of an operator."""
    return Member(name, "bench.reader", OPERATORS, f"/{name}", arguments)


class RunningMesh:
    """The processes of a mesh, by name."""

    def __init__(self, home: Home, programs: Mapping[str, Program]) -> None:
        self.home = home
        self.mesh = MESH
        self._programs = programs
        self._supervisors: list[Supervisor] = []

    @contextlib.asynccontextmanager
    async def running(self, *names: str) -> AsyncIterator[None]:
        """Runs these processes while the body runs; it begins when they have started."""
        async with supervising([self._programs[name] for name in names]) as supervisor:
            self._supervisors.append(supervisor)
            try:
                await self.until(
                    f"{', '.join(names)} run",
                    lambda: all(one.state is State.RUNNING for one in supervisor.statuses()),
                )
                yield
            finally:
                self._supervisors.remove(supervisor)

    def pids(self) -> dict[str, int]:
        """Process id of each process that runs."""
        return {status.name: status.pid for status in self._statuses() if status.pid is not None}

    def counters(self, name: str) -> Counters:
        """What a source or subscriber has counted."""
        return Counters(self.home.state(name) / COUNTERS)

    def check(self) -> None:
        """Raises RuntimeError when a process has died: a figure of such a run would mean nothing."""
        for status in self._statuses():
            if status.restarts or status.detail:
                log = last_line(self.home.logs / f"{status.name}.log")
                raise RuntimeError(f"{status.name} died: {status.detail or log}")

    async def until(self, what: str, true: Callable[[], bool], patience: float = _PATIENCE) -> None:
        """Waits for something; raises RuntimeError when it does not come."""
        deadline = time.monotonic() + patience
        while not true():
            self.check()
            if time.monotonic() > deadline:
                logs = {path.stem: last_line(path) for path in self.home.logs.glob("*.log")}
                raise RuntimeError(f"not within {patience:.0f} s: {what}; last lines of the logs: {logs}")
            await asyncio.sleep(0.1)

    def _statuses(self) -> list[ChildStatus]:
        return [status for supervisor in self._supervisors for status in supervisor.statuses()]


@contextlib.asynccontextmanager
async def running(
    own: Sequence[str], members: Sequence[Member] = (), settings: Mapping[str, str] | None = None
) -> AsyncIterator[RunningMesh]:
    """Runs these of the mesh's own processes, as `telltale up` would; members start when they are asked to.

    settings: environment of all processes, beside what each has to be told.
    """
    # Not in memory: an fsync must cost what it costs.
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as directory:
        home = Home.at(directory)
        home.create()
        (port,) = free_ports(1, but=0)
        planned = plan(home, MESH, port)
        mine = [replace(one, joins=False) for one in planned.processes if one.name in own]
        beside = [
            Process(one.name, one.module, one.domain, one.path, addresses={"TELLTALE_SERVICE": "servers"})
            for one in members
        ]
        planned = replace(planned, processes=(*mine, *beside))
        await prepare(planned)
        home.write_mesh(planned.running())
        arguments = {one.name: one.arguments for one in members}
        for one in members:
            if one.module == "bench.fleet":
                arguments[one.name] += ("--authority", str(home.authority(one.domain)))
        programs = {
            program.name: replace(
                program,
                command=(*program.command, *arguments.get(program.name, ())),
                environment={**program.environment, "PYTHONPATH": str(ROOT), **(settings or {})},
            )
            for program in planned.programs()
        }
        mesh = RunningMesh(home, programs)
        async with mesh.running(*(name for name in programs if name not in arguments)):
            yield mesh
