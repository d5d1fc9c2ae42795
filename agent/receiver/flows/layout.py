"""A template, compiled: where in a record each field lies, so that many records are read at a time."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from agent.receiver.encoding import Bytes, Signed, Texts, Unsigned, number_field
from agent.receiver.flows.elements import ADDRESSES, NUMBERS, REVERSE, SAMPLER, TIMES, Element
from telltale.api.network.v1.flows_pb2 import FlowsRecord, VendorField
from telltale.wire import field as message_field

# The length of a field whose length stands in the record.
VARIABLE = 0xFFFF
# Of a record's vendor fields these many bytes are kept; those beyond are left out.
_MOST_VENDOR_BYTES = 1_024
_MOST_FIELDS = 512
# From here on numbers of NetFlow v9 are the vendor's own.
_FIRST_VENDOR_ELEMENT = 0x8000

_VENDOR_FIELD = FlowsRecord.DESCRIPTOR.fields_by_name["vendor_fields"].number
_PARTS = VendorField.DESCRIPTOR.fields_by_name
_KNOWN = {
    *(element for elements in NUMBERS.values() for element in elements),
    *(element for elements in ADDRESSES.values() for element in elements),
    *(element for choices in TIMES.values() for element, _ in choices),
    *SAMPLER,
}


class TemplateField(NamedTuple):
    """One field as a template states it; a length of VARIABLE stands in the record."""

    enterprise: int
    number: int
    length: int

    @property
    def element(self) -> Element:
        return self.enterprise, self.number

    @property
    def is_vendors(self) -> bool:
        if self.enterprise == REVERSE or self.element in _KNOWN:
            return False
        return self.enterprise != 0 or self.number >= _FIRST_VENDOR_ELEMENT


@dataclass(frozen=True)
class Records:
    """Records of one layout: the fields of fixed length as a matrix, and vendors' fields, encoded."""

    cells: Bytes
    vendors: tuple[Texts, ...]

    @property
    def count(self) -> int:
        return len(self.cells)


