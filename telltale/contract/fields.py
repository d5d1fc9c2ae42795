"""What a field's options and type say, for messages of any pool."""

from ipaddress import ip_address
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from telltale.api.mesh.v1 import product_pb2
from telltale.api.mesh.v1.product_pb2 import Classification, Field, Role
from telltale.errors import InvalidInput

# The generated module types an extension as a plain field.
_FIELD: Any = product_pb2.field


def field_options(field: FieldDescriptor) -> Field:
    """The meaning of a field; empty when it states none."""
    meaning: Field = field.GetOptions().Extensions[_FIELD]
    return meaning


def classification_of(field: FieldDescriptor) -> Classification:
    """The classification of a field: INTERNAL unless it says otherwise."""
    return field_options(field).classification or Classification.CLASSIFICATION_INTERNAL


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether a field holds any number of values; true for maps too."""
    return bool(field.is_repeated)


def message_of(field: FieldDescriptor) -> Descriptor:
    """The message type of a field; raises InvalidInput when it is a scalar."""
    if field.message_type is None:
        raise InvalidInput(f"{field.full_name} is a scalar; make it a message")
    return field.message_type


def inside(message: Descriptor, field: str) -> Descriptor:
    """The message type of a message's field."""
    return message_of(message.fields_by_name[field])


def enum_name(enum: EnumDescriptor, number: int) -> str | None:
    """A value's name without the enum's prefix; None for the unspecified one, digits for an unknown one."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    name = value.name.removeprefix(_prefix(enum))
    return None if number == 0 and name == "UNSPECIFIED" else name


def _prefix(enum: EnumDescriptor) -> str:
    """`LOSS_REASON_` of an enum whose zero is `LOSS_REASON_UNSPECIFIED`, as the style of protos has it."""
    zero = enum.values_by_number.get(0)
    return zero.name.removesuffix("UNSPECIFIED") if zero and zero.name.endswith("_UNSPECIFIED") else ""


def is_packed_address(field: FieldDescriptor) -> bool:
    """Whether the field is an address as bytes: 4 of IPv4, 16 of IPv6, or none. People see it as text."""
    return (
        field.type == FieldDescriptor.TYPE_BYTES
        and not is_repeated(field)
        and Role.ROLE_ENTITY_ADDRESS in field_options(field).roles
    )


def address_text(packed: bytes) -> str:
    """A packed address as people write it; raises ValueError when it is of another length."""
    return str(ip_address(packed)) if packed else ""
