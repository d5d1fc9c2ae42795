import contextlib
import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.netlink import NLMSG_DONE, attach_filter, request
from agent.kernel.proc_connector import EXEC, FORK, WANTED, ProcessEvent, ProcessEvents, parse_event, refusal

# Of events that are not wanted.
_EXIT, _COMMAND = 0x80000000, 0x200
# Captured on Linux 6.18: the header of the connector, of the event, and its union.
_HEAD = struct.pack("=IIIIHH", 1, 1, 7, 0, 40, 0)


def message(what: int, *numbers: int) -> bytes:
    head = struct.pack("=IIIIHH", 1, 1, 7, 0, 40, 0)
    event = struct.pack("=IIQ", what, 1, 1_271_146_963_259)
    return head + event + struct.pack(f"={len(numbers)}I", *numbers).ljust(24, b"\0")


def test_a_fork_names_parent_and_child() -> None:
    event = parse_event(message(FORK, 7239, 7239, 7240, 7240))
    assert event == ProcessEvent(FORK, 1_271_146_963_259, process=7240, parent=7239)


def test_an_execution_by_a_thread_is_its_process_s() -> None:
    event = parse_event(message(EXEC, 7241, 7240))
    assert event is not None and event.process == 7240


def test_the_kernel_passes_on_executions_and_forks_of_processes_alone() -> None:
    """The filter in a socket of another family, through which any datagram can be sent."""
    sent = [
        (0, 0),
        (FORK, 7239, 7239, 7240, 7240),
        (FORK, 7239, 7239, 7241, 7240),
        (EXEC, 7241, 7240),
        (_EXIT, 7240, 7240, 0, 17),
        (_COMMAND, 7240, 7240),
    ]
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        attach_filter(receiver, WANTED)
        receiver.setblocking(False)
        for what, *numbers in sent:
            sender.send(datagram(what, *numbers))
        sender.send(b"short")
        received = []
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(receiver.recv(1 << 16))
    assert received == [datagram(what, *numbers) for what, *numbers in (sent[0], sent[1], sent[3])]


def test_other_connectors_messages_are_left_out() -> None:
    assert parse_event(struct.pack("=IIIIHH", 9, 1, 0, 0, 40, 0) + b"\0" * 40) is None


@pytest.mark.parametrize("code", [0, errno.EPERM])
def test_the_answer_to_a_subscription_carries_its_error(code: int) -> None:
    assert refusal(message(0, code)) == code
    assert refusal(message(EXEC, 1, 1)) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_parsed_without_error(data: bytes) -> None:
    parse_event(data)
    refusal(data)


def datagram(what: int, *numbers: int) -> bytes:
    return request(NLMSG_DONE, 0, message(what, *numbers))


class Datagrams:
    """Stands in for the socket: what the kernel would have sent."""

    def __init__(self, *datagrams: bytes | OSError) -> None:
        self._datagrams = list(datagrams)

    def receive(self, timeout: float) -> bytes | None:
        if not self._datagrams:
            return None
        first = self._datagrams.pop(0)
        if isinstance(first, OSError):
            raise first
        return first

    def dropped(self) -> int:
        return 4


def test_reading_goes_on_behind_what_the_kernel_dropped() -> None:
    events = ProcessEvents.__new__(ProcessEvents)
    told = Datagrams(datagram(EXEC, 5, 5), OSError(errno.ENOBUFS, "full"), datagram(EXEC, 7, 7))
    events.__dict__.update(_socket=told, _pending=[])
    assert [event.process for event in events.read()] == [5, 7]
    assert events.lost_events == 4
