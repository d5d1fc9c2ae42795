"""Netlink as the kernel-told collectors need it: a socket with a large buffer, and its messages as bytes."""

import os
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CONNECTOR = 11
SOCK_DIAG = 4

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
# Raises the buffer above the system's limit, for those with CAP_NET_ADMIN.
SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
# A burst of events waits here while the reader is busy; each costs about 1 KiB of kernel memory.
RECEIVE_BUFFER_BYTES = 8 << 20
# Only what a filter lets pass wakes the reader.
_SO_ATTACH_FILTER = 26
# struct sock_filter: code, jumps if true and if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")
# struct sock_fprog: how many instructions, and where they lie.
_PROGRAM = struct.Struct("@HP")
# struct sk_meminfo, of which the last number says how many datagrams found no room.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_DATAGRAM_BYTES = 1 << 16


@dataclass(frozen=True)
class Message:
    """One netlink message without its header."""

    kind: int
    payload: bytes


def parse_messages(datagram: bytes) -> Iterator[Message]:
    """Splits what one receive returned; stops at what is cut or makes no sense."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size or at + length > len(datagram):
            return
        yield Message(kind, datagram[at + _HEADER.size : at + length])
        at += (length + 3) & ~3


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """The type-length-value attributes that follow a message's fixed part."""
    attributes = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            break
        attributes[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return attributes


def request(kind: int, flags: int, payload: bytes) -> bytes:
    """A message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, 0, 0) + payload


def raise_error(message: Message) -> None:
    """Raises the OSError that an error message carries; an acknowledgement carries none."""
    if message.kind == NLMSG_ERROR and len(message.payload) >= _ERROR.size:
        (code,) = _ERROR.unpack_from(message.payload)
        if code:
            raise OSError(-code, os.strerror(-code))


# Instructions of the kernel's socket filters: code, jumps if true and if false, operand.
Filter = Sequence[tuple[int, int, int, int]]


def attach_filter(receiving: socket.socket, instructions: Filter) -> None:
    """Lets the kernel drop what the filter does not want, before it wakes anybody. It copies the filter."""
    code = array("B", b"".join(_INSTRUCTION.pack(*one) for one in instructions))
    address, _ = code.buffer_info()
    receiving.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(instructions), address))


class NetlinkSocket:
    """A netlink socket that only ever talks to this host's kernel."""

    def __init__(self, protocol: int, groups: int = 0, wanted: Filter | None = None) -> None:
        """wanted: a filter of what is received; everything without."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            if wanted is not None:
                attach_filter(self._socket, wanted)
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise

    def join(self, group: int) -> None:
        """Subscribes to a multicast group; raises PermissionError where it takes more rights."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def dropped(self) -> int:
        """How many datagrams found no room, since the start; wraps at 2^32."""
        numbers = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(numbers)[-1])

    def send(self, message: bytes) -> None:
        self._socket.send(message)

    def receive(self, timeout: float) -> bytes | None:
        """The next datagram of the kernel, waiting at most `timeout` seconds; None when there is none.

        Raises OSError with ENOBUFS when the kernel had to drop some.
        """
        self._socket.settimeout(timeout)
        try:
            datagram, (port, _) = self._socket.recvfrom(_DATAGRAM_BYTES)
        except (BlockingIOError, TimeoutError):
            return None
        # Port 0 is the kernel; any other process may send to a netlink socket, and none is believed.
        return datagram if port == 0 else b""
