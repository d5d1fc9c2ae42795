"""An image is a set of proto files with everything that they import, and the comments in them."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

# Options are read with these extensions: parsing refuses a promise that is no well-formed message.
from telltale.api.mesh.v1 import product_pb2 as product_pb2
from telltale.errors import ConfigurationError, InvalidInput

_M = TypeVar("_M", bound=Message)
# Pools of descriptors do not find again what has other characters.
_FILE_NAME = re.compile(r"[A-Za-z0-9_./-]{1,255}")


class Image:
    """Proto files by name, as they were compiled."""

    def __init__(self, *file_descriptor_sets: bytes) -> None:
        """Joins descriptor sets; raises InvalidInput when they disagree on a file or lack an import."""
        # Parsed, with source info. Not to be changed.
        self.protos: dict[str, FileDescriptorProto] = {}
        for data in file_descriptor_sets:
            for proto in parse_set(data).file:
                self._add(proto)
        # Fails here, not at the first use, when an import is missing.
        self._order = dependencies_first(self.protos)

    @classmethod
    def load(cls, *paths: Path) -> "Image":
        """Reads and joins compiled descriptor sets."""
        return cls(*(path.read_bytes() for path in paths))

    @classmethod
    def of_files(cls, files: Iterable[bytes]) -> "Image":
        """Makes an image of single files, as reflection delivers them."""
        joined = descriptor_pb2.FileDescriptorSet(file=[parse_file(data) for data in files])
        return cls(joined.SerializeToString(deterministic=True))

    def _add(self, proto: FileDescriptorProto) -> None:
        if not _FILE_NAME.fullmatch(proto.name):
            raise InvalidInput(
                f"{proto.name[:200]!r} is no name of a proto file; use at most 255 of A-Z a-z 0-9 _ . / -"
            )
        known = self.protos.get(proto.name)
        if known is None:
            self.protos[proto.name] = proto
        elif without_source_info(known) != without_source_info(proto):
            raise InvalidInput(f"two different files are called {proto.name!r}; rename one of them")
        elif not known.HasField("source_code_info"):
            self.protos[proto.name] = proto

    @cached_property
    def files(self) -> dict[str, bytes]:
        """FileDescriptorProto of every file, with the source info that was compiled in; imports first."""
        return {name: self.protos[name].SerializeToString(deterministic=True) for name in self._order}

    @cached_property
    def pool(self) -> DescriptorPool:
        """The files' descriptors, in a pool of their own."""
        return build_pool(self.protos)

    @cached_property
    def sha256(self) -> bytes:
        """Changes whenever a file does, be it a comment only."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            data = self.files[name]
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    def comment(self, full_name: str) -> str:
        """The comment above a message, field, enum, value, service or method; empty when there is none."""
        return self._comments.get(full_name, "")

    @cached_property
    def _comments(self) -> dict[str, str]:
        comments: dict[str, str] = {}
        for proto in self.protos.values():
            names = _names_by_path(proto)
            for location in proto.source_code_info.location:
                name = names.get(tuple(location.path))
                text = location.leading_comments
                # What is no UTF-8 comes as bytes, and is nothing to read.
                if name is not None and isinstance(text, str) and text:
                    lines = text.splitlines()
                    comments[name] = "\n".join(line.strip() for line in lines).strip()
        return comments


def own_image(domain: str) -> Image:
    """The contracts of a domain that this installation carries."""
    directory = resources.files("telltale.api").joinpath(domain, "v1", "descriptors.binpb")
    if not domain.isidentifier() or not directory.is_file():
        raise ConfigurationError(
            f"there are no contracts of the domain {domain!r}; "
            f"write protos/telltale/api/{domain}/v1/*.proto and run `make protos`"
        )
    return Image(directory.read_bytes())


def parse_set(data: bytes) -> descriptor_pb2.FileDescriptorSet:
    """Reads a FileDescriptorSet; raises InvalidInput when it is none."""
    return _parse(descriptor_pb2.FileDescriptorSet, data)


def parse_file(data: bytes) -> FileDescriptorProto:
    """Reads a FileDescriptorProto; raises InvalidInput when it is none."""
    return _parse(FileDescriptorProto, data)


def _parse(kind: type[_M], data: bytes) -> _M:
    try:
        message = kind.FromString(data)
        _require_text(message)
    except (DecodeError, ValueError) as broken:
        raise InvalidInput(f"{len(data)} bytes are no {kind.__name__}: {broken}") from None
    return message


def _require_text(message: Message) -> None:
    """Raises ValueError for a name that is no UTF-8: the parser hands it over as bytes."""
    for field, value in message.ListFields():
        if field.name == "source_code_info":
            continue
        if field.message_type is not None:
            for nested in value if field.is_repeated else (value,):
                _require_text(nested)
        elif field.type == field.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                if not isinstance(text, str):
                    raise ValueError(f"{text[:200]!r} is no UTF-8")


def without_source_info(proto: FileDescriptorProto) -> FileDescriptorProto:
    """A copy that says what the file means, without where it stands in the text."""
    bare = FileDescriptorProto()
    bare.CopyFrom(proto)
    bare.ClearField("source_code_info")
    return bare


def dependencies_first(protos: Mapping[str, FileDescriptorProto]) -> list[str]:
    """Names of the files, each after its imports, in an order that depends on nothing but the files."""
    ordered: dict[str, None] = {}
    for root in sorted(protos):
        _visit(root, protos, ordered, ())
    return list(ordered)


def closure(name: str, protos: Mapping[str, FileDescriptorProto]) -> list[str]:
    """Names of a file and all that it imports, each after its imports."""
    ordered: dict[str, None] = {}
    _visit(name, protos, ordered, ())
    return list(ordered)


def _visit(
    name: str, protos: Mapping[str, FileDescriptorProto], ordered: dict[str, None], above: tuple[str, ...]
) -> None:
    if name in ordered:
        return
    if name in above:
        raise InvalidInput(f"{name!r} imports itself by way of {above[-1]!r}")
    if name not in protos:
        importer = f", which {above[-1]!r} imports" if above else ""
        raise InvalidInput(f"the file {name!r}{importer} is missing; compile with --include_imports")
    for imported in protos[name].dependency:
        _visit(imported, protos, ordered, (*above, name))
    ordered[name] = None


def build_pool(protos: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    """Descriptors of the files in a pool of their own; raises InvalidInput when they do not fit together."""
    pool = DescriptorPool()
    for name in dependencies_first(protos):
        try:
            pool.AddSerializedFile(without_source_info(protos[name]).SerializeToString())
        except (TypeError, ValueError) as broken:
            raise InvalidInput(f"the file {name!r} is no valid proto file: {broken}") from None
    return pool


def _names_by_path(proto: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Full name of each element under its path in the file's descriptor, as source info writes paths."""
    names: dict[tuple[int, ...], str] = {}
    prefix = f"{proto.package}." if proto.package else ""
    for index, message in enumerate(proto.message_type):
        _name_message(names, (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, index), prefix, message)
    for index, enum in enumerate(proto.enum_type):
        _name_enum(names, (FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, index), prefix, enum)
    for index, extension in enumerate(proto.extension):
        names[(FileDescriptorProto.EXTENSION_FIELD_NUMBER, index)] = prefix + extension.name
    for index, service in enumerate(proto.service):
        path = (FileDescriptorProto.SERVICE_FIELD_NUMBER, index)
        names[path] = prefix + service.name
        for number, method in enumerate(service.method):
            names[(*path, descriptor_pb2.ServiceDescriptorProto.METHOD_FIELD_NUMBER, number)] = (
                f"{prefix}{service.name}.{method.name}"
            )
    return names


def _name_message(
    names: dict[tuple[int, ...], str], path: tuple[int, ...], prefix: str, message: DescriptorProto
) -> None:
    names[path] = prefix + message.name
    inner = f"{prefix}{message.name}."
    for index, field in enumerate(message.field):
        names[(*path, DescriptorProto.FIELD_FIELD_NUMBER, index)] = inner + field.name
    for index, nested in enumerate(message.nested_type):
        _name_message(names, (*path, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, index), inner, nested)
    for index, enum in enumerate(message.enum_type):
        _name_enum(names, (*path, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, index), inner, enum)


def _name_enum(
    names: dict[tuple[int, ...], str], path: tuple[int, ...], prefix: str, enum: EnumDescriptorProto
) -> None:
    names[path] = prefix + enum.name
    for index, value in enumerate(enum.value):
        # By the rules of protobuf a value is named beside its enum, not below it.
        names[(*path, EnumDescriptorProto.VALUE_FIELD_NUMBER, index)] = prefix + value.name
