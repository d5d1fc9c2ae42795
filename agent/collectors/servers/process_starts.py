"""servers.process_starts: every program that starts, told by the kernel's process connector.

Where the kernel does not tell, the processes are looked over at intervals instead, and every batch says so.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from datetime import timedelta

from google.protobuf.message import Message

from agent.collectors import CannotCollect, Host, Watcher, timestamp
from agent.host.local_accounts import AccountNames
from agent.kernel.clock import unix_ns_of_monotonic, unix_ns_of_ticks
from agent.kernel.proc_connector import EXEC, FORK, ProcessEvents
from agent.kernel.process import (
    Process,
    container_of,
    hidden_details,
    process_numbers,
    read_process,
    read_stat,
)
from agent.kernel.tap import bursts
from agent.masking import mask_arguments
from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason
from telltale.api.servers.v1.process_starts_pb2 import ProcessStartsRecord

MAX_ARGUMENTS = 64
MAX_ARGUMENT_BYTES = 4096
# Parents of the newest processes. What starts later in its life than so many others begin is asked itself.
_MAX_PARENTS = 4_096


class ProcessStarts(Watcher):
    """The programs that start.

    The kernel tells of all of them in the host's own namespaces; before Linux 6.6 to CAP_NET_ADMIN only.
    What program another account's process runs, and where, is seen by root only.
    """

    product = "servers.process_starts"
    interval = timedelta(seconds=1)

    def __init__(self, host: Host, subscribe: Callable[[], ProcessEvents] = ProcessEvents) -> None:
        self._host = host
        self._subscribe = subscribe
        self._names = AccountNames(host.etc)
        self.limited = hidden_details()
        # The processes of the last look with their starts; None before the first.
        self._seen: dict[int, int] | None = None

    async def watch(self) -> AsyncGenerator[Iterable[Message], None]:
        """Every start as the kernel tells it; raises CannotCollect where it does not."""
        try:
            events = self._subscribe()
        except OSError as refused:
            raise CannotCollect(
                f"the kernel does not tell this agent of process starts ({refused.strerror}): give it "
                "CAP_NET_ADMIN and the host's own network and process namespaces"
            ) from refused
        # A later look starts afresh: what the kernel told is not to be found again.
        self._seen = None
        try:
            tap = ProcessTap(events, self._host, self._names)
            async with aclosing(bursts(tap, self.interval.total_seconds())) as told:
                async for burst in told:
                    yield burst
        finally:
            events.close()

    def collect(self) -> Iterable[Message]:
        """The processes that started since the last look and still run."""
        yield Loss(
            reason=LossReason.LOSS_REASON_METHOD,
            detail=f"processes are looked for every {self.interval.total_seconds():g} s: those that ended in "
            "between, and programs that took over a process that was already there, are missed",
        )
        before, self._seen = self._seen, {}
        for number in process_numbers(self._host.proc):
            stat = read_stat(self._host.proc, number)
            if stat is None:
                continue
            self._seen[number] = stat.start_ticks
            if before is not None and before.get(number) != stat.start_ticks:
                process = read_process(self._host.proc, number)
                yield record_of(number, unix_ns_of_ticks(stat.start_ticks), process, stat.parent, self._names)


class ProcessTap:
    """Makes records of the connector's events, at once: a process may live for less than a millisecond."""

    def __init__(self, events: ProcessEvents, host: Host, names: AccountNames) -> None:
        self._events = events
        self._proc = host.proc
        self._names = names
        self._parents: OrderedDict[int, int] = OrderedDict()
        self._lost_events = events.lost_events

    def fileno(self) -> int:
        return self._events.fileno()

    def read(self) -> list[Message]:
        records: list[Message] = []
        for event in self._events.read():
            if event.what == EXEC:
                process = read_process(self._proc, event.process)
                started = unix_ns_of_monotonic(event.monotonic_ns)
                parent = self._parents.get(event.process)
                records.append(record_of(event.process, started, process, parent, self._names))
            elif event.what == FORK:
                self._parents[event.process] = event.parent
                self._parents.move_to_end(event.process)
                if len(self._parents) > _MAX_PARENTS:
                    self._parents.popitem(last=False)
        return records

    def look(self) -> list[Message]:
        """The losses since the last look."""
        lost = self._events.lost_events
        if lost == self._lost_events:
            return []
        dropped, self._lost_events = (lost - self._lost_events) & 0xFFFFFFFF, lost
        # A number may have been given anew by a fork that was dropped.
        self._parents.clear()
        return [
            Loss(
                reason=LossReason.LOSS_REASON_UPSTREAM,
                detail=f"the kernel dropped {dropped} forks and executions: they came faster than the agent "
                "reads",
            )
        ]


def record_of(
    number: int, started_ns: int, process: Process, parent: int | None, names: AccountNames
) -> ProcessStartsRecord:
    """The record of a start; of a process that is gone, what is known of it all the same."""
    arguments, cut = bounded(mask_arguments(list(process.arguments)))
    record = ProcessStartsRecord(
        time=timestamp(started_ns),
        process_id=number,
        parent_process_id=parent,
        executable=process.executable,
        arguments=arguments,
        arguments_cut=cut or process.arguments_cut,
        account=names(process.account_id) if process.account_id is not None else "",
        account_id=process.account_id,
        login_account_id=process.login_account_id,
        working_directory=process.working_directory,
        control_group=process.control_group,
        container_id=container_of(process.control_group),
        details_missing=not process.complete,
    )
    if process.effective_account_id != process.account_id and process.effective_account_id is not None:
        record.effective_account_id = process.effective_account_id
    if process.stat is not None:
        record.parent_process_id = process.stat.parent if parent is None else parent
        record.process = process.stat.name
        record.session_id = process.stat.session
        record.terminal = process.stat.terminal
        record.start_ticks = process.stat.start_ticks
    return record


def bounded(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments that fit into a record, and whether there were more."""
    kept: list[str] = []
    room = MAX_ARGUMENT_BYTES
    for argument in arguments[:MAX_ARGUMENTS]:
        data = argument.encode("utf-8", "replace")
        if len(data) > room:
            kept.append(data[:room].decode("utf-8", "ignore"))
            return kept, True
        kept.append(argument)
        room -= len(data)
    return kept, len(arguments) > MAX_ARGUMENTS
