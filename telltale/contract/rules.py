"""The rules that every contract keeps. A broken one names the product, the rule and what to do."""

import re

from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

from telltale import naming
from telltale.api.mesh.v1.product_pb2 import Classification, Kind, Product, Role, Status, Store
from telltale.contract.classified import places
from telltale.contract.fields import field_options, inside, is_repeated
from telltale.contract.shape import LISTING, MESH, TIMESTAMP, require_shape
from telltale.errors import InvalidInput

_FILE = re.compile(r"telltale/api/(?P<domain>[a-z][a-z0-9_]*)/v[1-9][0-9]*/[a-z][a-z0-9_]*\.proto")
_SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")
_PACKAGE_OF_THE_MESH = "telltale.api.mesh.v1"
# What fits into every language's durations.
_MAX_SECONDS = 100 * 366 * 86400
MAX_RECORD_LEVELS = 8
MAX_RECORD_COLUMNS = 1000
# What PostgreSQL takes for a column; SQLite takes any, and nobody can read them.
MAX_FIELD_NAME = 63
# Everybody who lists products gets the promises and descriptions of all of them, in one message.
MAX_PROMISE_BYTES = 4096
MAX_DESCRIPTION = 4096


def broken(product: str, rule: str, advice: str) -> InvalidInput:
    return InvalidInput(f"product {product or '(without a name)'}: {rule}; {advice}")


def require_place(product: str, service: ServiceDescriptor) -> str:
    """The domain of the product: its file's directory, its package and its prefix name the same one."""
    file = service.file
    place = _FILE.fullmatch(file.name)
    if place is None:
        raise broken(
            product, f"its file is {file.name!r}", "move it to telltale/api/<domain>/v1/<product>.proto"
        )
    package = file.name.rpartition("/")[0].replace("/", ".")
    if file.package != package:
        raise broken(product, f"{file.name} has the package {file.package!r}", f"make it {package!r}")
    domain = place["domain"]
    if package == _PACKAGE_OF_THE_MESH:
        raise broken(product, f"{package} holds no products", "move it to the package of its domain")
    prefix = naming.product_prefix(domain)
    if not product.startswith(prefix) or naming.owner_of(product) != domain:
        raise broken(product, f"the domain {domain} owns {prefix}* only", "set the option `name` to match")
    return domain


def require_promise(product: str, options: Product, description: str) -> None:
    if options.ByteSize() > MAX_PROMISE_BYTES or len(description) > MAX_DESCRIPTION:
        raise broken(
            product,
            f"its promise has {options.ByteSize()} bytes and its description {len(description)} characters",
            f"at most {MAX_PROMISE_BYTES} and {MAX_DESCRIPTION} are taken; link to what is longer",
        )
    for name in ("owner", "support", "purpose"):
        if not getattr(options, name).strip():
            raise broken(product, f"its promise lacks `{name}`", "set it in the product option")
    for name, enum in (("kind", Kind), ("status", Status), ("classification", Classification)):
        value = getattr(options, name)
        if value == 0 or value not in enum.values():
            raise broken(product, f"its promise lacks `{name}`", f"use one of {', '.join(enum.keys()[1:])}")
    if options.store not in Store.values():
        raise broken(product, f"its store is {options.store}", f"use one of {', '.join(Store.keys())}")
    if options.store == Store.STORE_COLUMNS and options.kind == Kind.KIND_INVENTORY:
        raise broken(product, "an inventory changes in place and files do not", "remove the option `store`")
    if not _SEMANTIC_VERSION.fullmatch(options.version):
        raise broken(product, f"its version is {options.version!r}", "use a semantic version such as 1.0.0")
    for name in ("freshness", "retention"):
        length = getattr(options, name)
        if not (0, 0) < (length.seconds, length.nanos) <= (_MAX_SECONDS, 0) or not 0 <= length.nanos < 10**9:
            raise broken(product, f"its promise lacks `{name}`", "set a duration between zero and 100 years")


def _method(service: ServiceDescriptor, name: str, request: str, *, streams: bool) -> MethodDescriptor:
    method = service.methods_by_name.get(name)
    if (
        method is None
        or method.input_type.full_name != MESH + request
        or method.client_streaming
        or method.server_streaming != streams
    ):
        wanted = f"rpc {name}({MESH}{request}) returns ({'stream ' if streams else ''}...)"
        raise InvalidInput(f"{service.full_name} needs `{wanted}`")
    return method


