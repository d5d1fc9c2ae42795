"""The TCP connections that are open, and the records of what changes about them."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from agent.collectors import timestamp
from agent.host.local_accounts import AccountNames
from agent.kernel.sock_diag import LISTEN, Socket
from agent.kernel.socket_owners import Owner, SocketOwners
from telltale.api.servers.v1 import connections_pb2
from telltale.api.servers.v1.connections_pb2 import ConnectionsRecord

OPENED = connections_pb2.CONNECTION_STATE_OPENED
CLOSED = connections_pb2.CONNECTION_STATE_CLOSED
FOUND = connections_pb2.CONNECTION_STATE_FOUND
OUTGOING = connections_pb2.CONNECTION_DIRECTION_OUTGOING
INCOMING = connections_pb2.CONNECTION_DIRECTION_INCOMING

# Connections that are followed; about 40 MB at most.
MAX_CONNECTIONS = 65_536
# Ended connections whose late notices are recognised.
_MAX_ENDED = 65_536
# A port counts as listening for this long after it was last seen so: its last connections end after it.
_LISTENED_NS = 60 * 10**9
# A notice follows the end of a connection within moments. What is gone from two lists had one that was lost.
_LISTS_WITHOUT = 2


@dataclass(slots=True)
class _Connection:
    socket: Socket
    direction: connections_pb2.ConnectionDirection
    owner: Owner | None
    account_id: int | None
    # None when it was there before the first look.
    opened_ns: int | None
    lists_without: int = 0


@dataclass(slots=True)
class _Listener:
    owner: Owner | None
    account_id: int
    seen_ns: int


class ConnectionTable:
    """Compares what is there with what was. Not safe for threads: one looks at a time."""

    def __init__(
        self, owners: SocketOwners, names: AccountNames, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._owners = owners
        self._names = names
        self._max = max_connections
        self._open: dict[int, _Connection] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._listeners: dict[int, _Listener] = {}
        self._is_first_look = True
        # Open connections that no room is left for.
        self.unfollowed = 0

    def is_listening(self, port: int) -> bool:
        """Whether a process listens on the port, or did moments ago."""
        return port in self._listeners

    def see_listeners(self, sockets: Iterable[Socket], now_ns: int) -> None:
        """Learns the listening ports, by which incoming connections are known."""
        listening = [found for found in sockets if found.state == LISTEN]
        owners = self._owners.find(found.inode for found in listening)
        for found in listening:
            self._listeners[found.local_port] = _Listener(owners.get(found.inode), found.account_id, now_ns)

    def look(self, sockets: list[Socket], now_ns: int, *, is_told: bool) -> list[ConnectionsRecord]:
        """The records of what is new or gone among these sockets. `is_told`: notices tell what is gone."""
        self.see_listeners(sockets, now_ns)
        self._listeners = {
            port: listener
            for port, listener in self._listeners.items()
            if now_ns - listener.seen_ns < _LISTENED_NS
        }
        present = {found.cookie: found for found in sockets if found.is_connected}
        new = [
            found
            for cookie, found in present.items()
            if cookie not in self._open and cookie not in self._ended and found.remote_port
        ]
        self._find_owners(present)
        room = max(0, self._max - len(self._open))
        self.unfollowed = max(0, len(new) - room)
        owners = self._owners.find(found.inode for found in new[:room])
        state = FOUND if self._is_first_look else OPENED
        opened_ns = None if self._is_first_look else now_ns
        self._is_first_look = False
        records = []
        for found in new[:room]:
            connection = self._connection(found, owners.get(found.inode), opened_ns)
            self._open[found.cookie] = connection
            records.append(self._record(connection, state, now_ns))
        records += self._gone(present, now_ns, 1 if not is_told else _LISTS_WITHOUT)
        self._owners.keep({found.inode for found in sockets})
        return records

    def ended(self, notice: Socket, now_ns: int) -> ConnectionsRecord | None:
        """The record of a notice; None when it is of no connection, or its end is known already."""
        if not notice.remote_port or not notice.local_port or notice.cookie in self._ended:
            return None
        connection = self._open.pop(notice.cookie, None)
        if connection is None:
            connection = self._connection(notice, None, None)
            if connection.direction == OUTGOING and not notice.was_answered:
                return None
        self._remember(notice.cookie)
        record = self._record(connection, CLOSED, now_ns)
        if notice.sent_bytes is not None:
            record.sent_bytes = notice.sent_bytes
        if notice.received_bytes is not None:
            record.received_bytes = notice.received_bytes
        return record

    def _find_owners(self, present: dict[int, Socket]) -> None:
        """Learns who has taken a connection since it was first seen, or could not be searched for then."""
        held = {
            cookie: found.inode
            for cookie, connection in self._open.items()
            if (found := present.get(cookie)) is not None
            and found.inode
            and (connection.owner is None or not connection.socket.inode)
        }
        owners = self._owners.find(held.values())
        for cookie, inode in held.items():
            connection = self._open[cookie]
            connection.socket = present[cookie]
            connection.account_id = connection.socket.account_id
            connection.owner = owners.get(inode, connection.owner)

    def _gone(self, present: dict[int, Socket], now_ns: int, patience: int) -> list[ConnectionsRecord]:
        records = []
        for cookie in [cookie for cookie in self._open if cookie not in present]:
            connection = self._open[cookie]
            connection.lists_without += 1
            if connection.lists_without >= patience:
                del self._open[cookie]
                self._remember(cookie)
                records.append(self._record(connection, CLOSED, now_ns))
        return records

    def _remember(self, cookie: int) -> None:
        self._ended[cookie] = None
        if len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)

    def _connection(self, found: Socket, owner: Owner | None, opened_ns: int | None) -> _Connection:
        listener = self._listeners.get(found.local_port)
        account_id = found.account_id if found.inode else None
        if listener is not None and not found.inode:
            # Not yet taken by a process, or over before it was looked at: the listener is who it came to.
            owner, account_id = listener.owner, listener.account_id
        direction = OUTGOING if listener is None else INCOMING
        return _Connection(found, direction, owner, account_id, opened_ns)

    def _record(
        self, connection: _Connection, state: connections_pb2.ConnectionState, now_ns: int
    ) -> ConnectionsRecord:
        found = connection.socket
        record = ConnectionsRecord(
            time=timestamp(now_ns),
            state=state,
            direction=connection.direction,
            local_address=found.local_address,
            local_port=found.local_port,
            remote_address=found.remote_address,
            remote_port=found.remote_port,
            connection_id=found.cookie,
        )
        if connection.owner is not None:
            record.process_id = connection.owner.process
            record.process = connection.owner.name
        if connection.account_id is not None:
            record.account_id = connection.account_id
            record.account = self._names(connection.account_id)
        if state == CLOSED and connection.opened_ns is not None:
            seconds, nanos = divmod(max(0, now_ns - connection.opened_ns), 10**9)
            record.duration.CopyFrom(Duration(seconds=seconds, nanos=nanos))
        return record
