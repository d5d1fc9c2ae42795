"""`telltale up`: makes what the mesh needs, runs its processes, and shows how it goes until it shall stop."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from telltale.cli import show
from telltale.cli.agent import invite
from telltale.cli.dashboard import summary
from telltale.cli.enrolment import certs, has_valid_credentials, mint
from telltale.cli.home import Home, private_directory
from telltale.cli.observe import Observer, observing
from telltale.cli.processes import Plan, Process, authority, join_token, plan
from telltale.cli.screen import Screen, screen
from telltale.cli.supervisor import Program, Supervisor, listening_ports, supervising
from telltale.errors import ConfigurationError, InvalidInput
from telltale.identity.keys import write_secret
from telltale.identity.newcomer import join
from telltale.naming import PLATFORM, SpiffeId, trust_domain
from telltale.settings import IdentitySettings

_LOOK_EVERY = 1.0
_PAUSE = 0.1


async def up(
    home: Home,
    *,
    address: str,
    port: int,
    people: Path | None = None,
    manifest: Path | None = None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Runs the mesh until a signal, or for some seconds; a run that was timed ends with a summary."""
    deadline = None if seconds is None else time.monotonic() + seconds
    await asyncio.to_thread(home.create)
    with home.locked(), _stopped_by_signals() as stop:
        planned = replace(plan(home, _mesh_name(), port, address, manifest), people=people)
        await prepare(planned)
        await asyncio.to_thread(home.write_mesh, planned.running())
        with screen(home, planned, quiet=as_json) as shown:
            async with observing(home) as observer:
                async with supervising(await programs(planned, observer)) as supervisor:
                    await _watch(supervisor, observer, shown, stop, deadline)
                    last = await observer.look(supervisor.statuses())
                    shown.say("stopping")
            # What was on its way when the sources stopped is stored by now.
            last = await observer.counted_again(last)
    if as_json:
        show.document(last.as_json())
    elif seconds is not None:
        sys.stdout.write(f"{summary(last)}\n")
    if stop.by == signal.SIGINT:
        raise KeyboardInterrupt


async def prepare(planned: Plan) -> None:
    """Authorities, directories, and a join token for every process that cannot start without one."""
    home = planned.home
    arguments = ("--home", str(home.path), "--mesh", planned.mesh, "--domains", *planned.domains)
    arguments = (*arguments, "--renew")
    await certs("init", *arguments)
    for program in planned.programs():
        await asyncio.to_thread(private_directory, program.directory)
    newcomers = [
        process for process in planned.processes if not process.joins and await _is_new(planned, process)
    ]
    wanted = [(process.domain, process.path, *process.dns(planned.mesh)) for process in newcomers]
    for process, token in zip(newcomers, await mint(home, wanted) if wanted else [], strict=True):
        await asyncio.to_thread(write_secret, join_token(home, process), token.encode())


async def programs(planned: Plan, observer: Observer) -> list[Program]:
    """What the supervisor runs. A source joins first, as on any other host: an operator invites it."""
    joining = {
        process.name: process
        for process in planned.processes
        if process.joins and await _is_new(planned, process)
    }
    return [
        replace(program, before=partial(_join, planned, joining[program.name], observer))
        if program.name in joining
        else program
        for program in planned.programs()
    ]


async def _join(planned: Plan, process: Process, observer: Observer) -> None:
    dashboard = await observer.operator()
    address = planned.addresses[authority(process.domain)]
    # The authority starts at the same time; what is not there yet is no failure to be shown.
    while int(address.rpartition(":")[2]) not in listening_ports():  # noqa: ASYNC110 -- /proc tells no event
        await asyncio.sleep(_PAUSE)
    invitation = await invite(dashboard.me, address, process.domain, process.path)
    await join(
        invitation.address,
        invitation.token,
        invitation.root_sha256,
        planned.home.state(process.name),
        # The directory is named after the process: this host may have had another name.
        renamed=True,
    )


async def _is_new(planned: Plan, process: Process) -> bool:
    return not await asyncio.to_thread(
        has_valid_credentials, planned.home.state(process.name), process.spiffe_id(planned.mesh)
    )


async def _watch(
    supervisor: Supervisor, observer: Observer, shown: Screen, stop: "_Stop", deadline: float | None
) -> None:
    while not stop.is_set():
        pause = _LOOK_EVERY if deadline is None else min(_LOOK_EVERY, deadline - time.monotonic())
        if pause <= 0:
            return
        shown.show(await observer.look(supervisor.statuses()))
        await stop.wait(pause)


@dataclass
class _Stop:
    """Whether, and by which signal, this process was told to stop."""

    event: asyncio.Event
    by: signal.Signals | None = None

    def is_set(self) -> bool:
        return self.event.is_set()

    async def wait(self, seconds: float) -> None:
        """Waits for the signal, and not longer than this."""
        try:
            await asyncio.wait_for(self.event.wait(), seconds)
        except TimeoutError:
            return


@contextmanager
def _stopped_by_signals() -> Iterator[_Stop]:
    """The first signal stops in order; the second ends at once, and the children with it."""
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    stop = _Stop(asyncio.Event())

    def received(number: signal.Signals) -> None:
        if stop.is_set() and running is not None:
            running.cancel()
        stop.by = number
        stop.event.set()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, received, number)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _mesh_name() -> str:
    name = os.environ.get("TELLTALE_MESH") or str(IdentitySettings.model_fields["mesh"].default)
    try:
        SpiffeId.parse(f"spiffe://{trust_domain(PLATFORM, name)}/service")
    except InvalidInput:
        raise ConfigurationError(
            f"TELLTALE_MESH: {name[:80]!r} is no mesh; write it like a domain name, such as telltale.internal"
        ) from None
    return name
