"""The kernel's socket diagnosis: the TCP sockets that are there, and a notice of each that is gone."""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.kernel.netlink import (
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOCK_DIAG,
    NetlinkSocket,
    parse_attributes,
    parse_messages,
    raise_error,
    request,
)

_SOCK_DIAG_BY_FAMILY = 20
_TCP_DESTROY_GROUPS = (1, 3)  # IPv4, IPv6
_INET_DIAG_INFO = 2

ESTABLISHED, SYN_SENT, SYN_RECEIVED, FIN_WAIT_1, FIN_WAIT_2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSED, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 7, 8, 9, 10, 11
# States of a connection that both ends have agreed to and that is not over for good.
CONNECTED = frozenset((ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, LAST_ACK, CLOSING))

# struct inet_diag_msg: family, state, timer, retransmissions; ports and addresses in network order; then
# interface, cookie, expiry, queues, account, inode in the host's.
_FIXED = struct.Struct("!BBBBHH16s16s")
_TAIL = struct.Struct("=IQIIIII")
MESSAGE_BYTES = _FIXED.size + _TAIL.size
# struct tcp_info: bytes acknowledged by the other end and received; bytes sent, and of these sent again.
_TOTALS = struct.Struct("=QQ")
_TOTALS_AT = 120
_SENT = struct.Struct("=QQ")
_SENT_AT = 200
_REQUEST = struct.Struct("=BBBBI48s")

_ANSWER_SECONDS = 5.0
# Bounds one read, so that its records come out while more notices arrive.
_MAX_DATAGRAMS = 4096


@dataclass(frozen=True, slots=True)
class Socket:
    """One end of a TCP connection, or a listening socket. `inode` is 0 while no process holds it."""

    state: int
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    cookie: int
    account_id: int
    inode: int
    # Told in notices only. The other end has acknowledged something, be it only our wish to connect.
    was_answered: bool = True
    sent_bytes: int | None = None
    received_bytes: int | None = None

    @property
    def is_connected(self) -> bool:
        """Whether it is a connection that a process uses or is about to take."""
        if self.state in (ESTABLISHED, CLOSE_WAIT):
            return True
        return self.state in CONNECTED and self.inode != 0


def parse_socket(payload: bytes) -> Socket | None:
    """Reads one inet_diag message; None when it is none."""
    if len(payload) < MESSAGE_BYTES:
        return None
    family, state, _, _, local_port, remote_port, local, remote = _FIXED.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    _, cookie, _, _, _, account_id, inode = _TAIL.unpack_from(payload, _FIXED.size)
    was_answered, sent, received = True, None, None
    if len(payload) > MESSAGE_BYTES:
        # Older kernels tell less.
        info = parse_attributes(payload[MESSAGE_BYTES:]).get(_INET_DIAG_INFO, b"")
        if len(info) >= _TOTALS_AT + _TOTALS.size:
            acknowledged, received = _TOTALS.unpack_from(info, _TOTALS_AT)
            was_answered = acknowledged > 0
        if len(info) >= _SENT_AT + _SENT.size:
            all_sent, again = _SENT.unpack_from(info, _SENT_AT)
            sent = max(0, all_sent - again)
    return Socket(
        state=state,
        local_address=address_text(family, local),
        local_port=local_port,
        remote_address=address_text(family, remote),
        remote_port=remote_port,
        cookie=cookie,
        account_id=account_id,
        inode=inode,
        was_answered=was_answered,
        sent_bytes=sent,
        received_bytes=received,
    )


def address_text(family: int, data: bytes) -> str:
    """An address in its usual form; an IPv4 address in an IPv6 one as IPv4."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, data[:4])
    if data.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, data[12:16])
    return socket.inet_ntop(socket.AF_INET6, data)


class SocketDump:
    """Lists TCP sockets. Every process may; raises OSError where the kernel has no socket diagnosis."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(SOCK_DIAG)

    def close(self) -> None:
        self._socket.close()

    def sockets(self, states: frozenset[int]) -> Iterator[Socket]:
        """The sockets in these states, of both families."""
        mask = sum(1 << state for state in states)
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, mask, b"")
            self._socket.send(request(_SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, body))
            yield from self._answer()

    def _answer(self) -> Iterator[Socket]:
        while True:
            datagram = self._socket.receive(_ANSWER_SECONDS)
            if datagram is None:
                raise TimeoutError(errno.ETIMEDOUT, "the kernel did not finish its list of sockets")
            for message in parse_messages(datagram):
                if message.kind == NLMSG_DONE:
                    return
                if message.kind == NLMSG_ERROR:
                    raise_error(message)
                found = parse_socket(message.payload)
                if found is not None:
                    yield found


class DestroyNotices:
    """Tells of every TCP socket that is gone. Raises OSError where the kernel does not do so."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(SOCK_DIAG)
        # How often the kernel's buffer overflowed.
        self.overflows = 0
        try:
            for group in _TCP_DESTROY_GROUPS:
                self._socket.join(group)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Iterator[Socket]:
        """The notices that wait, without waiting for more.

        Account and inode are 0 in them: by then no process holds the socket.
        """
        for _ in range(_MAX_DATAGRAMS):
            try:
                datagram = self._socket.receive(0)
            except OSError as failed:
                if failed.errno != errno.ENOBUFS:
                    raise
                self.overflows += 1
                continue
            if datagram is None:
                return
            for message in parse_messages(datagram):
                found = parse_socket(message.payload)
                if found is not None:
                    yield found
