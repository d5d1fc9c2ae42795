"""Blocking calls beside the loop."""

import asyncio
import subprocess
import sys
import threading

import pytest

from agent.threads import Threads


async def test_results_and_failures_come_back() -> None:
    threads = Threads()
    assert await threads.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_one_thread_serves_calls_in_turn() -> None:
    threads = Threads()
    assert len({await threads.run(threading.get_ident) for _ in range(20)}) == 1


async def test_no_more_calls_run_at_once_than_there_are_lanes() -> None:
    threads = Threads(lanes=2, patience=60.0)
    running, most, lock, gate = 0, 0, threading.Lock(), threading.Barrier(2)

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(20)
        with lock:
            running -= 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(threads.run(call))
    assert most == 2


async def test_a_call_that_hangs_leaves_its_lane_to_others() -> None:
    threads, let_go = Threads(lanes=1, patience=0.01), threading.Event()
    hanging = asyncio.create_task(threads.run(let_go.wait))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert await threads.run(lambda: "done") == "done"
    assert not hanging.done()
    let_go.set()
    assert await hanging


def test_a_call_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from agent.threads import Threads
async def main():
    hanging = asyncio.create_task(Threads().run(threading.Event().wait))
    await asyncio.sleep(0)
    hanging.cancel()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
