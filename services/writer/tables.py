"""The tables of a product, derived from its contract: names, columns and how each looks in SQL."""

from dataclasses import dataclass
from enum import Enum

from google.protobuf.descriptor import FieldDescriptor

from telltale.api.mesh.v1.product_pb2 import Kind, Store
from telltale.contract.fields import is_packed_address
from telltale.contract.product import Contract
from telltale.contract.shape import TIMESTAMP, is_repeated
from telltale.errors import InvalidInput
from telltale.naming import table_name

DURATION = "google.protobuf.Duration"
_WRAPPERS = "google.protobuf."
# A table of more is a mistake of its author; SQLite itself ends at 2,000.
MAX_COLUMNS = 500


class Form(Enum):
    """How a field is written into its column, and the column's declared type."""

    INTEGER = ("integer", "BIGINT")
    # Two's complement: SQLite's integers end at 2^63, and a sentinel of all ones becomes -1.
    UNSIGNED = ("unsigned", "BIGINT")
    BOOLEAN = ("boolean", "BOOLEAN")
    REAL = ("real", "DOUBLE")
    TEXT = ("text", "TEXT")
    BYTES = ("bytes", "BLOB")
    TIME = ("time", "TIMESTAMP")
    SECONDS = ("seconds", "DOUBLE")
    JSON = ("json", "TEXT")

    @property
    def sql(self) -> str:
        return self.value[1]


_SCALARS = {
    FieldDescriptor.CPPTYPE_INT32: Form.INTEGER,
    FieldDescriptor.CPPTYPE_INT64: Form.INTEGER,
    FieldDescriptor.CPPTYPE_UINT32: Form.INTEGER,
    FieldDescriptor.CPPTYPE_UINT64: Form.UNSIGNED,
    FieldDescriptor.CPPTYPE_DOUBLE: Form.REAL,
    FieldDescriptor.CPPTYPE_FLOAT: Form.REAL,
    FieldDescriptor.CPPTYPE_BOOL: Form.BOOLEAN,
    FieldDescriptor.CPPTYPE_ENUM: Form.TEXT,
    FieldDescriptor.CPPTYPE_STRING: Form.TEXT,
}


@dataclass(frozen=True)
class Column:
    """One column that a field of the record becomes."""

    name: str
    form: Form
    field: FieldDescriptor


@dataclass(frozen=True)
class Table:
    """A product's place in the database."""

    product: str
    name: str
    # Only inventories have one: `name` then holds the current state.
    history: str | None
    columns: tuple[Column, ...]
    time_column: str
    key_columns: tuple[str, ...]
    # Whether its records are to go into files, where the history does not hold it as rows already.
    in_files: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Every table name that the product takes."""
        return (self.name,) if self.history is None else (self.name, self.history)

    @property
    def log(self) -> str:
        """The table that only grows: every record, or every change of an inventory."""
        return self.history or self.name


def table_of(contract: Contract) -> Table:
    """Raises InvalidInput when the product's fields cannot become columns."""
    columns = tuple(
        _column(field) for field in sorted(contract.record.fields, key=lambda field: field.number)
    )
    if len(columns) > MAX_COLUMNS:
        raise InvalidInput(f"{contract.name} has {len(columns)} fields; a table has at most {MAX_COLUMNS}")
    seen: set[str] = set()
    for column in columns:
        if column.name.startswith("_") or column.name in seen:
            raise InvalidInput(
                f"{contract.name}: the column name {column.name!r} is taken; "
                f"rename the field {column.field.name!r}"
            )
        seen.add(column.name)
    name = table_name(contract.name)
    return Table(
        product=contract.name,
        name=name,
        history=f"{name}_history" if contract.kind == Kind.KIND_INVENTORY else None,
        columns=columns,
        time_column=contract.time_field.lower(),
        key_columns=tuple(field.lower() for field in contract.key_fields),
        in_files=contract.options.store == Store.STORE_COLUMNS,
    )


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _column(field: FieldDescriptor) -> Column:
    # SQL does not tell upper case from lower.
    name = field.name.lower()
    form = _form(field)
    if form is Form.SECONDS and not name.endswith("_seconds"):
        name += "_seconds"
    return Column(name, form, field)


def _form(field: FieldDescriptor) -> Form:
    if is_repeated(field):
        return Form.JSON
    message = field.message_type
    if message is None:
        if field.type == FieldDescriptor.TYPE_BYTES:
            # The columns have addresses as text.
            return Form.TEXT if is_packed_address(field) else Form.BYTES
        return _SCALARS[field.cpp_type]
    if message.full_name == TIMESTAMP:
        return Form.TIME
    if message.full_name == DURATION:
        return Form.SECONDS
    if is_wrapper(field):
        return _form(message.fields_by_name["value"])
    return Form.JSON


def is_wrapper(field: FieldDescriptor) -> bool:
    """Whether the field is one of protobuf's boxes around a scalar, such as Int64Value."""
    message = field.message_type
    return (
        message is not None
        and message.file.name == "google/protobuf/wrappers.proto"
        and message.full_name.startswith(_WRAPPERS)
    )
