"""Agents: what one costs its host beside other exporters, and what a service pays for many of them."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psutil

from bench.forwarding import OWN
from bench.mesh import running
from bench.report import Figure, Section
from telltale.cli.processes import free_ports

_SCRAPE_SECONDS = 15.0
# What happens once at a start is no cost of running.
_SETTLE_SECONDS = 20.0
_MIB = 2**20

METHOD = (
    "The real agent with all collectors at their default intervals; beside it, in the same stretch of"
    " time, prometheus-node-exporter scraped every 15 s and netdata as Debian configures it (every"
    " second), each with its child processes. CPU as a share of one core; resident memory at the end."
)


async def measure(seconds: float) -> Section:
    figures: list[Figure] = []
    absent: list[str] = []
    async with running((*OWN, "agent")) as mesh, AsyncExitStack() as lives:
        measured = {"agent": mesh.pids()["agent"]}
        exporters = {"prometheus-node-exporter": _node_exporter, "netdata": _netdata}
        for name, start in exporters.items():
            program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
            if program is None:
                absent.append(f"{name}: not installed; `apt-get install {name}`")
                continue
            measured[name] = await lives.enter_async_context(start(program))
        await asyncio.sleep(min(_SETTLE_SECONDS, seconds))
        for name in [name for name, pid in measured.items() if not psutil.pid_exists(pid)]:
            absent.append(f"{name}: it ended by itself soon after its start")
            del measured[name]
        before = {name: _cpu_of_tree(pid) for name, pid in measured.items()}
        start_time = time.monotonic()
        await asyncio.sleep(seconds)
        mesh.check()
        took = time.monotonic() - start_time
        for name, pid in measured.items():
            ours = name == "agent"
            share = (_cpu_of_tree(pid) - before[name]) / took * 100
            figures.append(Figure(f"CPU of {name}", share, "% of a core", "0.5" if ours else ""))
            figures.append(
                Figure(f"memory of {name}", _memory_of_tree(pid) / _MIB, "MiB", "60" if ours else "")
            )
    return Section("agents", METHOD, figures, absent)


@asynccontextmanager
async def _node_exporter(program: str) -> AsyncIterator[int]:
    (port,) = free_ports(1, but=0)
    async with _running(program, f"--web.listen-address=127.0.0.1:{port}") as pid:
        scraping = asyncio.create_task(_scrape_for_ever(f"http://127.0.0.1:{port}/metrics"))
        try:
            yield pid
        finally:
            scraping.cancel()
            await asyncio.gather(scraping, return_exceptions=True)


@asynccontextmanager
async def _netdata(program: str) -> AsyncIterator[int]:
    (port,) = free_ports(1, but=0)
    with tempfile.TemporaryDirectory() as directory:
        if os.geteuid() == 0:
            # Started by root it becomes a user of its own.
            shutil.chown(directory, "netdata")
        # Its own directories, so that it neither meets one that runs already nor leaves anything behind.
        places = ("cache directory", "lib directory", "log directory")
        options = [
            part for place in places for part in ("-W", "set", "directories", place.split()[0], directory)
        ]
        async with _running(program, "-D", "-i", "127.0.0.1", "-p", str(port), *options) as pid:
            yield pid


@asynccontextmanager
async def _running(*command: str) -> AsyncIterator[int]:
    """Runs a program and its children while the body runs; yields its process id."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _scrape_for_ever(url: str) -> None:
    while True:
        await asyncio.sleep(_SCRAPE_SECONDS)
        await asyncio.to_thread(_scrape, url)


def _scrape(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- a URL of our own
        answer.read()


def _cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process, its children that live and those that it has waited for."""
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _memory_of_tree(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            total += one.memory_info().rss
    return total
