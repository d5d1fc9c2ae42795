"""Whether a new version of a contract can read what the old one wrote, and how not, in sentences."""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

from telltale.api.mesh.v1.product_pb2 import Kind, Role
from telltale.contract.fields import field_options, is_repeated
from telltale.contract.product import Contract

_FIXED_ROLES = (Role.ROLE_TIME, Role.ROLE_KEY)
_TYPE_NAMES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def incompatibilities(old: Contract, new: Contract) -> list[str]:
    """What the new contract breaks, one sentence each; empty when it only adds."""
    found = []
    if old.name != new.name:
        found.append(f"the product {old.name} is called {new.name} now; a new name is a new product")
    if old.kind != new.kind:
        found.append(f"{old.name} was {Kind.Name(old.kind)} and is {Kind.Name(new.kind)} now")
    found += _message_changes(old.record, new.record, set())
    return found


def _message_changes(old: Descriptor, new: Descriptor, seen: set[str]) -> Iterator[str]:
    """Changes of a message and of those that it is made of; each message once."""
    if old.full_name in seen:
        return
    seen.add(old.full_name)
    bare = DescriptorProto()
    new.CopyToProto(bare)
    for number, field in sorted(old.fields_by_number.items()):
        successor = new.fields_by_number.get(number)
        if successor is None:
            yield from _removal(field, new, bare)
            continue
        yield from _field_changes(field, successor)
        if field.message_type is not None and successor.message_type is not None:
            yield from _message_changes(field.message_type, successor.message_type, seen)
        if field.enum_type is not None and successor.enum_type is not None:
            yield from _enum_changes(field.enum_type, successor.enum_type, seen)


def _removal(field: FieldDescriptor, new: Descriptor, bare: DescriptorProto) -> Iterator[str]:
    moved = new.fields_by_name.get(field.name)
    if moved is not None:
        yield f"{field.full_name} changed its number from {field.number} to {moved.number}"
    elif not any(reserved.start <= field.number < reserved.end for reserved in bare.reserved_range):
        yield f"{field.full_name} = {field.number} was removed; write `reserved {field.number};` in its place"
    elif field.name not in bare.reserved_name:
        yield f'{field.full_name} was removed; write `reserved "{field.name}";` to keep its column free'


def _field_changes(old: FieldDescriptor, new: FieldDescriptor) -> Iterator[str]:
    place = f"{old.full_name.rpartition('.')[0]} = {old.number}"
    if old.name != new.name:
        yield f"{place} was called {old.name} and is called {new.name} now; the number keeps its meaning"
    if _type(old) != _type(new):
        yield f"{place} ({old.name}) was {_type(old)} and is {_type(new)} now"
    for role in _FIXED_ROLES:
        was, is_now = (role in field_options(field).roles for field in (old, new))
        if was != is_now:
            yield f"{place} ({old.name}) {'lost' if was else 'gained'} {Role.Name(role)}"
    units = field_options(old).unit, field_options(new).unit
    if units[0] != units[1]:
        yield f"{place} ({old.name}) was in the unit {units[0]!r} and is in {units[1]!r} now"


def _enum_changes(old: EnumDescriptor, new: EnumDescriptor, seen: set[str]) -> Iterator[str]:
    if old.full_name in seen:
        return
    seen.add(old.full_name)
    for number, value in sorted(old.values_by_number.items()):
        successor = new.values_by_number.get(number)
        if successor is None:
            yield f"{old.full_name} lost the value {value.name} = {number}; keep it"
        elif successor.name != value.name:
            yield f"{old.full_name} = {number} was called {value.name} and is called {successor.name} now"


def _type(field: FieldDescriptor) -> str:
    """The type as it is written in a proto file."""
    if field.message_type is not None:
        name = field.message_type.full_name
    elif field.enum_type is not None:
        name = field.enum_type.full_name
    else:
        name = _TYPE_NAMES[field.type]
    return f"repeated {name}" if is_repeated(field) else name
