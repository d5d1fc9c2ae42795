"""Arrow columns to what SQLite stores: one list of Python values a column."""

import base64
import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.writer.tables import DURATION, Column, Form, Table, is_wrapper
from telltale.contract.fields import enum_name
from telltale.contract.shape import TIMESTAMP, is_repeated

# Sorts as text, is what SQLite's own functions print, and DuckDB reads it as TIMESTAMP. Always UTC.
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

_Plain = Callable[[Any], Any]


def time_text(moment: datetime) -> str:
    """A time as the database holds it; the moment's zone must be UTC or left out."""
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


class RowMaker:
    """Makes the rows of one version of a product."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._json = {
            column.name: _json_of(column.field) for column in table.columns if column.form is Form.JSON
        }

    def columns(self, records: pa.RecordBatch) -> list[list[Any]]:
        """The values of every column of the table, in its order; ValueError when one cannot be written."""
        try:
            return [
                self._values(column, records.column(records.schema.names.index(column.field.name)))
                for column in self._table.columns
            ]
        except (OverflowError, pa.ArrowInvalid) as wrong:
            raise ValueError(f"a value of {self._table.product} cannot be written: {wrong}") from None

    def _values(self, column: Column, values: Any) -> list[Any]:
        match column.form:
            case Form.TIME:
                return list(pc.strftime(values, format=_TIME_FORMAT).to_pylist())
            case Form.SECONDS:
                return list(pc.divide(values.cast(pa.int64()).cast(pa.float64()), 1e6).to_pylist())
            case Form.UNSIGNED:
                return list(values.view(pa.int64()).to_pylist())
            case Form.JSON:
                plain = self._json[column.name]
                return [plain(value) for value in values.to_pylist()]
            case Form.REAL:
                # SQLite knows no NaN and stores NULL; said here, so that a row reads back as it was written.
                return list(pc.if_else(pc.is_nan(values), None, values).to_pylist())
            case _:
                return list(values.to_pylist())


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
