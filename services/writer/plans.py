"""Makes the database fit the products: tables, columns that appear later, and each product's promise."""

import json
import sqlite3
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from services.writer import manifest, sql
from services.writer.rows import time_text
from services.writer.tables import MAX_COLUMNS, Table
from telltale.api.mesh.v1.product_pb2 import Classification, Kind, Status, Store
from telltale.consume.delivered import Delivered
from telltale.contract.product import Contract
from telltale.contract.schema import Schema
from telltale.errors import InvalidInput
from telltale.naming import owner_of, product_prefix

# Tables are for ever: products that come and go under new names must not fill the database.
MAX_TABLES = 2_000
# As many as a domain may offer at a time; none takes the room of the others.
MAX_TABLES_OF_A_DOMAIN = 256
# Of all its tables. A reader of the database gets them all, whether they hold anything or not.
MAX_COLUMNS_OF_A_DOMAIN = 20_000
# Versions of its contracts, kept for whoever decodes what is in quarantine: thousands of ordinary ones.
MAX_SCHEMA_BYTES_OF_A_DOMAIN = 128 << 20

# Where a product's records are: in a table of its own, or in files that the manifest names.
_ROWS = "ROWS"
_COLUMNS = "COLUMNS"


class Plans:
    """Remembers which versions of products the database fits. Forget everything after a rollback."""

    def __init__(self) -> None:
        self._fit: set[tuple[bytes, str]] = set()
        self._in_files: dict[str, bool] = {}

    def forget(self) -> None:
        self._fit.clear()
        self._in_files.clear()

    def in_files(self, contract: Contract) -> bool:
        """Whether a product's records go into files: as it began, or, before it was ensured, as it says."""
        known = self._in_files.get(contract.name)
        return contract.options.store == Store.STORE_COLUMNS if known is None else known

    def ensure(self, connection: sqlite3.Connection, item: Delivered, table: Table) -> None:
        """Creates or widens the product's tables; raises InvalidInput, and touches no row, if it cannot."""
        contract, schema = item.contract, item.schema
        if contract is None or schema is None:
            raise InvalidInput(f"{item.product} came without its schema")
        if (schema.sha256, contract.name) in self._fit:
            return
        _require_room(connection, contract.name, schema)
        known = _Known.of(connection, contract.name)
        in_files = _make_fit(connection, contract, table, known)
        received = time_text(item.received_time)
        _keep_schema(connection, schema, received)
        if not known.stored or _version(contract.options.version) >= _version(known.version):
            # The promise is signed by a source: one source must not be able to shorten the history of all.
            retention = max(known.retention, _seconds(contract.options.retention)) if known.stored else None
            first = known.first_stored_time or received
            _keep_promise(connection, contract, schema, table, in_files, first, retention)
        self._in_files[contract.name] = in_files
        self._fit.add((schema.sha256, contract.name))


def foresee(connection: sqlite3.Connection, contract: Contract, schema: Schema, table: Table) -> None:
    """Creates or changes the tables of a product that has no batch yet; raises InvalidInput if it cannot.

    Nobody has signed such a contract: the first batch decides, and from then on only batches do.
    """
    known = _Known.of(connection, contract.name)
    if not known.stored and known.schema_sha256 != schema.sha256.hex():
        in_files = _make_fit(connection, contract, table, known)
        _keep_promise(connection, contract, schema, table, in_files, None, None)


@dataclass(frozen=True)
class Place:
    """Where a product's records are."""

    product: str
    table: str
    # Only inventories have one.
    history: str | None
    in_files: bool
    retention_seconds: float

    @property
    def log(self) -> str:
        """The table that only grows; none exists where the records are in files."""
        return self.history or self.table


def places(connection: sqlite3.Connection) -> list[Place]:
    """Where the records of every product are."""
    columns = ("product", "table_name", "history_table", "store", "retention_seconds")
    return [
        Place(product, table, history, store == _COLUMNS, retention)
        for product, table, history, store, retention in sql.select(connection, "products", columns, {})
    ]


@dataclass(frozen=True)
class _Known:
    """What the database says of a product; kind is empty when it says nothing."""

    kind: str = ""
    version: str = "0"
    retention: float = 0.0
    schema_sha256: str = ""
    first_stored_time: str | None = None
    store: str = _ROWS

    @classmethod
    def of(cls, connection: sqlite3.Connection, product: str) -> "_Known":
        said = ("kind", "version", "retention_seconds", "schema_sha256", "first_stored_time", "store")
        for row in sql.select(connection, "products", said, {"product": product}):
            return cls(*row)
        return cls()

    @property
    def stored(self) -> bool:
        """Whether a batch of it was stored."""
        return self.first_stored_time is not None


def _make_fit(connection: sqlite3.Connection, contract: Contract, table: Table, known: _Known) -> bool:
    """Returns whether the records go into files. Where some are stored, the others follow them."""
    if not known.kind:
        _create(connection, table)
        return table.in_files
    in_files = known.store == _COLUMNS
    try:
        if in_files != table.in_files and not known.stored:
            raise InvalidInput(f"{table.product} has another store now")
        _widen(connection, contract, table, known)
    except InvalidInput:
        if known.stored:
            raise
        # They are empty: what fits now takes their place.
        _drop(connection, contract.name)
        _create(connection, table)
        return table.in_files
    return in_files


