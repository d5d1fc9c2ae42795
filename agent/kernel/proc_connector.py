"""The kernel's process connector: it tells of every fork, execution and exit on the host as it happens."""

import errno
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
EXIT = 0x80000000

# struct cn_msg: idx, val, seq, ack, len, flags.
_CONNECTOR = struct.Struct("=IIIIHH")
# struct proc_event up to its union: what, cpu, nanoseconds of the monotonic clock.
_EVENT = struct.Struct("=IIQ")
_IDS = struct.Struct("=IIII")
_CODE = struct.Struct("=I")

# The kernel answers at once or, in a container without the host's process numbers, never.
_ANSWER_SECONDS = 1.0
# Bounds one read, so that its records come out while more events arrive.
_MAX_DATAGRAMS = 2048


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """What happened to a process. `parent` is 0 unless the kernel named it."""

    what: int
    cpu: int
    sequence: int
    monotonic_ns: int
    process: int
    parent: int
    is_thread: bool


def parse_event(payload: bytes) -> ProcessEvent | None:
    """Reads one connector message; None when it is none of the process connector's."""
    if len(payload) < _CONNECTOR.size + _EVENT.size:
        return None
    idx, val, sequence, _, _, _ = _CONNECTOR.unpack_from(payload)
    if (idx, val) != (_CN_IDX_PROC, _CN_VAL_PROC):
        return None
    what, cpu, monotonic_ns = _EVENT.unpack_from(payload, _CONNECTOR.size)
    union = payload[_CONNECTOR.size + _EVENT.size :]
    thread = process = parent = 0
    if what == FORK and len(union) >= _IDS.size:
        _, parent, thread, process = _IDS.unpack_from(union)
    elif what in (EXEC, EXIT) and len(union) >= 8:
        thread, process = struct.unpack_from("=II", union)
    # An execution by a thread leaves the process with that thread alone: it is the process's own.
    is_thread = what != EXEC and thread != process
    return ProcessEvent(what, cpu, sequence, monotonic_ns, process, parent, is_thread)


class ProcessEvents:
    """A subscription to the connector.

    Needs the host's own process and network namespaces, and before Linux 6.6 CAP_NET_ADMIN; raises OSError
    without.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(CONNECTOR, groups=_CN_IDX_PROC)
        self._next_sequence: dict[int, int] = {}
        self._pending: list[ProcessEvent] = []
        # How often the kernel's buffer overflowed, and how many events of all kinds were lost by that.
        self.overflows = 0
        self.lost_events = 0
        try:
            self._subscribe()
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

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
                self.overflows += 1
                continue
            if datagram is None:
                return
            yield from self._events(datagram)

    def _events(self, datagram: bytes) -> Iterator[ProcessEvent]:
        for message in parse_messages(datagram):
            event = parse_event(message.payload)
            if event is None or event.what == ACKNOWLEDGED:
                continue
            # Each processor numbers its events, so a leap in the numbers counts what was dropped.
            expected = self._next_sequence.get(event.cpu, event.sequence)
            leap = (event.sequence - expected) & 0xFFFFFFFF
            self.lost_events += leap if leap < 1 << 31 else 0
            self._next_sequence[event.cpu] = (event.sequence + 1) & 0xFFFFFFFF
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
