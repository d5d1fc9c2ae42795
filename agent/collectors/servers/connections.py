"""servers.connections: TCP connections opened and closed, by lists of sockets and the kernel's notices.

A notice comes for each socket that is gone, however short its life. Where the kernel gives none, the lists
alone must do, and every batch says what they miss.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import ExitStack, aclosing, closing
from datetime import timedelta

from google.protobuf.message import Message

from agent.collectors import CannotCollect, Host, Watcher
from agent.host.connection_table import ConnectionTable
from agent.host.local_accounts import AccountNames
from agent.kernel.proc_net import tcp_sockets
from agent.kernel.process import hidden_details
from agent.kernel.sock_diag import CONNECTED, LISTEN, DestroyNotices, Socket, SocketDump
from agent.kernel.socket_owners import SocketOwners
from agent.kernel.tap import bursts
from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason

_WANTED = CONNECTED | {LISTEN}
# A notice of an unknown port asks for the listening ports again, but no more often than this.
_LISTENERS_SECONDS = 0.2


class Connections(Watcher):
    """The connections of the agent's network namespace. Only root sees whose processes hold them."""

    product = "servers.connections"
    interval = timedelta(seconds=1)

    def __init__(
        self,
        host: Host,
        subscribe: Callable[[], DestroyNotices] = DestroyNotices,
        dump: Callable[[], SocketDump] = SocketDump,
    ) -> None:
        self._host = host
        self._subscribe = subscribe
        self._dump = dump
        self.limited = hidden_details()
        # Looking and watching share a table: what the one has told, the other does not tell again.
        self._table = ConnectionTable(SocketOwners(host.proc), AccountNames(host.etc))
        self._unfollowed = 0
        # Whether this kernel has socket diagnosis; None until it was tried.
        self._has_dump: bool | None = None

    async def watch(self) -> AsyncGenerator[Iterable[Message], None]:
        """Every change as the kernel tells it; raises CannotCollect where it does not."""
        with ExitStack() as opened:
            try:
                notices = opened.enter_context(closing(self._subscribe()))
                dump = opened.enter_context(closing(self._dump()))
            except OSError as refused:
                raise CannotCollect(
                    f"the kernel does not tell this agent of ended connections ({refused.strerror}): give it "
                    "CAP_NET_ADMIN in its network namespace"
                ) from refused
            tap = ConnectionTap(notices, dump, self._table)
            async with aclosing(bursts(tap, self.interval.total_seconds())) as told:
                async for burst in told:
                    yield burst

    def collect(self) -> Iterable[Message]:
        """What is new or gone since the last look."""
        records = self._table.look(self._sockets(), time.time_ns(), is_told=False)
        yield Loss(
            reason=LossReason.LOSS_REASON_METHOD,
            detail=f"connections are looked for every {self.interval.total_seconds():g} s: those that ended "
            "in between are missed",
        )
        unfollowed, self._unfollowed = self._unfollowed, self._table.unfollowed
        yield from unfollowed_loss(unfollowed, self._table.unfollowed)
        yield from records

    def _sockets(self) -> list[Socket]:
        if self._has_dump is not False:
            try:
                with closing(self._dump()) as dump:
                    sockets = list(dump.sockets(_WANTED))
                    self._has_dump = True
                    return sockets
            except OSError:
                # The two ways name sockets differently: a dump that worked once is not left for the other.
                if self._has_dump:
                    raise
                self._has_dump = False
        try:
            return list(tcp_sockets(self._host.proc))
        except OSError as refused:
            raise CannotCollect(
                f"neither the kernel's socket diagnosis nor {refused.filename} can be read: "
                f"{refused.strerror}"
            ) from refused


class ConnectionTap:
    """Makes records of notices at once, and of a list of all sockets at every look."""

    def __init__(self, notices: DestroyNotices, dump: SocketDump, table: ConnectionTable) -> None:
        self._notices = notices
        self._dump = dump
        self._table = table
        self._overflows = notices.overflows
        self._unfollowed = 0
        self._listeners_at = 0.0

    def fileno(self) -> int:
        return self._notices.fileno()

    def read(self) -> list[Message]:
        notices = [notice for notice in self._notices.read() if notice.remote_port]
        now_ns = time.time_ns()
        if any(not self._table.is_listening(notice.local_port) for notice in notices):
            self._see_listeners(now_ns)
        return [record for notice in notices if (record := self._table.ended(notice, now_ns))]

    def look(self) -> list[Message]:
        sockets = list(self._dump.sockets(_WANTED))
        records: list[Message] = [*self._table.look(sockets, time.time_ns(), is_told=True)]
        records += unfollowed_loss(self._unfollowed, self._table.unfollowed)
        self._unfollowed = self._table.unfollowed
        if self._notices.overflows != self._overflows:
            self._overflows = self._notices.overflows
            records.append(
                Loss(
                    reason=LossReason.LOSS_REASON_UPSTREAM,
                    detail="the kernel dropped notices of ended connections: they came faster than the agent "
                    "reads",
                )
            )
        return records

    def _see_listeners(self, now_ns: int) -> None:
        """A server may have begun to listen since the last list."""
        if time.monotonic() - self._listeners_at < _LISTENERS_SECONDS:
            return
        self._table.see_listeners(self._dump.sockets(frozenset((LISTEN,))), now_ns)
        self._listeners_at = time.monotonic()


def unfollowed_loss(before: int, now: int) -> list[Loss]:
    """The loss of connections that the table has no room for, beyond those that were told of before."""
    if now <= before:
        return []
    detail = "more connections are open at once than the agent follows"
    return [Loss(records=now - before, reason=LossReason.LOSS_REASON_BOUND, detail=detail)]
