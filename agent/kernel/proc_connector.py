"""The kernel's process connector: it tells of every fork and execution on the host as it happens."""

import errno
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agent.kernel.netlink import CONNECTOR, NLMSG_DONE, NetlinkSocket, parse_messages, request

_CN_IDX_PROC = 1
_CN_VAL_PROC = 1
_LISTEN = 1

ACKNOWLEDGED = 0x0
FORK = 0x1
EXEC = 0x2

# struct cn_msg: idx, val, seq, ack, len, flags.
_CONNECTOR = struct.Struct("=IIIIHH")
# struct proc_event up to its union: what, cpu, nanoseconds of the monotonic clock.
_EVENT = struct.Struct("=IIQ")
_IDS = struct.Struct("=IIII")
_CODE = struct.Struct("=I")

# Where they lie in a datagram, behind the header of netlink: what happened, and of a fork the child's numbers
# as a thread and as a process.
_WHAT, _THREAD, _PROCESS = 36, 60, 64
# Codes of the kernel's socket filters.
_LOAD, _TO_X, _IF_EQUAL, _IF_EQUAL_X, _RETURN = 0x20, 0x07, 0x15, 0x1D, 0x06
# Executions, forks of processes, and the answer to a subscription. A thread is a fork too, and most hosts
# start many more of these, which then all end: the kernel need not wake anybody for them. A load is in
# network order.
WANTED = (
    (_LOAD, 0, 0, _WHAT),
    (_IF_EQUAL, 7, 0, socket.htonl(EXEC)),
    (_IF_EQUAL, 6, 0, socket.htonl(ACKNOWLEDGED)),
    (_IF_EQUAL, 0, 4, socket.htonl(FORK)),
    (_LOAD, 0, 0, _THREAD),
    (_TO_X, 0, 0, 0),
    (_LOAD, 0, 0, _PROCESS),
    (_IF_EQUAL_X, 1, 0, 0),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFFFFFF),
)

# The kernel answers at once or, in a container without the host's process numbers, never.
_ANSWER_SECONDS = 1.0
# Bounds one read, so that its records come out while more events arrive.
_MAX_DATAGRAMS = 2048


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """What happened to a process. `parent` is 0 unless the kernel named it."""

    what: int
    monotonic_ns: int
    process: int
    parent: int


def parse_event(payload: bytes) -> ProcessEvent | None:
    """Reads one connector message; None when it is none of the process connector's."""
    if len(payload) < _CONNECTOR.size + _EVENT.size:
        return None
    idx, val, _, _, _, _ = _CONNECTOR.unpack_from(payload)
    if (idx, val) != (_CN_IDX_PROC, _CN_VAL_PROC):
        return None
    what, _, monotonic_ns = _EVENT.unpack_from(payload, _CONNECTOR.size)
    union = payload[_CONNECTOR.size + _EVENT.size :]
    process = parent = 0
    if what == FORK and len(union) >= _IDS.size:
        _, parent, _, process = _IDS.unpack_from(union)
    elif what == EXEC and len(union) >= 8:
        # An execution by a thread leaves the process with that thread alone: it is the process's own.
        _, process = struct.unpack_from("=II", union)
    return ProcessEvent(what, monotonic_ns, process, parent)


class ProcessEvents:
    """A subscription to the connector.

    Needs the host's own process and network namespaces, and before Linux 6.6 CAP_NET_ADMIN; raises OSError
    without.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(CONNECTOR, groups=_CN_IDX_PROC, wanted=WANTED)
        self._pending: list[ProcessEvent] = []
        try:
            self._subscribe()
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def lost_events(self) -> int:
        """Forks and executions that the kernel's buffer had no room for, since the start."""
        return self._socket.dropped()

    def close(self) -> None:
        """Ends the subscription; the kernel notices by itself."""
        self._socket.close()

    def read(self) -> Iterator[ProcessEvent]:
        """The events that wait, without waiting for more."""
        pending, self._pending = self._pending, []
        yield from pending
        for _ in range(_MAX_DATAGRAMS):
            try:
                datagram = self._socket.receive(0)
            except OSError as failed:
                if failed.errno != errno.ENOBUFS:
                    raise
                # The kernel has counted what it dropped.
                continue
            if datagram is None:
                return
            yield from self._events(datagram)

    def _events(self, datagram: bytes) -> Iterator[ProcessEvent]:
        for message in parse_messages(datagram):
            event = parse_event(message.payload)
            if event is None or event.what == ACKNOWLEDGED:
                continue
            yield event

    def _subscribe(self) -> None:
        body = struct.pack("=I", _LISTEN)
        head = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(body), 0)
        self._socket.send(request(NLMSG_DONE, 0, head + body))
        # Events of other listeners' subscriptions may come before the answer to ours.
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            datagram = self._socket.receive(left) or b""
            for message in parse_messages(datagram):
                code = refusal(message.payload)
                if code is not None:
                    if code:
                        raise OSError(code, "the process connector refused the subscription")
                    return
            self._pending += self._events(datagram)
        raise TimeoutError(errno.ETIMEDOUT, "the process connector does not answer in this namespace")


def refusal(payload: bytes) -> int | None:
    """The error number in the connector's answer to a subscription, 0 for success; None for other events."""
    event = parse_event(payload)
    at = _CONNECTOR.size + _EVENT.size
    if event is None or event.what != ACKNOWLEDGED or len(payload) < at + _CODE.size:
        return None
    code: int = _CODE.unpack_from(payload, at)[0]
    return code
