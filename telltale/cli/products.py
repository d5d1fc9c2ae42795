"""The commands that read data products through the gateway, any product there is or will be."""

import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from telltale.api.mesh.v1.batch_pb2 import GapReason
from telltale.api.mesh.v1.catalog_pb2 import CatalogEntry, CatalogState
from telltale.api.mesh.v1.product_pb2 import Classification, Kind, Role, Status, Store
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.cli import show
from telltale.cli.home import Home
from telltale.cli.operator import operator
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.consume.subscription import Subscription
from telltale.contract.image import Image
from telltale.contract.product import Contract, classification_of
from telltale.contract.schema import message_class

_PREFIXES = {
    Kind: "KIND_",
    Status: "STATUS_",
    Classification: "CLASSIFICATION_",
    Role: "ROLE_",
    Store: "STORE_",
}
_STATE_PREFIX = "CATALOG_STATE_"


async def products(home: Home, *, as_json: bool) -> None:
    """Every product that the operator may discover."""
    async with operator(home) as mesh:
        rows = [catalog_row(entry) for entry in await mesh.catalog()]
    if as_json:
        show.document(rows)
        return
    show.table(
        ("PRODUCT", "KIND", "OWNER", "VERSION", "STATUS", "CLASSIFICATION", "STATE", "PURPOSE"),
        [
            [row[name] for name in ("product", "kind", "owner", "version", "status", "classification")]
            + [row["state"], row["purpose"]]
            for row in rows
        ],
        empty="There are no products yet; the first domain service registers within seconds.",
    )


async def describe(home: Home, product: str, *, as_json: bool) -> None:
    """A product's promise, from its own descriptors."""
    async with operator(home) as mesh:
        entry = await mesh.entry(product)
        image, contract = await mesh.contract(product)
    promise = {**catalog_row(entry), "description": contract.description}
    fields = field_rows(image, contract)
    if as_json:
        show.document({**promise, "fields": fields})
        return
    show.mapping(promise)
    sys.stdout.write("\n")
    show.table(
        ("FIELD", "TYPE", "UNIT", "ROLES", "CLASSIFICATION", "CONVENTION", "MEANING"),
        [list(field.values()) for field in fields],
        empty="Its record has no fields.",
    )


async def inventory(home: Home, product: str, *, condition: str, as_json: bool) -> None:
    """The current state of an inventory, a row for each thing; what the operator may not see is marked so."""
    async with operator(home) as mesh:
        _, contract = await mesh.contract(product)
        listed = [one async for one in mesh.listed(contract, condition)]
    if as_json:
        show.document(
            [{**entry_row(entry, masked, None), "masked_fields": masked} for entry, masked in listed]
        )
        return
    rows = [entry_row(entry, masked, show.MASKED) for entry, masked in listed]
    # What no row says would only push the rest off the screen.
    columns = [
        name for name in (rows[0] if rows else {}) if any(row[name] not in (None, "", []) for row in rows)
    ]
    show.table(
        [name.upper() for name in columns],
        [[row[name] for name in columns] for row in rows],
        empty="Nothing matches." if condition else "The inventory is empty.",
    )


def entry_row(entry: Any, masked: Sequence[str], instead: str | None) -> show.Row:
    """One row of an inventory in plain values, with something else in place of what is masked."""
    row = show.row_of(entry.record)
    for names in (name.split(".") for name in masked):
        # One that only earlier versions had is in no row.
        if names[0] in row:
            show.replace(row, names, instead)
    stale = show.iso(entry.stale_since) if entry.HasField("stale_since") else None
    return {"source": entry.source, "stale_since": stale, **row}


async def tail(home: Home, product: str, *, limit: int | None, earliest: bool, as_json: bool) -> None:
    """Prints records as they arrive, each from a batch whose signature holds."""
    printed = 0
    async with operator(home) as mesh:
        await mesh.entry(product)
        start = Start.START_EARLIEST if earliest else Start.START_LATEST
        # Somebody waits at the terminal: an error is told, not tried again for ever.
        subscription = Subscription(mesh.me, mesh.mesh.gateway, (product,), start=start, patient=False)
        async with subscription:
            async for item in _one_by_one(subscription):
                for row in _rows(item):
                    if as_json:
                        show.line(row)
                    else:
                        sys.stdout.write(_sentence(row) + "\n")
                        sys.stdout.flush()
                    printed += 1
                    if printed == limit:
                        return


