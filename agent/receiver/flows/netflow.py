"""Datagrams of NetFlow v5, NetFlow v9 (RFC 3954) and IPFIX (RFC 7011), taken apart into sets of records."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.receiver.flows.exporter import Context
from agent.receiver.flows.layout import Layout, TemplateField
from telltale.errors import TelltaleError

_V5_HEAD = struct.Struct("!HHIIIIBBH")
_V9_HEAD = struct.Struct("!HHIIII")
_IPFIX_HEAD = struct.Struct("!HHIII")
_PAIR = struct.Struct("!HH")
_ENTERPRISE = struct.Struct("!I")
_NS = 10**9
# The first set that is data, in v9 and IPFIX; those below are templates or of no meaning.
_FIRST_DATA = 256
_V9_TEMPLATES, _V9_OPTIONS, _IPFIX_TEMPLATES, _IPFIX_OPTIONS = 0, 1, 2, 3
# Marks a number that the enterprise's follows.
_ENTERPRISE_BIT = 0x8000
# Templates of one datagram; the largest datagram has room for more only when they are empty.
_MOST_TEMPLATES = 4_096

# A record of NetFlow v5, as a template of v9 would say it.
V5_LAYOUT = Layout(
    tuple(
        TemplateField(0, number, length)
        for number, length in (
            (8, 4), (12, 4), (15, 4), (10, 2), (14, 2), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2),
            # A byte of padding is an element that means nothing here (paddingOctets).
            (210, 1), (6, 1), (4, 1), (5, 1), (16, 2), (17, 2), (9, 1), (13, 1), (210, 2),
        )
    )
)  # fmt: skip


class Malformed(TelltaleError):
    """A datagram is not what it should be. What came before the fault holds."""


@dataclass(frozen=True)
class Head:
    """Who exported a datagram of which number, and what all its sets share."""

    domain: int
    sequence: int
    context: Context


@dataclass(frozen=True)
class Template:
    """A template; None instead of a layout withdraws it, and number 0 all of them."""

    number: int
    layout: Layout | None


@dataclass(frozen=True)
class Data:
    """A set of records of a template."""

    template: int
    data: bytes


Set = Template | Data


@dataclass(frozen=True)
class V5:
    """A datagram of NetFlow v5. rate: one of how many packets, None when it does not say."""

    head: Head
    count: int
    data: bytes
    rate: int | None


def read_v5(datagram: bytes) -> V5:
    """Raises Malformed when it does not hold the records that it states."""
    if len(datagram) < _V5_HEAD.size:
        raise Malformed("a head of NetFlow v5 was cut off")
    _, count, uptime, seconds, nanos, sequence, kind, number, sampling = _V5_HEAD.unpack_from(datagram)
    data = datagram[_V5_HEAD.size :]
    if not 0 < count * V5_LAYOUT.shortest <= len(data):
        raise Malformed(f"it states {count} records and has {len(data)} bytes of them")
    context = Context(seconds * _NS + min(nanos, _NS - 1), uptime)
    head = Head(kind << 8 | number, sequence, context)
    # Two bits of mode, which nobody agrees on, and 14 of the interval.
    rate = sampling & 0x3FFF
    return V5(head, count, data[: count * V5_LAYOUT.shortest], rate or None)


def read_v9_head(datagram: bytes) -> Head:
    if len(datagram) < _V9_HEAD.size:
        raise Malformed("a head of NetFlow v9 was cut off")
    _, _, uptime, seconds, sequence, source = _V9_HEAD.unpack_from(datagram)
    return Head(source, sequence, Context(seconds * _NS, uptime))


def read_v9_sets(datagram: bytes) -> Iterator[Set]:
    """Raises Malformed at the first fault."""
    for number, data in _sets(datagram, _V9_HEAD.size):
        if number == _V9_TEMPLATES:
            yield from _v9_templates(data)
        elif number == _V9_OPTIONS:
            yield from _v9_options(data)
        elif number >= _FIRST_DATA:
            yield Data(number, data)


def read_ipfix_head(datagram: bytes) -> Head:
    if len(datagram) < _IPFIX_HEAD.size:
        raise Malformed("a head of IPFIX was cut off")
    _, length, seconds, sequence, domain = _IPFIX_HEAD.unpack_from(datagram)
    if not _IPFIX_HEAD.size <= length <= len(datagram):
        raise Malformed(f"it states {length} bytes and has {len(datagram)}")
    return Head(domain, sequence, Context(seconds * _NS, None))


def read_ipfix_sets(datagram: bytes) -> Iterator[Set]:
    """Raises Malformed at the first fault."""
    length = _PAIR.unpack_from(datagram)[1]
    for number, data in _sets(datagram[:length], _IPFIX_HEAD.size):
        if number == _IPFIX_TEMPLATES:
            yield from _ipfix_templates(data, options=False)
        elif number == _IPFIX_OPTIONS:
            yield from _ipfix_templates(data, options=True)
        elif number >= _FIRST_DATA:
            yield Data(number, data)


def _sets(datagram: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    while place + _PAIR.size <= len(datagram):
        number, length = _PAIR.unpack_from(datagram, place)
        if length < _PAIR.size:
            if any(datagram[place:]):
                raise Malformed(f"a set of {length} bytes")
            # Some devices fill their datagrams up with zeros.
            return
        if place + length > len(datagram):
            raise Malformed(f"a set of {length} bytes where {len(datagram) - place} are left")
        yield number, datagram[place + _PAIR.size : place + length]
        place += length


def _v9_templates(data: bytes) -> Iterator[Template]:
    place = 0
    for _ in range(_MOST_TEMPLATES):
        if place + 4 > len(data):
            return
        number, count = _PAIR.unpack_from(data, place)
        if number < _FIRST_DATA:
            # Padding.
            return
        fields, place = _v9_fields(data, place + 4, count)
        yield Template(number, _layout(fields))


def _v9_options(data: bytes) -> Iterator[Template]:
    place = 0
    for _ in range(_MOST_TEMPLATES):
        if place + 6 > len(data):
            return
        number, scope_bytes, option_bytes = struct.unpack_from("!HHH", data, place)
        if number < _FIRST_DATA:
            return
        scopes, place = _v9_fields(data, place + 6, scope_bytes // 4)
        options, place = _v9_fields(data, place, option_bytes // 4)
        # What v9 calls its scopes (system, interface, ...) are other numbers than those of elements.
        hidden = [TemplateField(0, 0, scope.length) for scope in scopes]
        yield Template(number, _layout([*hidden, *options], options=True))


def _v9_fields(data: bytes, place: int, count: int) -> tuple[list[TemplateField], int]:
    if place + count * 4 > len(data):
        raise Malformed(f"a template of {count} fields was cut off")
    fields = [TemplateField(0, *_PAIR.unpack_from(data, place + index * 4)) for index in range(count)]
    return fields, place + count * 4


def _ipfix_templates(data: bytes, *, options: bool) -> Iterator[Template]:
    place = 0
    for _ in range(_MOST_TEMPLATES):
        if place + 4 > len(data):
            return
        number, count = _PAIR.unpack_from(data, place)
        place += 4
        if count == 0:
            if number < _FIRST_DATA and number not in (_IPFIX_TEMPLATES, _IPFIX_OPTIONS):
                return
            yield Template(number if number >= _FIRST_DATA else 0, None)
            continue
        scopes = 0
        if options:
            if place + 2 > len(data):
                raise Malformed("an options template was cut off")
            scopes = int.from_bytes(data[place : place + 2], "big")
            place += 2
        if number < _FIRST_DATA or not scopes <= count or (options and not scopes):
            raise Malformed(f"a template {number} of {count} fields, {scopes} of them scopes")
        fields, place = _ipfix_fields(data, place, count)
        yield Template(number, _layout(fields, options=options))


def _ipfix_fields(data: bytes, place: int, count: int) -> tuple[list[TemplateField], int]:
    fields = []
    for _ in range(count):
        if place + 4 > len(data):
            raise Malformed(f"a template of {count} fields was cut off")
        number, length = _PAIR.unpack_from(data, place)
        place += 4
        enterprise = 0
        if number & _ENTERPRISE_BIT:
            if place + 4 > len(data):
                raise Malformed("an enterprise number was cut off")
            (enterprise,) = _ENTERPRISE.unpack_from(data, place)
            place += 4
        fields.append(TemplateField(enterprise, number & ~_ENTERPRISE_BIT, length))
    return fields, place


def _layout(fields: list[TemplateField], *, options: bool = False) -> Layout:
    layout = Layout.of(fields, options=options)
    if layout is None:
        raise Malformed(f"a template of {len(fields)} fields, whose records would have no end or too many")
    return layout
