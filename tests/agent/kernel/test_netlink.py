import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.netlink import (
    NLMSG_ERROR,
    SOCK_DIAG,
    Message,
    NetlinkSocket,
    parse_attributes,
    parse_messages,
    raise_error,
    request,
)


@given(st.lists(st.tuples(st.integers(16, 65535), st.binary(max_size=50)), max_size=5))
def test_what_was_written_is_read_again(messages: list[tuple[int, bytes]]) -> None:
    datagram = b"".join(request(kind, 0, payload) + b"\0" * (-len(payload) % 4) for kind, payload in messages)
    assert [(message.kind, message.payload) for message in parse_messages(datagram)] == messages


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_without_error_and_without_end(data: bytes) -> None:
    for message in parse_messages(data):
        assert len(message.payload) <= len(data)
    for value in parse_attributes(data).values():
        assert len(value) <= len(data)


def test_an_error_message_becomes_the_system_error_that_it_carries() -> None:
    with pytest.raises(PermissionError) as refused:
        raise_error(Message(NLMSG_ERROR, struct.pack("=i", -errno.EPERM)))
    assert refused.value.strerror == os.strerror(errno.EPERM)
    raise_error(Message(NLMSG_ERROR, struct.pack("=i", 0)))


def test_a_datagram_of_another_process_is_not_believed() -> None:
    receiver, sender = NetlinkSocket(SOCK_DIAG), NetlinkSocket(SOCK_DIAG)
    try:
        port, _ = receiver._socket.getsockname()
        try:
            sender._socket.sendto(request(20, 0, b"forged"), (port, 0))
        except PermissionError:
            return  # This kernel does not even let it be sent by an ordinary account.
        assert receiver.receive(5) == b""
    finally:
        receiver.close()
        sender.close()