@dataclass(frozen=True)
class Layout:
    """How the records of a template lie in memory. `options`: they speak of the exporter, not of flows."""

    fields: tuple[TemplateField, ...]
    options: bool = False

    @classmethod
    def of(cls, fields: Sequence[TemplateField], *, options: bool = False) -> "Layout | None":
        """None when no record can be of this template: it would have no end."""
        if len(fields) > _MOST_FIELDS:
            return None
        layout = cls(tuple(fields), options)
        return layout if layout.shortest else None

    @cached_property
    def shortest(self) -> int:
        """Bytes that a record has at least."""
        return sum(1 if field.length == VARIABLE else field.length for field in self.fields)

    @cached_property
    def is_fixed(self) -> bool:
        return all(field.length != VARIABLE for field in self.fields)

    @cached_property
    def _width(self) -> int:
        return sum(field.length for field in self.fields if field.length != VARIABLE)

    @cached_property
    def _places(self) -> dict[Element, tuple[int, int]]:
        """Offset and length of the first field of each element, among those of fixed length."""
        places: dict[Element, tuple[int, int]] = {}
        offset = 0
        for field in self.fields:
            if field.length != VARIABLE:
                if field.length:
                    places.setdefault(field.element, (offset, field.length))
                offset += field.length
        return places

    def has(self, element: Element) -> bool:
        return element in self._places

    def count(self, data: bytes) -> int:
        """How many records a set holds; padding is none. Walks through records of variable length."""
        if self.is_fixed:
            return len(data) // self.shortest
        count, place = 0, 0
        while (end := self._end(data, place)) is not None:
            count, place = count + 1, end
        return count

    def read(self, data: bytes) -> Records:
        """The records of sets that follow one another without padding."""
        if not self.is_fixed:
            return self._walk(data)
        cells = np.frombuffer(data, np.uint8, len(data) // self._width * self._width).reshape(-1, self._width)
        return Records(cells, tuple(self._fixed_vendors(cells)))

    def without_padding(self, data: bytes) -> bytes:
        if self.is_fixed:
            return data[: len(data) // self.shortest * self.shortest]
        place = 0
        while (end := self._end(data, place)) is not None:
            place = end
        return data[:place]

    def numbers(self, records: Records, element: Element) -> Unsigned | None:
        """An element as numbers; None where the template lacks it, or it is longer than 64 bits."""
        offset, length = self._places.get(element, (0, 0))
        if not 0 < length <= 8:
            return None
        padded = np.zeros((records.count, 8), np.uint8)
        padded[:, 8 - length :] = records.cells[:, offset : offset + length]
        return padded.view(">u8").reshape(-1).astype(np.uint64)

    def addresses(self, records: Records, four: Element, six: Element) -> Texts | None:
        """An address of either family."""
        short, long = self._bytes(records, four, 4), self._bytes(records, six, 16)
        if short is None and long is None:
            return None
        cells = np.zeros((records.count, 16), np.uint8)
        lengths = np.full(records.count, 4 if long is None else 16, np.int64)
        if long is not None:
            cells[:] = long
        if short is not None:
            mine = np.ones(records.count, np.bool_)
            if long is not None:
                mine = np.any(short, axis=1) | ~np.any(long, axis=1)
            cells[mine] = 0
            cells[mine, :4] = short[mine]
            lengths[mine] = 4
        return Texts(cells, lengths)

    def _bytes(self, records: Records, element: Element, wanted: int) -> Bytes | None:
        offset, length = self._places.get(element, (0, 0))
        return records.cells[:, offset : offset + length] if length == wanted else None

    def _fixed_vendors(self, cells: Bytes) -> list[Texts]:
        """Vendors' fields of fixed length, encoded: what is around the value is the same in every record."""
        found: list[Texts] = []
        offset = size = 0
        for field in self.fields:
            if field.length == VARIABLE:
                continue
            if field.is_vendors and field.length:
                around = encode_vendor_field(field, bytes(field.length))
                size += len(around)
                if size > _MOST_VENDOR_BYTES:
                    break
                encoded = np.tile(np.frombuffer(around, np.uint8), (len(cells), 1))
                encoded[:, len(around) - field.length :] = cells[:, offset : offset + field.length]
                found.append(Texts(encoded, np.full(len(cells), len(around), np.int64)))
            offset += field.length
        return found

    def _end(self, data: bytes, place: int) -> int | None:
        """Where the record ends that begins here; None when no whole one does."""
        if len(data) - place < self.shortest:
            return None
        for field in self.fields:
            length = field.length
            if length == VARIABLE:
                length, place = _length_at(data, place)
            place += length
            if place > len(data):
                return None
        return place

    def _walk(self, data: bytes) -> Records:
        fixed: list[bytes] = []
        vendors: list[bytes] = []
        place = 0
        while (end := self._end(data, place)) is not None:
            kept = bytearray()
            for field in self.fields:
                length = field.length
                if length == VARIABLE:
                    length, place = _length_at(data, place)
                    value = data[place : place + length]
                    if field.is_vendors and value:
                        encoded = encode_vendor_field(field, value)
                        if len(kept) + len(encoded) <= _MOST_VENDOR_BYTES:
                            kept += encoded
                else:
                    fixed.append(data[place : place + length])
                place += length
            vendors.append(bytes(kept))
            place = end
        cells = np.frombuffer(b"".join(fixed), np.uint8).reshape(len(vendors), self._width)
        return Records(cells, (*self._fixed_vendors(cells), _ragged(vendors)))


def encode_vendor_field(field: TemplateField, value: bytes) -> bytes:
    """A VendorField within its record; the value comes last."""
    inner = (
        number_field(_PARTS["enterprise"].number, field.enterprise)
        + number_field(_PARTS["element"].number, field.number)
        + message_field(_PARTS["value"].number, value)
    )
    return message_field(_VENDOR_FIELD, inner)


def _ragged(texts: Sequence[bytes]) -> Texts:
    lengths: Signed = np.array([len(text) for text in texts], np.int64)
    width = int(lengths.max(initial=0))
    joined = b"".join(text.ljust(width, b"\0") for text in texts)
    return Texts(np.frombuffer(joined, np.uint8).reshape(len(texts), width), lengths)


def _length_at(data: bytes, place: int) -> tuple[int, int]:
    """The length that stands in the record, and where the value begins (RFC 7011, section 7)."""
    if place >= len(data):
        return VARIABLE, place
    if data[place] < 0xFF:
        return data[place], place + 1
    if place + 3 > len(data):
        return VARIABLE, place
    return struct.unpack_from("!H", data, place + 1)[0], place + 3
