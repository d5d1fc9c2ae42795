"""Schemas: the descriptors that a batch was encoded with, known by their digest."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from telltale.contract.compatibility import incompatibilities as incompatibilities
from telltale.contract.image import Image, closure, parse_set, without_source_info
from telltale.contract.product import Contract, contracts_in
from telltale.contract.shared import check_shared_files
from telltale.errors import InvalidInput

# Bounds on what a stranger may ask us to keep and to compile; real schemas have 10 files and 40 KiB.
MAX_BYTES = 1 << 20
MAX_FILES = 64
MAX_NESTING = 8


@dataclass(frozen=True)
class Schema:
    """A FileDescriptorSet, imports first and without source info, and the SHA-256 of its bytes."""

    sha256: bytes
    data: bytes

    @classmethod
    def of(cls, image: Image, contract: Contract) -> "Schema":
        """The schema of a product: its file and all that it imports. The same files give the same bytes."""
        files = [without_source_info(image.protos[name]) for name in closure(contract.file, image.protos)]
        data = FileDescriptorSet(file=files).SerializeToString(deterministic=True)
        return cls(hashlib.sha256(data).digest(), data)

    @classmethod
    def parse(cls, data: bytes, digest: bytes | None = None) -> "Schema":
        """Reads a schema from a stranger; raises InvalidInput when it breaks a bound or a rule.

        `digest` is the SHA-256 that the bytes must have.
        """
        sha256 = hashlib.sha256(data).digest()
        if digest is not None and sha256 != digest:
            raise InvalidInput(
                f"the schema's SHA-256 is {sha256.hex()}, expected {digest.hex()}; do not use it"
            )
        if len(data) > MAX_BYTES:
            raise InvalidInput(f"the schema has {len(data)} bytes; at most {MAX_BYTES} are taken")
        files = parse_set(data).file
        if not files or len(files) > MAX_FILES:
            raise InvalidInput(f"the schema has {len(files)} files; between 1 and {MAX_FILES} are taken")
        seen: set[str] = set()
        for proto in files:
            _require_canonical(proto, seen)
            seen.add(proto.name)
        check_shared_files({proto.name: proto for proto in files})
        schema = cls(sha256, data)
        if not schema.contracts():
            raise InvalidInput(
                "the schema describes no data product; it needs a service with the product option"
            )
        return schema

    @cached_property
    def image(self) -> Image:
        """The schema's files."""
        return Image(self.data)

    @property
    def pool(self) -> DescriptorPool:
        """The schema's descriptors, in a pool of their own."""
        return self.image.pool

    def contracts(self) -> tuple[Contract, ...]:
        """The data products that the schema describes."""
        return self._contracts

    @cached_property
    def _contracts(self) -> tuple[Contract, ...]:
        return contracts_in(self.image)

    def contract(self, product: str) -> Contract:
        """The contract of one product; raises InvalidInput when the schema does not describe it."""
        for contract in self._contracts:
            if contract.name == product:
                return contract
        raise InvalidInput(f"the schema {self.sha256.hex()} does not describe the product {product}")


def message_class(descriptor: Descriptor) -> type[Message]:
    """The Python class of a message, whichever pool its descriptor is from."""
    return message_factory.GetMessageClass(descriptor)


def _require_canonical(proto: FileDescriptorProto, seen: set[str]) -> None:
    if proto.name in seen:
        raise InvalidInput(f"the schema has the file {proto.name!r} twice; send it once")
    for imported in proto.dependency:
        if imported not in seen:
            raise InvalidInput(
                f"the schema has {proto.name!r} before its import {imported!r}; send imports first"
            )
    if proto.HasField("source_code_info"):
        raise InvalidInput(f"the schema carries source info of {proto.name!r}; leave it out")
    for message in proto.message_type:
        _require_nesting(proto.name, message, 1)


def _require_nesting(file: str, message: DescriptorProto, depth: int) -> None:
    if depth > MAX_NESTING:
        raise InvalidInput(f"{file!r} nests messages more than {MAX_NESTING} deep at {message.name!r}")
    for nested in message.nested_type:
        _require_nesting(file, nested, depth + 1)
