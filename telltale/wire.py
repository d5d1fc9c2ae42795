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
