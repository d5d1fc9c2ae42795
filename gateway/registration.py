"""What a domain may register: its own products in its own files, within bounds and by the mesh-wide rules.

All of it or nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto

from telltale import naming
from telltale.contract import Contract, Image, check_shared_files, contracts_in, governance
from telltale.contract.image import parse_file
from telltale.contract.shared import is_shared
from telltale.errors import InvalidInput

MAX_FILES = 256
MAX_BYTES = 4 * 1024 * 1024
MAX_SYMBOLS = 50_000
# Each may be a product, and what is checked of a product takes its time.
MAX_SERVICES = 256
MAX_NESTING = 8
MAX_IMPORT_DEPTH = 16


@dataclass(frozen=True)
class Registration:
    """What a domain offers: its own files, and its products by name."""

    files: Mapping[str, bytes]
    contracts: Mapping[str, Contract]


def check(files: Mapping[str, bytes], trust_domain: str, mesh: str) -> Registration:
    """Reads what a domain's reflection showed; raises InvalidInput at the first rule that it breaks.

    Costs milliseconds a file: call it on a thread.
    """
    domain = naming.domain_of(trust_domain, mesh)
    _require_bounds(files)
    protos: dict[str, FileDescriptorProto] = {}
    for name, data in files.items():
        proto = protos[name] = parse_file(data)
        if proto.name != name:
            raise InvalidInput(
                f"the file {name[:200]!r} calls itself {proto.name[:200]!r}; serve it under its name"
            )
    check_shared_files(protos)
    symbols: set[str] = set()
    depths: dict[str, int] = {}
    for proto in protos.values():
        _import_depth(proto.name, protos, depths)
        if not is_shared(proto.name):
            _require_own(proto, domain, trust_domain)
        for symbol in _symbols(proto):
            if symbol in symbols:
                raise InvalidInput(f"{symbol[:200]!r} is defined twice, the second time in {proto.name!r}")
            symbols.add(symbol)
            if len(symbols) > MAX_SYMBOLS:
                raise InvalidInput(f"the files define more than {MAX_SYMBOLS} names; register fewer")
    services = sum(len(proto.service) for name, proto in protos.items() if not is_shared(name))
    if services > MAX_SERVICES:
        raise InvalidInput(f"the files define {services} services; at most {MAX_SERVICES} are taken")
    image = Image.of_files(files.values())
    contracts = contracts_in(image)
    for contract in contracts:
        if naming.owner_of(contract.name) != domain:
            raise InvalidInput(
                f"{contract.name} belongs to the domain {naming.owner_of(contract.name)!r}; "
                f"{trust_domain} may register {naming.product_prefix(domain)}* only"
            )
    if not contracts:
        raise InvalidInput(f"{trust_domain} offers no data product; give a service the product option")
    governance.require(contracts, image)
    own = {name: data for name, data in files.items() if not is_shared(name)}
    return Registration(own, {contract.name: contract for contract in contracts})


def _require_bounds(files: Mapping[str, bytes]) -> None:
    size = sum(map(len, files.values()))
    if len(files) > MAX_FILES or size > MAX_BYTES:
        raise InvalidInput(
            f"{len(files)} files of {size} bytes in all; at most {MAX_FILES} of {MAX_BYTES} bytes are taken"
        )


def _import_depth(name: str, protos: Mapping[str, FileDescriptorProto], known: dict[str, int]) -> int:
    """Longest way down the imports of a file, which are all there, without a circle and not too deep."""
    if name not in protos:
        raise InvalidInput(f"the file {name[:200]!r} is imported and missing; serve it by reflection too")
    if name not in known:
        known[name] = 0  # under way: whoever comes here again has gone in a circle
        known[name] = 1 + max(
            (_import_depth(imported, protos, known) for imported in protos[name].dependency), default=0
        )
        if known[name] > MAX_IMPORT_DEPTH:
            raise InvalidInput(f"the imports of {name[:200]!r} are more than {MAX_IMPORT_DEPTH} deep")
    elif known[name] == 0:
        raise InvalidInput(f"the file {name[:200]!r} imports itself")
    return known[name]


def _require_own(proto: FileDescriptorProto, domain: str, trust_domain: str) -> None:
    directory = proto.name.rpartition("/")[0]
    package = naming.proto_package(domain)
    if not proto.name.startswith(package.replace(".", "/")):
        raise InvalidInput(
            f"the file {proto.name[:200]!r} is not of {trust_domain}, whose files lie below "
            f"{package.replace('.', '/')}"
        )
    if proto.package != directory.replace("/", "."):
        raise InvalidInput(
            f"the file {proto.name[:200]!r} has the package {proto.package[:200]!r}, "
            f"expected {directory.replace('/', '.')!r} as its directory says"
        )
    for extendee in _extendees(proto):
        # Options are extensions: another meaning for their numbers would reach everybody's descriptors.
        if not extendee.startswith(f".{package}"):
            raise InvalidInput(
                f"the file {proto.name[:200]!r} extends {extendee[:200]!r}; extend your own messages only"
            )


def _extendees(proto: FileDescriptorProto) -> Iterator[str]:
    yield from (extension.extendee for extension in proto.extension)
    messages = list(proto.message_type)
    while messages:
        message = messages.pop()
        yield from (extension.extendee for extension in message.extension)
        messages.extend(message.nested_type)


def _symbols(proto: FileDescriptorProto) -> Iterator[str]:
    prefix = f"{proto.package}." if proto.package else ""
    yield from _message_symbols(proto.name, prefix, proto.message_type, 1)
    yield from _enum_symbols(prefix, proto.enum_type)
    yield from (prefix + extension.name for extension in proto.extension)
    for service in proto.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)


def _message_symbols(
    file: str, prefix: str, messages: Iterable[DescriptorProto], depth: int
) -> Iterator[str]:
    for message in messages:
        if depth > MAX_NESTING:
            raise InvalidInput(
                f"{file!r} nests messages more than {MAX_NESTING} deep at {message.name[:200]!r}"
            )
        name = prefix + message.name
        yield name
        yield from (f"{name}.{field.name}" for field in (*message.field, *message.extension))
        yield from (f"{name}.{oneof.name}" for oneof in message.oneof_decl)
        yield from _message_symbols(file, f"{name}.", message.nested_type, depth + 1)
        yield from _enum_symbols(f"{name}.", message.enum_type)


def _enum_symbols(prefix: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[str]:
    for enum in enums:
        yield prefix + enum.name
        # By the rules of protobuf a value is named beside its enum, not below it.
        yield from (prefix + value.name for value in enum.value)