def streamed(service: ServiceDescriptor, name: str, request: str) -> Descriptor:
    return _method(service, name, request, streams=True).output_type


def require_inventory_methods(service: ServiceDescriptor, frame: Descriptor) -> Descriptor:
    watched = streamed(service, "Watch", "WatchRequest")
    if watched.full_name != frame.full_name:
        raise InvalidInput(f"{service.full_name}.Watch must stream {frame.full_name}, as Subscribe does")
    listing = _method(service, "List", "ListRequest", streams=False).output_type
    require_shape(listing, LISTING)
    return listing


def require_one_record(
    product: str, record: Descriptor, records: Descriptor, listing: Descriptor | None
) -> None:
    used = [inside(records, "removed")]
    if listing is not None:
        used.append(inside(inside(listing, "entries"), "record"))
    for message in used:
        if message.full_name != record.full_name:
            raise broken(
                product,
                f"it uses {message.full_name} and {record.full_name} as its record",
                f"use {record.full_name} in all places",
            )


def require_fields(product: str, options: Product, record: Descriptor) -> None:
    _require_size(product, record)
    for place in places(record):
        if len(place.field.name) > MAX_FIELD_NAME:
            raise broken(
                product,
                f"the name of {place.field.full_name[:200]} has {len(place.field.name)} characters",
                f"a field's name has at most {MAX_FIELD_NAME}, because it becomes a column",
            )
        if place.classification > options.classification:
            raise broken(
                product,
                f"{place.field.full_name} is {Classification.Name(place.classification)}",
                "raise the classification of the product to the highest of its fields",
            )


def _require_size(product: str, record: Descriptor) -> None:
    """A record becomes a row: its columns are bounded in number and depth, and none lies within itself."""
    sizes: dict[str, tuple[int, int]] = {}
    measured_now: set[str] = set()

    def measure(message: Descriptor) -> tuple[int, int]:
        """Columns and levels of a message. Each once: few that use each other often would take for ever."""
        if message.full_name in measured_now or len(measured_now) > MAX_RECORD_LEVELS:
            raise broken(
                product,
                f"{record.full_name} nests {message.full_name} within itself or too deeply",
                f"a record has at most {MAX_RECORD_LEVELS} levels, because it becomes a row",
            )
        if message.full_name not in sizes:
            measured_now.add(message.full_name)
            parts = [
                (1, 0) if field.message_type is None else measure(field.message_type)
                for field in message.fields
            ]
            measured_now.remove(message.full_name)
            levels = 1 + max((levels for _, levels in parts), default=0)
            sizes[message.full_name] = sum(columns for columns, _ in parts), levels
        return sizes[message.full_name]

    columns, levels = measure(record)
    if columns > MAX_RECORD_COLUMNS or levels > MAX_RECORD_LEVELS:
        raise broken(
            product,
            f"{record.full_name} has {columns} columns in {levels} levels",
            f"a record has at most {MAX_RECORD_COLUMNS} in {MAX_RECORD_LEVELS}, because it becomes a row",
        )


def time_field(product: str, record: Descriptor) -> str:
    found = [field for field in record.fields if Role.ROLE_TIME in field_options(field).roles]
    if (
        len(found) != 1
        or is_repeated(found[0])
        or found[0].message_type is None
        or found[0].message_type.full_name != TIMESTAMP
    ):
        raise broken(
            product,
            f"{record.full_name} needs exactly one field of type {TIMESTAMP} with ROLE_TIME",
            "mark the one that tells when the record was true",
        )
    return found[0].name


def key_fields(product: str, record: Descriptor, *, required: bool) -> tuple[str, ...]:
    found = [
        field
        for field in sorted(record.fields, key=lambda field: field.number)
        if Role.ROLE_KEY in field_options(field).roles
    ]
    for field in found:
        if is_repeated(field) or field.message_type is not None:
            raise broken(product, f"{field.full_name} has ROLE_KEY", "only single scalar fields can be a key")
    if required and not found:
        raise broken(
            product,
            f"{record.full_name} has no field with ROLE_KEY",
            "mark the fields that tell one row of a source from another",
        )
    return tuple(field.name for field in found)
