"""Shared files (`google/` and `telltale/api/mesh/`) mean the same to everybody.

A stranger's descriptors bring their own copies along. A copy may be older or newer than ours, which
adds or lacks elements; where both speak they must say the same, or signed bytes would change meaning.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TypeAlias

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto

from telltale.contract.image import own_image, parse_file
from telltale.errors import InvalidInput

SHARED = ("google/", "telltale/api/mesh/")

# What an element is, and what a file says about it.
_Fact: TypeAlias = tuple[str, object]


def is_shared(file: str) -> bool:
    """Whether a file belongs to the mesh as a whole and to no domain."""
    return file.startswith(SHARED)


def check_shared_files(protos: Mapping[str, FileDescriptorProto]) -> None:
    """Raises InvalidInput when a shared file is unknown here or contradicts our own copy."""
    for name, proto in protos.items():
        if not is_shared(name):
            if proto.package.startswith(("google.", "telltale.api.mesh.")) or proto.package == "google":
                raise InvalidInput(
                    f"{name!r} claims the shared package {proto.package!r}; use your domain's own"
                )
            continue
        own = _own_facts().get(name)
        if own is None:
            raise InvalidInput(
                f"the shared file {name!r} is not part of the mesh's contracts; records are made of scalars, "
                "messages of their own file, Timestamp and Duration"
            )
        for element, says in _facts(proto):
            if element in own and own[element] != says:
                raise InvalidInput(
                    f"{element} in {name!r} contradicts the mesh's own copy: {says!r}, not {own[element]!r}; "
                    "compile against the contracts of this mesh"
                )


@cache
def _own_facts() -> dict[str, dict[str, object]]:
    return {
        name: dict(_facts(parse_file(data)))
        for name, data in own_image("mesh").files.items()
        if is_shared(name)
    }


def _facts(proto: FileDescriptorProto) -> Iterator[_Fact]:
    yield "the package", proto.package
    yield "the syntax", proto.syntax or "proto2"
    prefix = f"{proto.package}."
    for message in proto.message_type:
        yield from _message_facts(prefix, message)
    for enum in proto.enum_type:
        yield from _enum_facts(prefix, enum)
    for extension in proto.extension:
        yield (
            f"the extension {prefix}{extension.name}",
            (extension.extendee, extension.number, extension.type, extension.label, extension.type_name),
        )
    for service in proto.service:
        for method in service.method:
            yield (
                f"the method {prefix}{service.name}.{method.name}",
                (method.input_type, method.output_type, method.client_streaming, method.server_streaming),
            )


def _message_facts(prefix: str, message: DescriptorProto) -> Iterator[_Fact]:
    name = prefix + message.name
    yield f"the message {name}", "message"
    yield f"the form of {name}", (message.options.map_entry, message.options.message_set_wire_format)
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        says = (field.name, field.type, field.label, field.type_name, oneof, field.options.packed)
        yield f"the field {name} = {field.number}", says
        # A name that moved to another number is a contradiction too.
        yield f"the field {name}.{field.name}", field.number
    for nested in message.nested_type:
        yield from _message_facts(f"{name}.", nested)
    for enum in message.enum_type:
        yield from _enum_facts(f"{name}.", enum)


def _enum_facts(prefix: str, enum: EnumDescriptorProto) -> Iterator[_Fact]:
    name = prefix + enum.name
    yield f"the message {name}", "enum"
    for value in enum.value:
        yield f"the value {name}.{value.name}", value.number
        if not enum.options.allow_alias:
            yield f"the value {name} = {value.number}", value.name
