"""Makes bad inputs of good ones. The same seed makes the same inputs."""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from telltale.wire import varint

# Fields of one message that are told apart; what lies behind them is one.
_MOST_FIELDS = 64
_DEEPEST = 8
# Numbers that parsers and databases stumble over.
_NUMBERS = (
    *(0, 1, 2, 127, 128, 255, 256),
    *((1 << bits) + more for bits in (15, 16, 31, 32, 53, 62, 63) for more in (-1, 0, 1)),
    (1 << 64) - 1,
)
_WORDS = (b"\x00", b"\xff\xfe", b"\xc0\x80", "\ud7ff\U0010ffff".encode(), b"\xed\xa0\x80", b"%s%n", b"'\"\\")


class _Field(NamedTuple):
    """Where a field of a message stands: its tag, its content, and what follows it."""

    start: int
    content: int
    end: int
    number: int
    kind: int


class Mutator:
    """Draws one changed input after the other from a corpus of good ones. In text no field is looked for."""

    def __init__(self, seed: int, corpus: Sequence[bytes], *, text: bool = False) -> None:
        self._random = Random(seed)
        self._corpus = corpus
        self._text = text

    def next(self) -> bytes:
        """The next input: one to four changes of a good one; now and then bytes without any sense."""
        if self._random.random() < 0.03:
            return self._random.randbytes(self._below(200))
        return self.changed(self._one(self._corpus))

    def changed(self, data: bytes) -> bytes:
        """One input, changed."""
        for _ in range(1 + self._below(4)):
            data = self._bytes(data) if self._text else self._message(data, 0)
        return data

    def _below(self, bound: int) -> int:
        return int(self._random.random() * bound)

    def _one(self, choices: Sequence[bytes]) -> bytes:
        return choices[self._below(len(choices))]

    def _message(self, data: bytes, depth: int) -> bytes:
        fields = _fields(data)
        if not fields or self._random.random() < 0.2:
            return self._bytes(data)
        field = fields[self._below(len(fields))]
        if field.kind == 2 and depth < _DEEPEST and self._random.random() < 0.6:
            inner = self._message(data[field.content : field.end], depth + 1)
            return data[: field.start] + _delimited(field.number, inner) + data[field.end :]
        change = _CHANGES[self._below(len(_CHANGES))]
        return change(self, data, field)

    def _bytes(self, data: bytes) -> bytes:
        at = self._below(len(data) + 1)
        match self._below(8):
            case 0 if data:
                at %= len(data)
                return data[:at] + bytes([data[at] ^ 1 << self._below(8)]) + data[at + 1 :]
            case 1:
                return data[:at]
            case 2:
                return data[:at] + data[at + 1 + self._below(16) :]
            case 3:
                return data[:at] + self._random.randbytes(1 + self._below(8)) + data[at:]
            case 4:
                return data[:at] + self._one(_WORDS) + data[at:]
            case 5:
                other = self._one(self._corpus)
                start = self._below(len(other) + 1)
                return data[:at] + other[start : start + self._below(64)] + data[at:]
            case 6:
                span = data[at : at + 1 + self._below(16)]
                return data[:at] + span * (1 + self._below(4)) + data[at:]
            case _:
                return data[:at] + bytes([self._below(256)]) + data[at + 1 :]

    def _twice(self, data: bytes, field: _Field) -> bytes:
        whole = data[field.start : field.end]
        return data[: field.start] + whole * (2 + self._below(3)) + data[field.end :]

    def _moved(self, data: bytes, field: _Field) -> bytes:
        return data[: field.start] + data[field.end :] + data[field.start : field.end]

    def _left_out(self, data: bytes, field: _Field) -> bytes:
        return data[: field.start] + data[field.end :]

    def _numbered(self, data: bytes, field: _Field) -> bytes:
        """Another field number, among them 0 and one that is too large."""
        number = (0, 1 + self._below(20), 1 << 29, 1_000 + self._below(9))[self._below(4)]
        return data[: field.start] + varint(number << 3 | field.kind) + data[field.content :]

    def _typed(self, data: bytes, field: _Field) -> bytes:
        """Another wire type, among them groups and those that do not exist."""
        tag = varint(field.number << 3 | self._below(8))
        return data[: field.start] + tag + data[field.content :]

    def _counted(self, data: bytes, field: _Field) -> bytes:
        """A number that is a limit of something, in as many bytes as it takes or more."""
        number = varint(_NUMBERS[self._below(len(_NUMBERS))])
        if self._random.random() < 0.3:
            number = bytes(byte | 0x80 for byte in number) + b"\x80" * self._below(12) + b"\x00"
        return data[: field.start] + varint(field.number << 3) + number + data[field.end :]

    def _long(self, data: bytes, field: _Field) -> bytes:
        """A length that is more than follows."""
        length = varint(_NUMBERS[self._below(len(_NUMBERS))])
        return data[: field.start] + varint(field.number << 3 | 2) + length + data[field.content :]

    def _nested(self, data: bytes, field: _Field) -> bytes:
        """The field within itself, over and over."""
        inner = data[field.content : field.end][:64]
        for _ in range(self._below(150)):
            inner = _delimited(field.number, inner)
        return data[: field.start] + inner + data[field.end :]

    def _swapped(self, data: bytes, field: _Field) -> bytes:
        """The content of a field of another good input."""
        other = self._one(self._corpus)
        found = _fields(other)
        if not found:
            return data
        place = found[self._below(len(found))]
        content = other[place.content : place.end]
        return data[: field.start] + _delimited(field.number, content) + data[field.end :]


_CHANGES: tuple[Callable[[Mutator, bytes, _Field], bytes], ...] = (
    Mutator._twice,
    Mutator._moved,
    Mutator._left_out,
    Mutator._numbered,
    Mutator._typed,
    Mutator._counted,
    Mutator._long,
    Mutator._nested,
    Mutator._swapped,
)


def _delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def _fields(data: bytes) -> list[_Field]:
    """The fields of a message as far as it is one."""
    found: list[_Field] = []
    at = 0
    while at < len(data) and len(found) < _MOST_FIELDS:
        tag, content = _read(data, at)
        kind = tag & 7
        if kind == 0:
            _, end = _read(data, content)
        elif kind == 2:
            length, content = _read(data, content)
            end = content + length
        elif kind in (1, 5):
            end = content + (8 if kind == 1 else 4)
        else:
            break
        if not tag >> 3 or end > len(data) or end <= at:
            break
        found.append(_Field(at, content, end, tag >> 3, kind))
        at = end
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    """A varint and what follows it; beyond the end when it is cut off."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
    return 0, len(data) + 1
