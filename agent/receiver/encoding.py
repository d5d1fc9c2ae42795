"""Columns to records on the wire: the protobuf encoding of many records at a time, by numpy.

Building a message for each record costs several microseconds; this costs about two. A matrix has a row for
each byte that a record may need and a column for each record; a second one says which of them it has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from telltale.wire import varint

Bytes: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]
Unsigned: TypeAlias = npt.NDArray[np.uint64]
Signed: TypeAlias = npt.NDArray[np.int64]

# Bounds the matrices: about 200 bytes a record, twice.
_AT_A_TIME = 8_192
_NS = 10**9
# Field `records` of a product's Records message.
_RECORDS_TAG = 1 << 3 | 2
_VARINT, _LENGTH = 0, 2


@dataclass(frozen=True)
class Numbers:
    """Unsigned numbers of up to 64 bits, and which records have one; all, when `present` is None."""

    values: Unsigned
    present: Mask | None = None


@dataclass(frozen=True)
class Times:
    """Moments in nanoseconds since 1970, none before; and which records have one."""

    unix_ns: Signed
    present: Mask | None = None


@dataclass(frozen=True)
class Texts:
    """Bytes for each record, from the left of its row, and how many of them count; 0 is absent."""

    cells: Bytes
    lengths: Signed


Column: TypeAlias = Numbers | Times | Texts


@dataclass(frozen=True)
class Columns:
    """Some records: a column for each field that they have, and fields that are encoded already."""

    count: int
    by_name: Mapping[str, Column]
    encoded: tuple[Texts, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """Records as a Records message, and where in it each of them ends."""

    payload: bytes
    ends: Signed
    # Event times of the records in nanoseconds since 1970.
    times: Signed


@dataclass
class _Matrix:
    """Bytes of records, as rows of one byte each."""

    count: int
    cells: list[Bytes] = field(default_factory=list)
    kept: list[Mask] = field(default_factory=list)

    def put(self, cells: Bytes, kept: Mask) -> None:
        self.cells.append(cells)
        self.kept.append(kept)

    def constant(self, text: bytes, kept: Mask) -> None:
        for byte in text:
            self.put(np.full(self.count, byte, np.uint8), kept)

    def varint(self, values: Unsigned, kept: Mask) -> None:
        widths = _widths(values)
        for place in range(int(widths.max(initial=1))):
            more = (widths > place + 1).view(np.uint8) << np.uint8(7)
            low = (values >> np.uint64(7 * place)).astype(np.uint8) & np.uint8(0x7F)
            self.put(low | more, kept & (widths > place))

    def lengths(self) -> Signed:
        return np.sum(self.kept, axis=0, dtype=np.int64) if self.kept else np.zeros(self.count, np.int64)


class RecordEncoder:
    """Encodes records of one message type."""

    def __init__(self, record: Descriptor, time_field: str) -> None:
        self._fields = sorted(record.fields, key=lambda field: field.number)
        self._time_field = time_field

    def encode(self, columns: Columns) -> Iterator[Encoded]:
        """The records in their order, in pieces. Every record must have its event time."""
        for first in range(0, columns.count, _AT_A_TIME):
            yield self._encode(_slice(columns, first, min(first + _AT_A_TIME, columns.count)))

    def _encode(self, columns: Columns) -> Encoded:
        body = _Matrix(columns.count)
        for declared in self._fields:
            column = columns.by_name.get(declared.name)
            if column is not None:
                _put(body, declared, column)
        for texts in columns.encoded:
            _put_bytes(body, texts)
        lengths = body.lengths()
        head = _Matrix(columns.count)
        everywhere = np.ones(columns.count, np.bool_)
        head.constant(bytes([_RECORDS_TAG]), everywhere)
        head.varint(lengths.astype(np.uint64), everywhere)
        cells = np.ascontiguousarray(np.array([*head.cells, *body.cells]).T)
        kept = np.ascontiguousarray(np.array([*head.kept, *body.kept]).T)
        times = columns.by_name[self._time_field]
        if not isinstance(times, Times):
            raise TypeError(f"{self._time_field} is no column of times")
        return Encoded(cells[kept].tobytes(), np.cumsum(lengths + head.lengths()), times.unix_ns)


def _put(body: _Matrix, declared: FieldDescriptor, column: Column) -> None:
    tag = declared.number << 3
    if isinstance(column, Numbers):
        # Where a message cannot tell absent from zero, zero is not written.
        kept = column.values != 0 if column.present is None else column.present
        if column.present is None and declared.has_presence:
            kept = np.ones(body.count, np.bool_)
        elif column.present is not None and not declared.has_presence:
            kept = kept & (column.values != 0)
        if kept.any():
            body.constant(varint(tag | _VARINT), kept)
            body.varint(column.values, kept)
    elif isinstance(column, Times):
        _put_times(body, tag, column)
    else:
        kept = column.lengths > 0
        if kept.any():
            body.constant(varint(tag | _LENGTH), kept)
            body.varint(column.lengths.astype(np.uint64), kept)
            _put_bytes(body, column)


def _put_times(body: _Matrix, tag: int, column: Times) -> None:
    """A Timestamp: `seconds = 1` and `nanos = 2`, of which zero is not written."""
    kept = np.ones(body.count, np.bool_) if column.present is None else column.present
    seconds, nanos = np.divmod(np.where(kept, column.unix_ns, 0), _NS)
    inner = _Matrix(body.count)
    for number, values in ((1, seconds.astype(np.uint64)), (2, nanos.astype(np.uint64))):
        some = kept & (values != 0)
        inner.constant(bytes([number << 3 | _VARINT]), some)
        inner.varint(values, some)
    body.constant(varint(tag | _LENGTH), kept)
    body.varint(inner.lengths().astype(np.uint64), kept)
    body.cells += inner.cells
    body.kept += inner.kept


def _put_bytes(body: _Matrix, texts: Texts) -> None:
    columns = np.ascontiguousarray(texts.cells.T)
    for place in range(int(texts.lengths.max(initial=0))):
        body.put(columns[place], texts.lengths > place)


def _widths(values: Unsigned) -> Signed:
    """How many bytes each number takes as a varint."""
    widths = np.ones(len(values), np.int64)
    largest = int(values.max(initial=0))
    for bits in range(7, 64, 7):
        if largest < 1 << bits:
            break
        widths += values >= np.uint64(1 << bits)
    return widths


def number_field(number: int, value: int) -> bytes:
    """One field that is an unsigned number; nothing for zero."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def _slice(columns: Columns, first: int, last: int) -> Columns:
    if first == 0 and last == columns.count:
        return columns
    by_name: dict[str, Column] = {}
    for name, column in columns.by_name.items():
        if isinstance(column, Texts):
            by_name[name] = Texts(column.cells[first:last], column.lengths[first:last])
        else:
            present = None if column.present is None else column.present[first:last]
            by_name[name] = (
                Numbers(column.values[first:last], present)
                if isinstance(column, Numbers)
                else Times(column.unix_ns[first:last], present)
            )
    encoded = tuple(Texts(one.cells[first:last], one.lengths[first:last]) for one in columns.encoded)
    return Columns(last - first, by_name, encoded)
