"""Opens a batch's payload once, at the door: what typed readers cannot parse never gets into a log."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.product_pb2 import Kind
from telltale.contract.product import Contract
from telltale.contract.schema import message_class
from telltale.domain.inventory import Change
from telltale.errors import BatchRefused


def open_payload(contract: Contract, header: Header, payload: bytes) -> Change | None:
    """What the payload changes in an inventory; None for the other kinds.

    Raises BatchRefused when it is not what the header and the contract say. One batch that cannot be
    parsed would end the whole stream of every client that reads it as the product's own frame.
    """
    try:
        records: Any = message_class(contract.records).FromString(payload)
    except DecodeError:
        raise _malformed(f"the payload is no {contract.records.full_name}") from None
    removed = records.removed if contract.kind == Kind.KIND_INVENTORY else ()
    count = len(records.records) + len(removed)
    if count != header.record_count:
        raise _malformed(f"the payload has {count} records; the header says {header.record_count}")
    if contract.kind != Kind.KIND_INVENTORY:
        return None
    return Change(
        {_key(contract, record): record.SerializeToString() for record in records.records},
        [_key(contract, record) for record in removed],
    )


def _key(contract: Contract, record: Message) -> bytes:
    """A record's key: a record of which only the KEY fields are set."""
    values: Mapping[str, Any] = {name: getattr(record, name) for name in contract.key_fields}
    return type(record)(**values).SerializeToString(deterministic=True)


def _malformed(detail: str) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, detail)
