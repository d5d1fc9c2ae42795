"""Carries what the kernel tells from a thread of its own onto the event loop, in bursts and bounded.

Events must be looked into at once, before their processes are gone, and each look is a few system calls:
the loop neither has the time nor should it.
"""

import asyncio
import os
import select
import threading
import time
from collections.abc import AsyncGenerator
from typing import Protocol

from google.protobuf.message import Message

from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason

# Records gather this long, so that a busy host seals batches and not single records.
LINGER_SECONDS = 0.25
# Records that wait for the loop; at 500 bytes each about 25 MB.
CAPACITY = 50_000


class Tap(Protocol):
    """Something that the kernel tells through a file descriptor, and the one who understands it."""

    def fileno(self) -> int: ...

    def read(self) -> list[Message]:
        """The records and losses of what waits at the descriptor; does not wait for more."""
        ...

    def look(self) -> list[Message]:
        """The records and losses of what only looking tells; called at the interval."""
        ...


class _Reader(threading.Thread):
    """Reads a tap until it is told to stop; hands over through a bounded list."""

    def __init__(self, tap: Tap, interval: float, loop: asyncio.AbstractEventLoop, capacity: int) -> None:
        super().__init__(name=type(tap).__name__, daemon=True)
        self.arrived = asyncio.Event()
        self._tap = tap
        self._interval = interval
        self._loop = loop
        self._capacity = capacity
        self._lock = threading.Lock()
        self._records: list[Message] = []
        self._dropped = 0
        self._failure: BaseException | None = None
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._tap.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            look_at = time.monotonic()
            while not self._stopping:
                ready = poll.poll(max(0.0, look_at - time.monotonic()) * 1000)
                if self._stopping:
                    return
                if ready:
                    self._hand_over(self._tap.read())
                if time.monotonic() >= look_at:
                    self._hand_over(self._tap.look())
                    look_at = time.monotonic() + self._interval
        except BaseException as failure:  # raised again where the next burst is taken
            self._failure = failure
            self._notify()

    def stop(self) -> None:
        """Ends the thread and waits for it; at most one look long."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self.join()
        os.close(self._wake)

    def take(self) -> list[Message]:
        """What has gathered; raises what the tap raised."""
        with self._lock:
            records, self._records = self._records, []
            dropped, self._dropped = self._dropped, 0
        if self._failure is not None:
            if not records:
                raise self._failure
            # What was read before the failure goes first; the failure is the next burst.
            self.arrived.set()
        if dropped:
            records.append(
                Loss(
                    records=dropped,
                    reason=LossReason.LOSS_REASON_BOUND,
                    detail=f"more than {self._capacity} records waited to be sealed",
                )
            )
        return records

    def _hand_over(self, records: list[Message]) -> None:
        if not records:
            return
        with self._lock:
            was_empty = not self._records
            room = self._capacity - len(self._records)
            self._records += records[:room]
            self._dropped += len(records) - min(room, len(records))
        if was_empty:
            self._notify()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.arrived.set)
        except RuntimeError:
            # The loop is closed, and with it everybody who could have listened.
            self._stopping = True


async def bursts(
    tap: Tap, interval: float, *, capacity: int = CAPACITY, linger: float = LINGER_SECONDS
) -> AsyncGenerator[list[Message], None]:
    """What the tap tells, burst by burst, for ever; raises what the tap raises. The caller closes the tap."""
    reader = _Reader(tap, interval, asyncio.get_running_loop(), capacity)
    reader.start()
    try:
        while True:
            await reader.arrived.wait()
            await asyncio.sleep(linger)
            reader.arrived.clear()
            if records := reader.take():
                yield records
    finally:
        await asyncio.to_thread(reader.stop)
