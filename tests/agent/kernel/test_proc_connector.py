import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.netlink import NLMSG_DONE, request
from agent.kernel.proc_connector import EXEC, EXIT, FORK, ProcessEvent, ProcessEvents, parse_event, refusal

# Captured on Linux 6.18: the header of the connector, of the event, and its union.
_HEAD = struct.pack("=IIIIHH", 1, 1, 7, 0, 40, 0)


def message(what: int, *numbers: int, sequence: int = 7, cpu: int = 1) -> bytes:
    head = struct.pack("=IIIIHH", 1, 1, sequence, 0, 40, 0)
    event = struct.pack("=IIQ", what, cpu, 1_271_146_963_259)
    return head + event + struct.pack(f"={len(numbers)}I", *numbers).ljust(24, b"\0")


def test_a_fork_names_parent_and_child() -> None:
    event = parse_event(message(FORK, 7239, 7239, 7240, 7240))
    assert event == ProcessEvent(FORK, 1, 7, 1_271_146_963_259, process=7240, parent=7239, is_thread=False)


def test_a_new_thread_is_known_as_one() -> None:
    event = parse_event(message(FORK, 7239, 7239, 7241, 7240))
    assert event is not None and event.is_thread


def test_an_execution_by_a_thread_is_its_process_s() -> None:
    event = parse_event(message(EXEC, 7241, 7240))
    assert event is not None and event.process == 7240 and not event.is_thread


def test_the_exit_of_a_thread_is_not_its_process_s() -> None:
    event = parse_event(message(EXIT, 7241, 7240, 0, 17))
    assert event is not None and event.is_thread


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


def reading(*datagrams: bytes | OSError) -> ProcessEvents:
    events = ProcessEvents.__new__(ProcessEvents)
    events.__dict__.update(
        _socket=Datagrams(*datagrams), _next_sequence={}, _pending=[], overflows=0, lost_events=0
    )
    return events


def datagram(what: int, *numbers: int, sequence: int, cpu: int = 0) -> bytes:
    return request(NLMSG_DONE, 0, message(what, *numbers, sequence=sequence, cpu=cpu))


def test_a_leap_in_a_processor_s_numbers_counts_what_was_lost() -> None:
    events = reading(
        datagram(EXEC, 5, 5, sequence=10, cpu=0),
        datagram(EXEC, 6, 6, sequence=900, cpu=1),
        OSError(errno.ENOBUFS, "full"),
        datagram(EXEC, 7, 7, sequence=15, cpu=0),
        datagram(EXEC, 8, 8, sequence=901, cpu=1),
    )
    assert [event.process for event in events.read()] == [5, 6, 7, 8]
    assert (events.overflows, events.lost_events) == (1, 4)


def test_the_numbers_of_a_processor_may_wrap() -> None:
    events = reading(datagram(EXEC, 5, 5, sequence=0xFFFFFFFF), datagram(EXEC, 6, 6, sequence=0))
    assert len(list(events.read())) == 2
    assert events.lost_events == 0
