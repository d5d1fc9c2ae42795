import asyncio
import errno
import os
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from google.protobuf.message import Message

from agent.collectors import CannotCollect, Host, Watcher
from agent.collectors.servers.process_starts import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    ProcessStarts,
    ProcessTap,
    bounded,
    record_of,
)
from agent.host.local_accounts import AccountNames
from agent.kernel.proc_connector import EXEC, FORK, ProcessEvent, ProcessEvents
from agent.kernel.process import Process
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_METHOD, LOSS_REASON_UPSTREAM, Loss
from telltale.api.servers.v1.process_starts_pb2 import ProcessStartsRecord

NAMES = AccountNames(Path("/etc"))


def is_told() -> bool:
    """Whether this kernel tells this process of process starts."""
    try:
        ProcessEvents().close()
    except OSError:
        return False
    return True


def refuse() -> ProcessEvents:
    raise PermissionError(errno.EPERM, "Operation not permitted")


class Told:
    """Events as the connector would tell them."""

    def __init__(self, *events: ProcessEvent) -> None:
        self.events = list(events)
        self.lost_events = 0

    def read(self) -> list[ProcessEvent]:
        events, self.events = self.events, []
        return events


def event(what: int, process: int, parent: int = 0) -> ProcessEvent:
    return ProcessEvent(what, time.monotonic_ns(), process, parent)


def tap(told: Told, proc: Path = Path("/proc")) -> ProcessTap:
    return ProcessTap(told, Host(proc=proc), NAMES)  # type: ignore[arg-type]


def records(messages: list[Message]) -> list[ProcessStartsRecord]:
    return [message for message in messages if isinstance(message, ProcessStartsRecord)]


async def told_by_the_kernel(collector: ProcessStarts, wanted: set[int]) -> list[ProcessStartsRecord]:
    """Records of the processes that `wanted` comes to hold, as soon as there is one of each."""
    seen: list[ProcessStartsRecord] = []
    async with aclosing(collector.watch()) as bursts, asyncio.timeout(30):
        starting = asyncio.create_task(asyncio.to_thread(start_many, wanted))
        async for burst in bursts:
            seen += records(list(burst))
            if starting.done() and wanted <= {record.process_id for record in seen}:
                return seen
    raise AssertionError("the watch ended")


def start_many(started: set[int]) -> None:
    for number in range(100):
        with subprocess.Popen(["true", f"--password=hunter{number}", "--port=80"]) as child:
            started.add(child.pid)


async def test_every_process_is_recorded_however_short_its_life() -> None:
    collector = ProcessStarts(Host())
    assert isinstance(collector, Watcher)
    if not is_told():
        with pytest.raises(CannotCollect, match="CAP_NET_ADMIN"):
            await anext(collector.watch())
        return
    before = time.time()
    wanted: set[int] = set()
    seen = await told_by_the_kernel(collector, wanted)
    mine = [record for record in seen if record.process_id in wanted]
    assert len(wanted) == 100
    for record in mine:
        assert record.parent_process_id == os.getpid()
        assert before - 1 < record.time.ToNanoseconds() / 1e9 < time.time() + 1
        assert record.details_missing or list(record.arguments[1:]) == ["--password=***", "--port=80"]
    # A few may have ended before the agent could look; none of these is lost.
    whole = [record for record in mine if not record.details_missing]
    assert whole, "not one of a hundred processes lived long enough to be looked at"
    for record in whole:
        assert (record.process, record.account_id) == ("true", os.getuid())
        assert record.executable.endswith(("true", "coreutils", "busybox"))
        assert record.start_ticks and record.session_id == os.getsid(0)


def test_a_process_that_is_gone_is_recorded_with_time_and_parent() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    told = Told(event(FORK, child.pid, parent=17), event(EXEC, child.pid))
    (record,) = records(tap(told).read())
    assert record.details_missing
    assert (record.process_id, record.parent_process_id) == (child.pid, 17)
    assert record.HasField("time") and not record.HasField("account_id") and not record.executable


def test_a_fork_alone_is_no_start(tmp_path: Path) -> None:
    assert tap(Told(event(FORK, 6, parent=4)), tmp_path).read() == []


def test_a_number_that_is_given_again_has_its_new_parent(tmp_path: Path) -> None:
    told = Told(event(FORK, 6, parent=4), event(FORK, 6, parent=5), event(EXEC, 6))
    (record,) = records(tap(told, tmp_path).read())
    assert record.parent_process_id == 5


def test_no_parent_is_believed_when_forks_were_dropped(tmp_path: Path) -> None:
    told = Told(event(FORK, 6, parent=4))
    watching = tap(told, tmp_path)
    watching.read()
    told.lost_events = 1
    watching.look()
    told.events = [event(EXEC, 6)]
    (record,) = records(watching.read())
    assert not record.HasField("parent_process_id")


def test_what_the_kernel_dropped_is_declared_once(tmp_path: Path) -> None:
    told = Told()
    watching = tap(told, tmp_path)
    assert watching.look() == []
    told.lost_events = 42
    (loss,) = watching.look()
    assert isinstance(loss, Loss)
    assert loss.reason == LOSS_REASON_UPSTREAM and "42" in loss.detail
    assert watching.look() == []


async def test_a_refused_subscription_says_what_would_help() -> None:
    with pytest.raises(CannotCollect, match=r"Operation not permitted.*CAP_NET_ADMIN"):
        await anext(ProcessStarts(Host(), subscribe=refuse).watch())


def test_a_look_finds_what_started_since_the_last_and_says_what_it_misses() -> None:
    collector = ProcessStarts(Host(), subscribe=refuse)
    first = list(collector.collect())
    assert records(first) == []
    with subprocess.Popen([sys.executable, "-c", "input()", "--token", "hunter2"], stdin=-1) as child:
        second = list(collector.collect())
        third = list(collector.collect())
        child.communicate(b"\n")
    for look in (first, second, third):
        losses = [message for message in look if isinstance(message, Loss)]
        assert [loss.reason for loss in losses] == [LOSS_REASON_METHOD]
    assert child.pid not in {record.process_id for record in records(third)}
    (record,) = (record for record in records(second) if record.process_id == child.pid)
    assert record.parent_process_id == os.getpid()
    assert "hunter2" not in str(record)


def test_rights_that_differ_and_a_login_are_told() -> None:
    process = Process(
        complete=True,
        executable="/usr/bin/su",
        account_id=0,
        effective_account_id=65534,
        login_account_id=1000,
        control_group="/docker/" + "ab" * 32,
    )
    record = record_of(7, 10**18, process, 5, NAMES)
    assert (record.account, record.effective_account_id, record.login_account_id) == ("root", 65534, 1000)
    assert record.container_id == "ab" * 32
    same = record_of(7, 10**18, Process(complete=True, account_id=0, effective_account_id=0), 5, NAMES)
    assert not same.HasField("effective_account_id") and not same.HasField("login_account_id")


def test_arguments_are_bounded_in_number_and_bytes() -> None:
    assert bounded(["a", "b"]) == (["a", "b"], False)
    assert bounded(["a"] * 100) == (["a"] * MAX_ARGUMENTS, True)
    kept, cut = bounded(["x" * 4000, "ä" * 4000, "z"])
    assert cut and len(kept) == 2 and sum(len(argument.encode()) for argument in kept) <= MAX_ARGUMENT_BYTES
