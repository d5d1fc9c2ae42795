"""What a process decides on others' behalf, as the product `mesh.audit`: equal decisions folded.

A process decides on every batch, and told one by one, decisions on the audit's own batches would be more
decisions without end. Folded, a mesh tells no more than who does what at all, however often.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Self

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason
from telltale.api.platform.v1.audit_pb2 import AuditRecord
from telltale.audit import Decision
from telltale.contract.image import own_image
from telltale.identity.workload import Workload
from telltale.source.folding import Folded, Folding, Room
from telltale.source.own import Publish, half_of_freshness, own_source

AUDIT = "mesh.audit"

# Equal decisions that go on are one record in this time.
_INTERVAL = timedelta(minutes=1)
# A new decision waits this long for others, so that a flood of them becomes few batches.
_GATHER_SECONDS = 1.0
# Sources times products, and readers times products, of a large domain.
_ALLOWED = Room(shared=10_000, of_one=1_000, callers=10_000)
# All agents of a large domain, when its policy forgets them. What is denied is the caller's to invent.
_DENIED = Room(shared=1_000, of_one=100, callers=10_000)
# So is what strangers claim, who have their own room. One address may try 90 times a minute to join.
_STRANGERS = Room(shared=1_000, of_one=100, callers=1_000)
# Making records takes its time: the event loop does other things in between.
_RECORDS_AT_ONCE = 1_000

log = structlog.get_logger(__name__)


@asynccontextmanager
async def self_audit(me: Workload, role: str, state: Path, platform: str) -> "AsyncIterator[Audit]":
    """Publishes what is decided in this one's name, for a process where another publishes the metrics."""
    sign_of_life = half_of_freshness(own_image(naming.PLATFORM), AUDIT)
    async with (
        own_source(me, state, platform) as source,
        Audit(source.publish, role, sign_of_life=sign_of_life) as audit,
    ):
        yield audit


class Audit:
    """An auditor that publishes. Use as `async with`; any thread may record while the body runs.

    reporter: what the process is, such as `gateway`. sign_of_life: after so long without decisions an empty
    batch says that there were none.
    """

    def __init__(
        self, publish: Publish, reporter: str, interval: timedelta = _INTERVAL, *, sign_of_life: timedelta
    ) -> None:
        self._publish = publish
        self._reporter = reporter
        self._interval = interval.total_seconds()
        self._sign_of_life = sign_of_life.total_seconds()
        self._told = float("-inf")
        self._lock = threading.Lock()
        self._denied = Folding(_DENIED)
        self._strangers = Folding(_STRANGERS)
        self._allowed = Folding(_ALLOWED)
        # Decisions that could not be published.
        self._lost = 0
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.create_task(self._tell_new())
        self._tasks.create_task(self._tell_intervals())
        return self

    async def __aexit__(self, *exception: object) -> None:
        # Not cancelled: what was taken to be told would be neither told nor counted as lost.
        self._stopping.set()
        self._woken.set()
        await self._tasks.__aexit__(None, None, None)
        await self._tell_all()

    def record(self, decision: Decision) -> None:
        """Counts a decision. Never waits: a dict is looked up."""
        now = time.time_ns()
        with self._lock:
            new = self._folding(decision).add(decision, now)
        if new:
            # When the loop is closed the process ends, and nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._woken.set)

    def _folding(self, decision: Decision) -> Folding:
        if decision.allowed:
            return self._allowed
        return self._denied if decision.peer else self._strangers

    def _foldings(self) -> tuple[Folding, ...]:
        return self._denied, self._strangers, self._allowed

    async def _tell_new(self) -> None:
        while not self._stopping.is_set():
            await self._woken.wait()
            await self._pause(_GATHER_SECONDS)
            self._woken.clear()
            with self._lock:
                folded = [one for folding in self._foldings() for one in folding.take_fresh()]
            if folded:
                await self._tell(folded, 0)

    async def _tell_intervals(self) -> None:
        # The first is told at the start: nobody knows how long ago an earlier process told its last.
        while not self._stopping.is_set():
            await self._tell_all()
            await self._pause(self._interval)

    async def _pause(self, seconds: float) -> None:
        """Waits so long, or until there is nothing more to wait for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _tell_all(self) -> None:
        """Publishes all that is open and begins anew; an empty batch, if it is time for one."""
        with self._lock:
            folded = [one for folding in self._foldings() for one in folding.take_all()]
            lost, self._lost = self._lost, 0
        if folded or lost or time.monotonic() - self._told >= self._sign_of_life:
            await self._tell(folded, lost)

    async def _tell(self, folded: Sequence[Folded], lost: int) -> None:
        for start in range(0, max(len(folded), 1), _RECORDS_AT_ONCE):
            part = folded[start : start + _RECORDS_AT_ONCE]
            try:
                await self._publish(AUDIT, [self._record_of(one) for one in part], losses=_losses(lost))
                lost = 0
                self._told = time.monotonic()
            except Exception as failed:
                # A process does its work even when it cannot tell; what it could not tell, it tells as lost.
                lost += sum(one.count for one in part)
                log.warning("decisions not published", decisions=lost, reason=str(failed))
        if lost:
            with self._lock:
                self._lost += lost

    def _record_of(self, folded: Folded) -> AuditRecord:
        decision = folded.decision
        return AuditRecord(
            time=_timestamp(folded.first),
            last_time=_timestamp(folded.last),
            count=folded.count,
            reporter=self._reporter,
            action=decision.action,
            allowed=decision.allowed,
            principal=decision.principal,
            product=decision.product,
            subject=decision.subject,
            reason=decision.reason,
            rules=decision.rules,
            peer=decision.peer,
            address=decision.address,
        )


def _losses(decisions: int) -> list[Loss]:
    if not decisions:
        return []
    detail = "decisions could not be published when they were made"
    return [Loss(records=decisions, reason=LossReason.LOSS_REASON_BOUND, detail=detail)]


def _timestamp(nanoseconds: int) -> Timestamp:
    moment = Timestamp()
    moment.FromNanoseconds(nanoseconds)
    return moment
