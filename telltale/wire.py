"""Protobuf's length-delimited fields by hand: to join and split messages without opening them.

On the wire an embedded message and `bytes` are the same, so a message grows a field by appending it.
"""

from collections.abc import Iterable


def varint(value: int) -> bytes:
    """A base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """One length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(number: int, contents: Iterable[bytes]) -> bytes:
    """A repeated length-delimited field."""
    return message((number, content) for content in contents)


def message(numbered: Iterable[tuple[int, bytes]]) -> bytes:
    """Length-delimited fields one behind the other, each copied once."""
    return b"".join(
        part
        for number, content in numbered
        for part in (varint(number << 3 | 2), varint(len(content)), content)
    )


def has_more_fields(data: bytes, most: int) -> bool:
    """Whether a message has more than so many fields at its top, told without reading it.

    A parser makes 40 bytes and more of an embedded message that takes two. What is no message has those
    fields that come before that shows.
    """
    at = 0
    for _ in range(most + 1):
        if at >= len(data):
            return False
        tag, at = _read_varint(data, at)
        match tag & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _read_varint(data, at)
                at += length
            case 5:
                at += 4
            case _:
                # Groups: no message of ours has them, and their parts count as fields.
                pass
    return True


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and what follows it; cut off, it reaches the end."""
    value = shift = 0
    for place in range(at, min(at + 10, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    return value, len(data)