def _create(connection: sqlite3.Connection, table: Table) -> None:
    taken = sql.select(connection, "products", ("product", "table_name", "history_table"), {})
    if len(taken) >= MAX_TABLES:
        raise InvalidInput(f"the database has tables of {MAX_TABLES} products; {table.product} gets none")
    owner = owner_of(table.product)
    if sum(owner_of(product) == owner for product, *_ in taken) >= MAX_TABLES_OF_A_DOMAIN:
        raise InvalidInput(
            f"the database has tables of {MAX_TABLES_OF_A_DOMAIN} products of the domain {owner}; "
            f"{table.product} gets none"
        )
    _require_columns(connection, table.product, len(table.names) * len(table.columns))
    for product, *names in taken:
        if set(table.names) & set(names):
            raise InvalidInput(f"{table.product} needs a table that {product} has; rename the product")
    for name in table.names:
        if name.startswith("sqlite_") or sql.columns_of(connection, name):
            raise InvalidInput(f"the table name {name} of {table.product} is taken; rename the product")
    if table.in_files:
        manifest.declare(connection, table.product, manifest.declarations(table))
        return
    sql.create_log_table(connection, table)
    if table.history is not None:
        sql.create_current_table(connection, table)


def _drop(connection: sqlite3.Connection, product: str) -> None:
    for names in sql.select(connection, "products", ("table_name", "history_table"), {"product": product}):
        for name in filter(None, names):
            sql.drop_table(connection, name)
    sql.delete(connection, "columns", {"product": product})
    sql.delete(connection, "products", {"product": product})


def _widen(connection: sqlite3.Connection, contract: Contract, table: Table, known: _Known) -> None:
    kind = known.kind
    if kind != _name(Kind.Name(contract.kind), "KIND_"):
        raise InvalidInput(f"{table.product} was {kind} before; a product of another kind needs another name")
    in_files = known.store == _COLUMNS
    new: list[tuple[str, str, str]] = []
    for name in table.names:
        columns = (
            manifest.columns_of(connection, table.product) if in_files else sql.columns_of(connection, name)
        )
        present = {column.lower(): declared for column, declared in columns.items()}
        for column in table.columns:
            declared = present.get(column.name)
            if declared is None:
                new.append((name, column.name, column.form.sql))
            elif declared != column.form.sql:
                raise InvalidInput(
                    f"{table.product}: {column.name} was {declared} before and is {column.form.sql} now; "
                    "give the field another name"
                )
        if len(present) + sum(1 for place, _, _ in new if place == name) > MAX_COLUMNS:
            raise InvalidInput(f"the table {name} would get more than {MAX_COLUMNS} columns")
    if new:
        _require_columns(connection, table.product, len(new))
    if in_files:
        manifest.declare(connection, table.product, [(column, declared) for _, column, declared in new])
        return
    for name, column_name, declared in new:
        sql.add_column(connection, name, column_name, declared)


def _require_columns(connection: sqlite3.Connection, product: str, more: int) -> None:
    """Raises InvalidInput when the product's domain would get too many columns in all."""
    owner = owner_of(product)
    count = more
    for other, *names in sql.select(connection, "products", ("product", "table_name", "history_table"), {}):
        if owner_of(other) == owner:
            count += sum(len(sql.columns_of(connection, name)) for name in names if name is not None)
            count += len(manifest.columns_of(connection, other))
    if count > MAX_COLUMNS_OF_A_DOMAIN:
        raise InvalidInput(
            f"{product} would bring the tables of the domain {owner} to {count} columns; "
            f"at most {MAX_COLUMNS_OF_A_DOMAIN} are made"
        )


def _require_room(connection: sqlite3.Connection, product: str, schema: Schema) -> None:
    """Raises InvalidInput when the schema is a new one and the product's domain has too many."""
    if sql.select(connection, "schemas", ("sha256",), {"sha256": schema.sha256.hex()}):
        return
    kept = sql.schema_bytes(connection, product_prefix(owner_of(product)))
    if kept + len(schema.data) > MAX_SCHEMA_BYTES_OF_A_DOMAIN:
        raise InvalidInput(
            f"the database has {kept} bytes of schemas of the domain {owner_of(product)}; "
            f"at most {MAX_SCHEMA_BYTES_OF_A_DOMAIN} are kept"
        )


def _keep_schema(connection: sqlite3.Connection, schema: Schema, received: str) -> None:
    sql.insert_new(
        connection,
        "schemas",
        {
            "sha256": schema.sha256.hex(),
            "products": json.dumps([contract.name for contract in schema.contracts()]),
            "file_descriptor_set": schema.data,
            "first_stored_time": received,
        },
    )


def _keep_promise(
    connection: sqlite3.Connection,
    contract: Contract,
    schema: Schema,
    table: Table,
    in_files: bool,
    first_stored_time: str | None,
    retention: float | None,
) -> None:
    options = contract.options
    values = {
        "product": contract.name,
        "table_name": table.name,
        "history_table": table.history,
        "store": _COLUMNS if in_files else _ROWS,
        "time_column": table.time_column,
        "kind": _name(Kind.Name(contract.kind), "KIND_"),
        "owner": options.owner,
        "support": options.support,
        "version": options.version,
        "status": _name(Status.Name(options.status), "STATUS_"),
        "purpose": options.purpose,
        "limitations": json.dumps(list(options.limitations), ensure_ascii=False),
        "classification": _name(Classification.Name(options.classification), "CLASSIFICATION_"),
        "freshness_seconds": _seconds(options.freshness),
        "retention_seconds": _seconds(options.retention) if retention is None else retention,
        "schema_sha256": schema.sha256.hex(),
        "first_stored_time": first_stored_time,
    }
    sql.upsert(connection, "products", ("product",), values)


def _name(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)


def _version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split("."))


def _seconds(length: Duration) -> float:
    return length.seconds + length.nanos / 1e9
