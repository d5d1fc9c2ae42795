"""Decoded records to what is stored: rows of Python values for SQLite, typed columns for files."""

import base64
import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.writer.tables import DURATION, Column, Form, Table, is_wrapper
from telltale.contract.fields import enum_name
from telltale.contract.shape import TIMESTAMP, is_repeated

# Types of files for the types that columns are declared with: what DuckDB makes of a row's value too.
ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "DOUBLE": pa.float64(),
    "TEXT": pa.string(),
    "BLOB": pa.binary(),
    "TIMESTAMP": pa.timestamp("us"),
}

_Plain = Callable[[Any], Any]


def time_text(moment: datetime) -> str:
    """A time as the database holds it; the moment's zone must be UTC or left out.

    Sorts as text, is what SQLite's own functions print, and DuckDB reads it as TIMESTAMP.
    """
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def time_of(text: str) -> datetime:
    """The moment that `time_text` wrote."""
    return datetime.fromisoformat(text)


class Former:
    """Gives the records of one version of a product the forms of its table's columns."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._json = {
            column.name: _json_of(column.field) for column in table.columns if column.form is Form.JSON
        }
        self._schema = pa.schema([(column.name, ARROW_TYPES[column.form.sql]) for column in table.columns])

    def rows(self, records: pa.RecordBatch) -> list[tuple[Any, ...]]:
        """A row a record, as SQLite stores it; ValueError when a value cannot be written."""
        return list(zip(*(self._listed(*pair) for pair in self._columns(records)), strict=True))

    def arrays(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """The same as columns, each of its declared type; ValueError when a value cannot be written."""
        arrays = [self._formed(column, values) for column, values in self._columns(records)]
        try:
            return pa.RecordBatch.from_arrays(
                [array.cast(kind) for array, kind in zip(arrays, self._schema.types, strict=True)],
                schema=self._schema,
            )
        except pa.ArrowInvalid as wrong:
            raise self._unwritable(wrong) from None

    def _columns(self, records: pa.RecordBatch) -> Iterator[tuple[Column, Any]]:
        names = records.schema.names
        return ((column, records.column(names.index(column.field.name))) for column in self._table.columns)

    def _listed(self, column: Column, values: Any) -> list[Any]:
        try:
            if column.form is Form.TIME:
                # As `time_text` writes it: always with microseconds.
                values = values.cast(pa.string())
            elif column.form is Form.JSON:
                return self._texts(column, values)
            return list(self._formed(column, values).to_pylist())
        except (OverflowError, pa.ArrowInvalid) as wrong:
            raise self._unwritable(wrong) from None

    def _formed(self, column: Column, values: Any) -> Any:
        match column.form:
            case Form.SECONDS:
                return pc.divide(values.cast(pa.int64()).cast(pa.float64()), 1e6)
            case Form.UNSIGNED:
                return values.view(pa.int64())
            case Form.JSON:
                return pa.array(self._texts(column, values), pa.string())
            case Form.REAL:
                # SQLite knows no NaN and stores NULL; said here, so that a row reads back as it was written.
                return pc.if_else(pc.is_nan(values), None, values)
            case _:
                return values

    def _texts(self, column: Column, values: Any) -> list[str | None]:
        plain = self._json[column.name]
        return [plain(value) for value in values.to_pylist()]

    def _unwritable(self, wrong: Exception) -> ValueError:
        return ValueError(f"a value of {self._table.product} cannot be written: {wrong}")


def _json_of(field: FieldDescriptor) -> _Plain:
    plain = _field(field)
    return lambda value: (
        None if value is None else json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    )


def _field(field: FieldDescriptor) -> _Plain:
    """How a field's value looks in JSON: names as in the proto, times as in the database, bytes in base64."""
    if not is_repeated(field):
        return _single(field)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = _single(field.message_type.fields_by_name["value"])
        return lambda entries: {_map_key(key): value(item) for key, item in entries}
    element = _single(field)
    return lambda items: [element(item) for item in items]


def _map_key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _single(field: FieldDescriptor) -> _Plain:
    message = field.message_type
    if message is None:
        return _scalar(field)
    if message.full_name == TIMESTAMP:
        return lambda value: None if value is None else time_text(value)
    if message.full_name == DURATION:
        return lambda value: None if value is None else value / timedelta(seconds=1)
    if is_wrapper(field):
        return _scalar(message.fields_by_name["value"])
    return _message(message)


def _message(message: Descriptor) -> _Plain:
    members = [(field.name, _field(field)) for field in message.fields]

    def plain(value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        # Absent is not zero: what the source did not say is not there.
        return {name: member(value[name]) for name, member in members if value[name] is not None}

    return plain


def _scalar(field: FieldDescriptor) -> _Plain:
    enum = field.enum_type
    if enum is not None:
        return lambda number: None if number is None else enum_name(enum, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: None if value is None else base64.b64encode(value).decode()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        # JSON has no such numbers; protobuf's own JSON writes them so.
        return lambda value: value if value is None or math.isfinite(value) else _NOT_FINITE[str(value)]
    return lambda value: value


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
