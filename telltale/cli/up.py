"""`telltale up`: makes what the mesh needs, runs its processes, and shows how it goes until it shall stop."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from telltale.cli import show
from telltale.cli.dashboard import summary
from telltale.cli.enrolment import certs, has_valid_credentials, mint
from telltale.cli.home import Home, private_directory
from telltale.cli.observe import Observer, observing
from telltale.cli.processes import Plan, join_token, plan
from telltale.cli.screen import Screen, screen
from telltale.cli.supervisor import Supervisor, supervising
from telltale.identity.keys import write_secret
from telltale.settings import IdentitySettings

_LOOK_EVERY = 1.0


async def up(home: Home, *, port: int, seconds: float | None, as_json: bool) -> None:
    """Runs the mesh until a signal, or for some seconds; a run that was timed ends with a summary."""
    deadline = None if seconds is None else time.monotonic() + seconds
    await asyncio.to_thread(home.create)
    with home.locked(), _stopped_by_signals() as stop:
        planned = plan(home, _mesh_name(), port)
        await prepare(planned)
        await asyncio.to_thread(home.write_mesh, planned.running())
        with screen(home, planned, quiet=as_json) as shown:
            async with observing(home) as observer:
                async with supervising(planned.programs()) as supervisor:
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
    await certs("init", *arguments)
    for program in planned.programs():
        await asyncio.to_thread(private_directory, program.directory)
    newcomers = [
        process
        for process in planned.processes
        if not await asyncio.to_thread(
            has_valid_credentials, home.state(process.name), process.spiffe_id(planned.mesh)
        )
    ]
    wanted = [(process.domain, process.path, *process.dns(planned.mesh)) for process in newcomers]
    for process, token in zip(newcomers, await mint(home, wanted) if wanted else [], strict=True):
        await asyncio.to_thread(write_secret, join_token(home, process), token.encode())


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
    return os.environ.get("TELLTALE_MESH") or str(IdentitySettings.model_fields["mesh"].default)
