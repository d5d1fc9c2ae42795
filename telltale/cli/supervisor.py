"""Keeps a set of programs running: starts them, restarts what dies, stops them in reverse order.

It knows nothing of the mesh, and runs on Linux. A child never outlives it: the kernel kills the children
when the supervisor dies, however it dies. They survive that by design, so SIGKILL is the certain choice.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from telltale.errors import TelltaleError

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Program:
    """What to run. `port` is where it listens once it is ready; None when it binds none.

    `before` has to succeed once before the first start; it is tried again when it raises a TelltaleError.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    port: int | None = None
    before: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Bounds:
    """Seconds and bytes that the supervisor keeps to."""

    first_delay: float = 0.5
    longest_delay: float = 15.0
    # A child that lived this long starts its backoff afresh.
    healthy_after: float = 10.0
    stop_grace: float = 8.0
    log_bytes: int = 16 * 1024 * 1024


class State(StrEnum):
    """Where a child stands."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ChildStatus:
    """One child at one moment. While it waits for its restart, `detail` has its end and its last log line."""

    name: str
    state: State
    pid: int | None = None
    restarts: int = 0
    rss_bytes: int | None = None
    detail: str = ""


class Child:
    """One program and the process that runs it now."""

    def __init__(self, program: Program, bounds: Bounds) -> None:
        self.program = program
        self._bounds = bounds
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._restarts = 0
        self._ended = ""

    def start(self, group: asyncio.TaskGroup) -> None:
        """Keeps the program running in a task of the group, until `stop`."""
        self._task = group.create_task(self._run(), name=self.program.name)

    async def stop(self) -> None:
        """Asks the process to end, kills it when it does not within the grace, and waits for that."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    def status(self, listening: frozenset[int]) -> ChildStatus:
        """The child now. `listening` are the ports that anything on this machine listens on."""
        process = self._process
        if process is None:
            state = State.WAITING if self._ended else State.STARTING
            if self._stopping.is_set():
                state = State.STOPPED
            return ChildStatus(self.program.name, state, None, self._restarts, None, self._ended)
        ready = self.program.port is None or self.program.port in listening
        state = State.RUNNING if ready else State.STARTING
        return ChildStatus(self.program.name, state, process.pid, self._restarts, _rss_bytes(process.pid))

    def bound_log(self) -> None:
        """Keeps the log file within its bound. The process appends, so it goes on at the new start."""
        log = self.program.log
        if log.exists() and log.stat().st_size > self._bounds.log_bytes:
            log.with_suffix(log.suffix + ".1").write_bytes(log.read_bytes())
            os.truncate(log, 0)

    async def _run(self) -> None:
        if self.program.before is not None and not await self._prepared(self.program.before):
            return
        delay = self._bounds.first_delay
        while True:
            started = time.monotonic()
            await self._run_once()
            if time.monotonic() - started >= self._bounds.healthy_after:
                delay = self._bounds.first_delay
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            if self._stopping.is_set():
                return
            delay = min(delay * 2, self._bounds.longest_delay)
            self._restarts += 1

    async def _prepared(self, before: Callable[[], Awaitable[None]]) -> bool:
        """Whether the program may start; False when it shall stop instead."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                preparing = asyncio.ensure_future(before())
                try:
                    await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    if preparing.done():
                        preparing.result()
                        self._ended = ""
                        return True
                except TelltaleError as failed:
                    self._ended = str(failed)
                finally:
                    preparing.cancel()
                    await asyncio.gather(preparing, return_exceptions=True)
                await asyncio.wait({stopping}, timeout=self._bounds.first_delay)
            return False
        finally:
            stopping.cancel()

    async def _run_once(self) -> None:
        log = os.open(self.program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *leashed(self.program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=self.program.environment,
                cwd=self.program.directory,
                # A group of its own: Ctrl-C in the terminal reaches the supervisor only.
                process_group=0,
            )
        except OSError as refused:
            self._ended = f"cannot be started: {refused}"
            return
        finally:
            os.close(log)
        self._process = process
        try:
            code = await self._until_ended(process)
        finally:
            # What the process left behind in its group; the process itself when we are cancelled.
            _kill_group(process.pid)
            self._process = None
        # Who is killed has no last words.
        reason = said(last_line(self.program.log)) if code > 0 else ""
        self._ended = f"{_how_it_ended(code)}: {reason}" if reason else _how_it_ended(code)

    async def _until_ended(self, process: asyncio.subprocess.Process) -> int:
        ended = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.wait({ended}, timeout=self._bounds.stop_grace)
                _kill_group(process.pid)
            return await ended
        finally:
            stopping.cancel()
            ended.cancel()


class Supervisor:
    """The children, in the order in which they depend on each other."""

    def __init__(self, programs: Sequence[Program], bounds: Bounds) -> None:
        self._children = [Child(program, bounds) for program in programs]

    async def run(self) -> None:
        """Starts every child at once and keeps them running; ends after `stop`."""
        async with asyncio.TaskGroup() as group:
            logs = group.create_task(self._bound_logs())
            async with asyncio.TaskGroup() as children:
                for child in self._children:
                    child.start(children)
            logs.cancel()

    async def stop(self) -> None:
        """Stops every child, the last one first: sources drain while those they push to still live."""
        for child in reversed(self._children):
            await child.stop()

    def statuses(self) -> tuple[ChildStatus, ...]:
        """Every child now."""
        listening = listening_ports()
        return tuple(child.status(listening) for child in self._children)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(10)
            for child in self._children:
                await asyncio.to_thread(child.bound_log)


@asynccontextmanager
async def supervising(programs: Sequence[Program], bounds: Bounds | None = None) -> AsyncIterator[Supervisor]:
    """Runs the programs for as long as the context lives."""
    supervisor = Supervisor(programs, bounds or Bounds())
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run(), name="supervisor")
        try:
            yield supervisor
        finally:
            await supervisor.stop()


def leashed(command: Sequence[str]) -> list[str]:
    """The command, bound to this process's life."""
    leash = Path(__file__).with_name("leash.py")
    # -I -S: it needs nothing but the interpreter, and starts in some ten milliseconds.
    return [sys.executable, "-I", "-S", str(leash), str(os.getpid()), *command]


def listening_ports() -> frozenset[int]:
    """TCP ports that this machine listens on, as the kernel lists them: no connection is made to find out."""
    ports: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table, encoding="ascii") as lines:
            ports |= parse_listening(lines.read())
    return frozenset(ports)


def parse_listening(table: str) -> set[int]:
    """Ports in state LISTEN of a /proc/net/tcp table."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"}


def last_line(log: Path) -> str:
    """The last line of a log that is not empty; empty when there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def said(line: str) -> str:
    """A line of a log for people: of a structured one, what happened and why."""
    try:
        entry = json.loads(line)
        words = [entry["event"], *(entry[name] for name in ("reason", "error") if name in entry)]
    except (ValueError, TypeError, LookupError):
        return line
    return ": ".join(str(word) for word in words)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _rss_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None
