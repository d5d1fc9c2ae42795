"""The message shapes that every product shares, so that the middle can move any product's bytes.

Field numbers and wire types are those of SealedFrame and SealedList in telltale.api.mesh.v1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from telltale.contract.fields import is_repeated as is_repeated
from telltale.contract.fields import message_of
from telltale.errors import InvalidInput

MESH = "telltale.api.mesh.v1."
TIMESTAMP = "google.protobuf.Timestamp"
# The product's own record: any message of its own.
RECORD = "record"

_SCALARS = {FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes"}


@dataclass(frozen=True)
class Member:
    """One field of a shape. Its type is a scalar, the full name of a message, or a shape again."""

    name: str
    type: "str | Shape"
    repeated: bool = False
    # Came later: contracts that are in use may lack it, and what they encoded is still read.
    may_lack: bool = False


Shape: TypeAlias = Mapping[int, Member]

_RECORDS: Shape = {1: Member("records", RECORD, repeated=True)}
_CHANGES: Shape = {**_RECORDS, 2: Member("removed", RECORD, repeated=True)}


def _frame(payload: Shape) -> Shape:
    batch: Shape = {
        1: Member("header", MESH + "Header"),
        2: Member("signature", "bytes"),
        3: Member("payload", payload),
        4: Member("delivery", MESH + "Delivery"),
    }
    return {
        1: Member("batches", batch, repeated=True),
        2: Member("certificates", "bytes", repeated=True),
        3: Member("gap", MESH + "Gap"),
    }


FRAME: Shape = {**_frame(_RECORDS), 4: Member("sync", MESH + "Sync", may_lack=True)}
# Watch needs the mark.
INVENTORY_FRAME: Shape = {**_frame(_CHANGES), 4: Member("sync", MESH + "Sync")}
LISTING: Shape = {
    1: Member(
        "entries",
        {1: Member("source", "string"), 2: Member("stale_since", TIMESTAMP), 3: Member("record", RECORD)},
        repeated=True,
    ),
    2: Member("next_page_token", "string"),
    3: Member("position", MESH + "Position"),
    4: Member("masked_fields", "string", repeated=True, may_lack=True),
}


def require_shape(message: Descriptor, shape: Shape) -> None:
    """Raises InvalidInput at the first field of the message that differs from the shape."""
    for number, member in shape.items():
        field = message.fields_by_number.get(number)
        if field is None and member.may_lack:
            continue
        if field is None:
            raise InvalidInput(f"{message.full_name} lacks the field `{member.name} = {number}`")
        if (
            field.name != member.name
            or is_repeated(field) != member.repeated
            or not _has_type(field, member.type, message.file.name)
        ):
            raise InvalidInput(
                f"{field.full_name} = {number} must be `{'repeated ' if member.repeated else ''}"
                f"{_spelled(member.type)} {member.name} = {number}`"
            )
        if not isinstance(member.type, str):
            require_shape(message_of(field), member.type)
    surplus = sorted(set(message.fields_by_number) - set(shape))
    if surplus:
        raise InvalidInput(
            f"{message.fields_by_number[surplus[0]].full_name} has no place in the shape that every product "
            "shares; move it into the record"
        )


def _has_type(field: FieldDescriptor, wanted: "str | Shape", own_file: str) -> bool:
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return _SCALARS.get(field.type) == wanted
    message = message_of(field)
    if wanted == RECORD:
        return bool(message.file.name == own_file)
    return not isinstance(wanted, str) or message.full_name == wanted


def _spelled(wanted: "str | Shape") -> str:
    if not isinstance(wanted, str):
        return "<its own message>"
    return "<its record>" if wanted == RECORD else wanted
