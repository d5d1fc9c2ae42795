"""The supervisor with small real programs: restart, last words, order of stopping, no orphans."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from telltale.cli.supervisor import (
    Bounds,
    Child,
    ChildStatus,
    Program,
    State,
    Supervisor,
    last_line,
    parse_listening,
    said,
    supervising,
)
from telltale.errors import Unavailable

_T = TypeVar("_T")
SLEEP = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print('up', flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True:
    signal.pause()
"""
QUICK = Bounds(first_delay=0.05, longest_delay=0.1, stop_grace=5.0)


def program(directory: Path, name: str, script: str, port: int | None = None) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-I", "-c", script),
        environment={"PATH": os.environ["PATH"]},
        directory=directory,
        log=directory / f"{name}.log",
        port=port,
    )


async def eventually(holds: Callable[[], _T | None]) -> _T:
    async with asyncio.timeout(20):
        while True:
            if found := holds():
                return found
            await asyncio.sleep(0.02)


async def until(supervisor: Supervisor, holds: Callable[[ChildStatus], bool]) -> ChildStatus:
    return await eventually(lambda: next(filter(holds, supervisor.statuses()), None))


async def logged(log: Path, text: str) -> str:
    def reads() -> str | None:
        content = log.read_text() if log.exists() else ""
        return content if text in content else None

    return await eventually(reads)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_killed_child_comes_back(tmp_path: Path) -> None:
    async with supervising([program(tmp_path, "sleeper", SLEEP)], QUICK) as supervisor:
        first = await until(supervisor, lambda child: child.state is State.RUNNING)
        assert first.pid is not None
        assert first.rss_bytes is not None and first.rss_bytes > 0
        os.kill(first.pid, signal.SIGKILL)
        second = await until(supervisor, lambda child: child.restarts == 1 and child.pid is not None)
        assert second.pid != first.pid


async def test_a_child_that_cannot_start_shows_its_last_log_line(tmp_path: Path) -> None:
    script = "import sys\nprint('no disk: attach one', file=sys.stderr)\nsys.exit(2)"
    async with supervising([program(tmp_path, "broken", script)], QUICK) as supervisor:
        status = await until(supervisor, lambda child: child.state is State.WAITING and child.restarts > 1)
    assert status.detail == "exited with code 2: no disk: attach one"


async def test_what_has_to_come_before_is_tried_until_it_succeeds_and_then_never_again(
    tmp_path: Path,
) -> None:
    tries: list[int] = []

    async def before() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise Unavailable("nobody answers yet")

    waiting = replace(program(tmp_path, "late", SLEEP), before=before)
    async with supervising([waiting], QUICK) as supervisor:
        first = await until(supervisor, lambda status: status.state is not State.STARTING)
        assert first.state is State.RUNNING or first.detail == "nobody answers yet"
        running = await until(supervisor, lambda status: status.state is State.RUNNING)
        assert running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        await until(supervisor, lambda status: status.state is State.RUNNING and status.restarts == 1)
    assert tries == [0, 1, 2]


async def test_a_child_that_waits_for_what_comes_before_can_be_stopped(tmp_path: Path) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async with supervising([replace(program(tmp_path, "late", SLEEP), before=never)], QUICK) as supervisor:
        await until(supervisor, lambda status: status.state is State.STARTING)
    assert supervisor.statuses()[0].state is State.STOPPED
    assert not (tmp_path / "late.log").exists()


async def test_a_missing_program_is_said_not_raised(tmp_path: Path) -> None:
    missing = Program("missing", ("/nonexistent/program",), {}, tmp_path, tmp_path / "missing.log")
    async with supervising([missing], QUICK) as supervisor:
        status = await until(supervisor, lambda child: child.state is State.WAITING and bool(child.detail))
    assert status.detail.endswith("cannot run /nonexistent/program: No such file or directory")


async def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = (
        "import signal, sys\n"
        "def end(*_):\n    open({order!r}, 'a').write({name!r} + ' ')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nsignal.pause()"
    )
    names = ("one", "two", "three")
    programs = [program(tmp_path, name, script.format(order=str(order), name=name)) for name in names]
    async with supervising(programs, QUICK):
        for name in names:
            await logged(tmp_path / f"{name}.log", "up")
    assert order.read_text() == "three two one "


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    bounds = Bounds(stop_grace=0.2)
    async with supervising([program(tmp_path, "stubborn", STUBBORN)], bounds) as supervisor:
        await logged(tmp_path / "stubborn.log", "up")
        pid = supervisor.statuses()[0].pid
        assert pid is not None
    assert not alive(pid)


async def test_a_grandchild_does_not_outlive_its_group(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-I', '-c', 'import signal; signal.pause()'])\n"
        "print(child.pid, 'up', flush=True)\nsignal.pause()"
    )
    async with supervising([program(tmp_path, "parent", script)], QUICK):
        words = await logged(tmp_path / "parent.log", "up")
        grandchild = int(words.split()[0])
        assert alive(grandchild)
    await eventually(lambda: not alive(grandchild))


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, sys
from pathlib import Path
from telltale.cli.supervisor import Program, supervising
async def main():
    directory = Path({str(tmp_path)!r})
    command = (sys.executable, "-I", "-c", {STUBBORN!r})
    program = Program("stubborn", command, {{}}, directory, directory / "stubborn.log")
    async with supervising([program]) as supervisor:
        while not program.log.exists() or not program.log.read_text():
            await asyncio.sleep(0.02)
        print(supervisor.statuses()[0].pid, flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert alive(child)
        supervisor.kill()
    asyncio.run(eventually(lambda: not alive(child)))


async def test_a_child_is_running_when_it_listens_on_its_port(tmp_path: Path) -> None:
    script = (
        "import pathlib, signal, socket, sys, time\n"
        "listener = socket.socket()\nlistener.bind(('127.0.0.1', int(sys.argv[1])))\n"
        "print('bound', flush=True)\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "listener.listen()\nsignal.pause()"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = program(tmp_path, "server", script, port)
    child = Program(child.name, (*child.command, str(port)), child.environment, tmp_path, child.log, port)
    async with supervising([child], QUICK) as supervisor:
        await logged(child.log, "bound")
        assert supervisor.statuses()[0].state is State.STARTING
        (tmp_path / "go").touch()
        await until(supervisor, lambda status: status.state is State.RUNNING)


async def test_a_log_stays_within_its_bound(tmp_path: Path) -> None:
    child = Child(program(tmp_path, "noisy", SLEEP), Bounds(log_bytes=10))
    child.program.log.write_text("x" * 100)
    child.bound_log()
    assert child.program.log.read_text() == ""
    assert (tmp_path / "noisy.log.1").read_text() == "x" * 100


def test_listening_ports_are_read_from_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue\n"
        "   0: 0100007F:1D13 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:C350 0100007F:1D13 01 00000000:00000000\n"
        "   2: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0\n"
    )
    assert parse_listening(table) == {0x1D13, 0x1F90}


@pytest.mark.parametrize(("text", "line"), [("", ""), ("a\nb\n\n", "b"), ("only", "only")])
def test_the_last_line_of_a_log_is_the_last_that_says_something(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log") == line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"reason": "no disk", "event": "cannot go on", "level": "error"}', "cannot go on: no disk"),
        ('{"event": "stopped"}', "stopped"),
        ('{"level": "error"}', '{"level": "error"}'),
        ("[1]", "[1]"),
        ("no disk: attach one", "no disk: attach one"),
        ("", ""),
    ],
)
def test_a_structured_line_is_told_in_words(line: str, words: str) -> None:
    assert said(line) == words