async def _one_by_one(subscription: Subscription) -> AsyncIterator[Item]:
    """The items of a subscription one by one, in the order of the product's log."""
    async for group in subscription:
        for item in group:
            yield item


def _rows(item: Item) -> list[show.Row]:
    """The records of an item; what is missing or does not hold is said on the standard error."""
    if isinstance(item, Missing):
        reason = GapReason.Name(item.gap.reason).removeprefix("GAP_REASON_").lower()
        _note(f"a part of {item.product} can no longer be had ({reason}); going on after it")
        return []
    if item.refused is not None:
        _note(f"a batch of {item.header.source or item.product} does not hold: {item.refused}")
        return []
    return records(item)


def records(delivered: Delivered) -> list[show.Row]:
    """The records of a verified batch; `removed` marks the keys that an inventory lost."""
    contract = delivered.contract
    if contract is None:
        return []
    payload: Any = message_class(contract.records).FromString(delivered.batch.payload)
    rows = [{"source": delivered.header.source, **show.row_of(record)} for record in payload.records]
    for record in getattr(payload, "removed", ()):
        keys = {name: value for name, value in show.row_of(record).items() if name in contract.key_fields}
        rows.append({"source": delivered.header.source, "removed": True, **keys})
    return rows


def catalog_row(entry: CatalogEntry) -> show.Row:
    """A product as the catalog has it, in plain values."""
    options = entry.product
    return {
        "product": options.name,
        "service": entry.service,
        "kind": _word(Kind, options.kind),
        "owner": options.owner,
        "support": options.support,
        "version": options.version,
        "status": _word(Status, options.status),
        "classification": _word(Classification, options.classification),
        "purpose": options.purpose,
        "limitations": list(options.limitations),
        "freshness_seconds": options.freshness.seconds,
        "retention_seconds": options.retention.seconds,
        "store": _word(Store, options.store or Store.STORE_ROWS),
        "trust_domain": entry.trust_domain,
        "state": CatalogState.Name(entry.state).removeprefix(_STATE_PREFIX),
        "state_since": show.iso(entry.state_since) if entry.HasField("state_since") else None,
        "records": entry.records,
        "batches": entry.batches,
        "last_event_time": show.iso(entry.last_event_time) if entry.HasField("last_event_time") else None,
        "last_received_time": show.iso(entry.last_received_time)
        if entry.HasField("last_received_time")
        else None,
        "subscribers": entry.subscribers,
    }


def field_rows(image: Image, contract: Contract) -> list[show.Row]:
    """The fields of a product's record: type, unit, roles and meaning."""
    rows = []
    for field in contract.record.fields:
        options = contract.field_options(field.name)
        rows.append(
            {
                "name": field.name,
                "type": _type(field),
                "unit": options.unit or None,
                "roles": [_word(Role, role) for role in options.roles],
                "classification": _word(Classification, classification_of(field)),
                "semconv": options.semconv or None,
                "meaning": " ".join(image.comment(field.full_name).split()),
            }
        )
    return rows


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        name = field.message_type.name
    elif field.enum_type is not None:
        name = field.enum_type.name
    else:
        # Such as TYPE_UINT64 -> uint64.
        names = {
            number: label.removeprefix("TYPE_").lower()
            for label, number in vars(FieldDescriptor).items()
            if label.startswith("TYPE_")
        }
        name = names[field.type]
    return f"repeated {name}" if field.is_repeated else name


def _word(enum: Any, value: int) -> str:
    """An enum's value without its prefix; the number when this version does not know it."""
    if value not in enum.values():
        return str(value)
    return str(enum.Name(value)).removeprefix(_PREFIXES[enum]).lower()


def _sentence(row: show.Row) -> str:
    return "  ".join(
        f"{name}={show.cell(value)}" for name, value in row.items() if value not in (None, "", [])
    )


def _note(text: str) -> None:
    print(f"telltale: {show.printable(text)}", file=sys.stderr)
