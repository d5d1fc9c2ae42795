"""The life of one collector: when it reads or watches, what its failures mean, and what is told of it."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import structlog
from google.protobuf.message import Message

from agent.collectors import CannotCollect, Collector, Host, Watcher
from agent.outlet import Outlet
from agent.status import CollectorStatus, State
from agent.threads import Threads
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_BOUND, LOSS_REASON_FAILURE, Loss

log = structlog.get_logger(__name__)

# What one reading, or one second of watching, may hold.
MAX_RECORDS = 100_000
# A reading that takes longer is told of; it is never started a second time beside itself.
STUCK_AFTER_SECONDS = 10.0
# What the host does not permit now it may permit later: a group was added, systemd came up.
RETRY_SECONDS = 300.0
# A watch that broke is opened again sooner than one that is not permitted.
RETRY_BROKEN_SECONDS = 30.0
# How long what a watch tells is gathered into one batch.
GATHER_SECONDS = 1.0

_NO_ROOM = (
    "the spool is full of what may not be shed: records are counted as lost until the domain takes some"
)


class Lane:
    """Runs one collector for ever and hands what it yields to its outlet."""

    def __init__(
        self,
        collector: Collector,
        outlet: Outlet,
        host: Host,
        threads: Threads,
        *,
        interval: float,
        phase: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._collector = collector
        self._outlet = outlet
        self._host = host
        self._threads = threads
        self._interval = interval
        self._phase = phase
        self._clock = clock
        self._status: CollectorStatus | None = None
        # Why it looks although it could watch.
        self._lesser_way = ""

    async def run(self) -> None:
        """Reads at once and then at every interval, or watches where the collector can."""
        if not isinstance(self._collector, Watcher):
            await self._look_until(None)
        while isinstance(self._collector, Watcher):
            retry = await self._watch(self._collector)
            await self._look_until(self._clock() + retry)

    async def look(self) -> None:
        """One reading: timed, counted, handed on. Raises nothing but cancellation."""
        reading = asyncio.ensure_future(self._threads.run(self._read))
        try:
            done, _ = await asyncio.wait([reading], timeout=STUCK_AFTER_SECONDS)
            if not done:
                self._tell(
                    State.FAILING, f"one reading takes more than {STUCK_AFTER_SECONDS:.0f} s; something hangs"
                )
            duration, records, losses = await reading
        except CannotCollect as reason:
            self._tell(State.UNAVAILABLE, str(reason), runs=1)
        except Exception as failed:
            self._outlet.lose(Loss(reason=LOSS_REASON_FAILURE, detail=_sentence(failed)))
            self._tell(State.FAILING, _sentence(failed), runs=1, failures=1)
            log.debug("collector failed", product=self._outlet.product, exc_info=failed)
        else:
            await _unbroken(self._hand_on(records, losses, duration))
        finally:
            reading.cancel()

    async def _look_until(self, end: float | None) -> None:
        start = due = self._clock()
        while end is None or due < end:
            await self.look()
            pause = self._interval
            if self._status is not None and self._status.state is State.UNAVAILABLE:
                pause = max(pause, RETRY_SECONDS)
            due = next_due(self._clock(), start, pause, self._phase)
            await asyncio.sleep(due - self._clock())

    async def _watch(self, watcher: Watcher) -> float:
        """Watches for as long as it can, and returns after how many seconds it should be tried again."""
        gathered = _Gathered()
        retry = RETRY_BROKEN_SECONDS
        try:
            async with asyncio.TaskGroup() as tasks:
                flushing = tasks.create_task(self._flush(gathered))
                async with aclosing(watcher.watch()) as bursts:
                    async for burst in bursts:
                        gathered.add(burst)
                flushing.cancel()
                self._lesser_way = "the watch ended"
        except* CannotCollect as refused:
            self._lesser_way = str(refused.exceptions[0])
            retry = RETRY_SECONDS
        except* Exception as broken:
            self._lesser_way = f"watching broke: {_sentence(broken.exceptions[0])}"
            gathered.add([Loss(reason=LOSS_REASON_FAILURE, detail=self._lesser_way)])
            log.debug("watch broke", product=self._outlet.product, exc_info=broken)
        finally:
            # What was told before the end is not lost, whatever ended it.
            if gathered:
                await self._hand_on(*gathered.take())
        return retry

    async def _flush(self, gathered: "_Gathered") -> None:
        while True:
            await asyncio.sleep(GATHER_SECONDS)
            # A watch that is not permitted has ended by now: this one works.
            self._lesser_way = ""
            await _unbroken(self._hand_on(*gathered.take()))

    def _read(self) -> tuple[float, list[Message], list[Loss]]:
        """In a thread: what there is, and how many seconds that took."""
        gathered, began = _Gathered(), time.monotonic()
        gathered.add(self._collector.collect())
        return (time.monotonic() - began, *gathered.take())

    async def _hand_on(self, records: list[Message], losses: list[Loss], duration: float = 0.0) -> None:
        lost = sum(loss.records for loss in losses)
        try:
            kept = await self._outlet.put(records, losses)
            await self._threads.run(lambda: self._host.positions.save(self._outlet.product))
        except Exception as failed:
            detail = f"what was collected could not be kept: {_sentence(failed)}"
            self._outlet.lose(Loss(records=len(records), reason=LOSS_REASON_FAILURE, detail=detail))
            self._tell(State.FAILING, detail, runs=1, failures=1, lost=lost + len(records))
            return
        if not kept:
            # Looking goes on, so that what is lost is counted; the sink has declared it already.
            self._tell(State.FAILING, _NO_ROOM, duration, runs=1, lost=lost + len(records))
            return
        reason = "; ".join(part for part in (self._lesser_way, self._collector.limited) if part)
        state = State.DEGRADED if reason else State.OK
        self._tell(state, reason, duration, runs=1, records=len(records), lost=lost)

    def _tell(
        self,
        state: State,
        reason: str,
        duration: float | None = None,
        *,
        runs: int = 0,
        failures: int = 0,
        records: int = 0,
        lost: int = 0,
    ) -> None:
        product = self._outlet.product
        status = self._status
        if status is None:
            status = CollectorStatus(product, self._interval, state, reason, time.time_ns(), 0.0, 0, 0, 0, 0)
            if state is not State.OK:
                log.warning("collector", product=product, state=state.value, reason=reason)
        elif (state, reason) != (status.state, status.reason):
            level = log.info if state is State.OK else log.warning
            level("collector", product=product, state=state.value, reason=reason)
            status = replace(status, state=state, reason=reason, since_unix_ns=time.time_ns())
        self._status = self._host.agent.collectors[product] = replace(
            status,
            last_duration_seconds=status.last_duration_seconds if duration is None else duration,
            runs=status.runs + runs,
            failures=status.failures + failures,
            records=status.records + records,
            lost=status.lost + lost,
        )


def next_due(now: float, start: float, interval: float, phase: float) -> float:
    """When to read next: on the grid `start + (n + phase) * interval`, at least half an interval from now.

    The grid keeps its pace however long a reading takes; points that have passed are left out.
    """
    points = (now + interval / 2 - start) / interval - phase
    return start + (-(-points // 1) + phase) * interval


class _Gathered:
    """Records and losses that wait to be handed on; bounded, and what is too much is counted."""

    def __init__(self) -> None:
        self._records: list[Message] = []
        self._losses: list[Loss] = []
        self._excess = 0

    def add(self, items: Iterable[Message]) -> None:
        for item in items:
            if isinstance(item, Loss):
                self._losses.append(item)
            elif len(self._records) < MAX_RECORDS:
                self._records.append(item)
            else:
                self._excess += 1

    def take(self) -> tuple[list[Message], list[Loss]]:
        records, losses = self._records, self._losses
        if self._excess:
            detail = f"more than {MAX_RECORDS} records at once"
            losses.append(Loss(records=self._excess, reason=LOSS_REASON_BOUND, detail=detail))
        self._records, self._losses, self._excess = [], [], 0
        return records, losses

    def __bool__(self) -> bool:
        return bool(self._records or self._losses or self._excess)


async def _unbroken(handing_on: Coroutine[Any, Any, None]) -> None:
    """Lets records that were taken reach the sink before a cancellation goes on."""
    task = asyncio.ensure_future(handing_on)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _sentence(failed: BaseException) -> str:
    text = str(failed).strip()
    return f"{type(failed).__name__}: {text}" if text else type(failed).__name__
