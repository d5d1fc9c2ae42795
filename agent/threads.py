"""Blocking calls on a few daemon threads, so that a call which never returns holds up nothing else.

The standard executor joins its threads when the interpreter ends: one hanging mount would keep the agent from
stopping.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Call(NamedTuple):
    function: Callable[[], Any]
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class Threads:
    """Runs `lanes` calls at a time; one that takes longer than `patience` seconds no longer counts."""

    def __init__(self, lanes: int = 2, patience: float = 5.0) -> None:
        self._lanes = asyncio.Semaphore(lanes)
        self._patience = patience
        self._idle: list[_Worker] = []

    async def run(self, function: Callable[[], T]) -> T:
        """What the function returns or raises. It runs to its end even when the caller is cancelled."""
        async with self._lanes:
            future = self._start(function)
            try:
                await asyncio.wait([future], timeout=self._patience)
            except asyncio.CancelledError:
                future.cancel()
                raise
        # Beyond its patience the call has left the lane to others and keeps its thread to itself.
        return await future

    def _start(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        worker = self._idle.pop() if self._idle else _Worker(self._idle)
        worker.calls.put(_Call(function, future, loop))
        return future


class _Worker(threading.Thread):
    def __init__(self, idle: "list[_Worker]") -> None:
        super().__init__(name="collector", daemon=True)
        self.calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._idle = idle
        self.start()

    def run(self) -> None:
        while True:
            call = self.calls.get()
            try:
                result, failure = call.function(), None
            except BaseException as raised:  # handed to the caller as it is
                result, failure = None, raised
            try:
                call.loop.call_soon_threadsafe(self._answer, call.future, result, failure)
            except RuntimeError:  # the loop has ended: nobody waits for the answer any more
                return
            del call, result, failure

    def _answer(self, future: "asyncio.Future[Any]", result: object, failure: BaseException | None) -> None:
        self._idle.append(self)
        if future.cancelled():
            return
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
