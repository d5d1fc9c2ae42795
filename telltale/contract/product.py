"""The contract of a data product, read from its descriptors, and the rules that every contract keeps."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from telltale import naming
from telltale.api.mesh.v1 import product_pb2
from telltale.api.mesh.v1.product_pb2 import Classification, Field, Kind, Product, Role, Status
from telltale.contract.image import Image
from telltale.contract.shape import (
    FRAME,
    INVENTORY_FRAME,
    LISTING,
    MESH,
    TIMESTAMP,
    is_repeated,
    message_of,
    require_shape,
)
from telltale.errors import InvalidInput

_FILE = re.compile(r"telltale/api/(?P<domain>[a-z][a-z0-9_]*)/v[1-9][0-9]*/[a-z][a-z0-9_]*\.proto")
_SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")
# The generated modules type an extension as a plain field.
_PRODUCT: Any = product_pb2.product
_FIELD: Any = product_pb2.field
_PACKAGE_OF_THE_MESH = "telltale.api.mesh.v1"
_MAX_RECORD_LEVELS = 8
_MAX_RECORD_COLUMNS = 1000


@dataclass(frozen=True, eq=False)
class Contract:
    """Everything that generic code knows of a data product."""

    name: str
    kind: Kind
    domain: str
    # Full name of the gRPC service: `/{service}/Subscribe` is its stream.
    service: str
    options: Product
    # The owner's comment above the service.
    description: str
    record: Descriptor
    records: Descriptor
    frame: Descriptor
    # Response of List; None unless it is an inventory.
    listing: Descriptor | None
    # Proto file, such as `telltale/api/servers/v1/cpu.proto`.
    file: str
    time_field: str
    key_fields: tuple[str, ...]

    def field_options(self, field: str) -> Field:
        """Unit, semantic-convention name, classification and roles of a record's field."""
        return field_options(self.record.fields_by_name[field])

    def roles(self, field: str) -> frozenset[Role]:
        """Parts that a record's field plays for generic code."""
        return frozenset(self.field_options(field).roles)

    def fields_with(self, role: Role) -> tuple[str, ...]:
        """Names of the record's fields that play a part, in the order of their numbers."""
        return self._fields_by_role.get(role, ())

    @cached_property
    def _fields_by_role(self) -> dict[Role, tuple[str, ...]]:
        found: dict[Role, tuple[str, ...]] = {}
        for field in sorted(self.record.fields, key=lambda field: field.number):
            for role in field_options(field).roles:
                found[role] = (*found.get(role, ()), field.name)
        return found


def contracts_in(image: Image) -> tuple[Contract, ...]:
    """Every data product of an image, by name; raises InvalidInput when a promise is incomplete."""
    contracts: dict[str, Contract] = {}
    for file in image.files:
        for service in image.pool.FindFileByName(file).services_by_name.values():
            if not service.GetOptions().HasExtension(_PRODUCT):
                continue
            contract = _read(service, image.comment(service.full_name))
            if contract.name in contracts:
                raise _broken(
                    contract.name,
                    "two services have this name",
                    f"rename {service.full_name} or {contracts[contract.name].service}",
                )
            contracts[contract.name] = contract
    return tuple(contracts[name] for name in sorted(contracts))


def field_options(field: FieldDescriptor) -> Field:
    """The meaning of a field; empty when it states none."""
    meaning: Field = field.GetOptions().Extensions[_FIELD]
    return meaning


def classification_of(field: FieldDescriptor) -> Classification:
    """The classification of a field: INTERNAL unless it says otherwise."""
    return field_options(field).classification or Classification.CLASSIFICATION_INTERNAL


def _broken(product: str, rule: str, advice: str) -> InvalidInput:
    return InvalidInput(f"product {product or '(without a name)'}: {rule}; {advice}")


def _read(service: ServiceDescriptor, description: str) -> Contract:
    options: Product = service.GetOptions().Extensions[_PRODUCT]
    product = options.name or service.full_name
    domain = _require_place(product, service)
    _require_promise(product, options)
    inventory = options.kind == Kind.KIND_INVENTORY
    try:
        frame = _streamed(service, "Subscribe", "SubscribeRequest")
        require_shape(frame, INVENTORY_FRAME if inventory else FRAME)
        listing = _require_inventory_methods(service, frame) if inventory else None
    except InvalidInput as wrong:
        raise _broken(product, str(wrong), "the shape is the same for every product of the kind") from None
    records = _inside(_inside(frame, "batches"), "payload")
    record = _inside(records, "records")
    if inventory:
        _require_one_record(product, record, records, listing)
    _require_fields(product, options, record)
    return Contract(
        name=options.name,
        kind=options.kind,
        domain=domain,
        service=service.full_name,
        options=options,
        description=description,
        record=record,
        records=records,
        frame=frame,
        listing=listing,
        file=service.file.name,
        time_field=_time_field(product, record),
        key_fields=_key_fields(product, record, required=inventory),
    )


def _require_place(product: str, service: ServiceDescriptor) -> str:
    """The domain of the product: its file's directory, its package and its prefix name the same one."""
    file = service.file
    place = _FILE.fullmatch(file.name)
    if place is None:
        raise _broken(
            product, f"its file is {file.name!r}", "move it to telltale/api/<domain>/v1/<product>.proto"
        )
    package = file.name.rpartition("/")[0].replace("/", ".")
    if file.package != package:
        raise _broken(product, f"{file.name} has the package {file.package!r}", f"make it {package!r}")
    domain = place["domain"]
    if package == _PACKAGE_OF_THE_MESH:
        raise _broken(product, f"{package} holds no products", "move it to the package of its domain")
    prefix = naming.product_prefix(domain)
    if not product.startswith(prefix) or naming.owner_of(product) != domain:
        raise _broken(product, f"the domain {domain} owns {prefix}* only", "set the option `name` to match")
    return domain


def _require_promise(product: str, options: Product) -> None:
    for name in ("owner", "support", "purpose"):
        if not getattr(options, name).strip():
            raise _broken(product, f"its promise lacks `{name}`", "set it in the product option")
    for name, enum in (("kind", Kind), ("status", Status), ("classification", Classification)):
        value = getattr(options, name)
        if value == 0 or value not in enum.values():
            raise _broken(product, f"its promise lacks `{name}`", f"use one of {', '.join(enum.keys()[1:])}")
    if not _SEMANTIC_VERSION.fullmatch(options.version):
        raise _broken(product, f"its version is {options.version!r}", "use a semantic version such as 1.0.0")
    for name in ("freshness", "retention"):
        length = getattr(options, name)
        if length.seconds < 0 or length.nanos < 0 or (length.seconds, length.nanos) == (0, 0):
            raise _broken(product, f"its promise lacks `{name}`", "set a duration above zero")


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


def _streamed(service: ServiceDescriptor, name: str, request: str) -> Descriptor:
    return _method(service, name, request, streams=True).output_type


def _require_inventory_methods(service: ServiceDescriptor, frame: Descriptor) -> Descriptor:
    watched = _streamed(service, "Watch", "WatchRequest")
    if watched.full_name != frame.full_name:
        raise InvalidInput(f"{service.full_name}.Watch must stream {frame.full_name}, as Subscribe does")
    listing = _method(service, "List", "ListRequest", streams=False).output_type
    require_shape(listing, LISTING)
    return listing


def _inside(message: Descriptor, field: str) -> Descriptor:
    return message_of(message.fields_by_name[field])


def _require_one_record(
    product: str, record: Descriptor, records: Descriptor, listing: Descriptor | None
) -> None:
    used = [_inside(records, "removed")]
    if listing is not None:
        used.append(_inside(_inside(listing, "entries"), "record"))
    for message in used:
        if message.full_name != record.full_name:
            raise _broken(
                product,
                f"it uses {message.full_name} and {record.full_name} as its record",
                f"use {record.full_name} in all places",
            )


def _require_fields(product: str, options: Product, record: Descriptor) -> None:
    _require_size(product, record)
    for field in record.fields:
        if classification_of(field) > options.classification:
            raise _broken(
                product,
                f"{field.full_name} is {Classification.Name(classification_of(field))}",
                "raise the classification of the product to the highest of its fields",
            )


def _require_size(product: str, record: Descriptor) -> None:
    """A record becomes a row: its columns are bounded in number and depth, and none lies within itself."""
    sizes: dict[str, tuple[int, int]] = {}
    measured_now: set[str] = set()

    def measure(message: Descriptor) -> tuple[int, int]:
        """Columns and levels of a message. Each once: few that use each other often would take for ever."""
        if message.full_name in measured_now or len(measured_now) > _MAX_RECORD_LEVELS:
            raise _broken(
                product,
                f"{record.full_name} nests {message.full_name} within itself or too deeply",
                f"a record has at most {_MAX_RECORD_LEVELS} levels, because it becomes a row",
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
    if columns > _MAX_RECORD_COLUMNS or levels > _MAX_RECORD_LEVELS:
        raise _broken(
            product,
            f"{record.full_name} has {columns} columns in {levels} levels",
            f"a record has at most {_MAX_RECORD_COLUMNS} in {_MAX_RECORD_LEVELS}, because it becomes a row",
        )


def _time_field(product: str, record: Descriptor) -> str:
    found = [field for field in record.fields if Role.ROLE_TIME in field_options(field).roles]
    if (
        len(found) != 1
        or is_repeated(found[0])
        or found[0].message_type is None
        or found[0].message_type.full_name != TIMESTAMP
    ):
        raise _broken(
            product,
            f"{record.full_name} needs exactly one field of type {TIMESTAMP} with ROLE_TIME",
            "mark the one that tells when the record was true",
        )
    return found[0].name


def _key_fields(product: str, record: Descriptor, *, required: bool) -> tuple[str, ...]:
    found = [
        field
        for field in sorted(record.fields, key=lambda field: field.number)
        if Role.ROLE_KEY in field_options(field).roles
    ]
    for field in found:
        if is_repeated(field) or field.message_type is not None:
            raise _broken(
                product, f"{field.full_name} has ROLE_KEY", "only single scalar fields can be a key"
            )
    if required and not found:
        raise _broken(
            product,
            f"{record.full_name} has no field with ROLE_KEY",
            "mark the fields that tell one row of a source from another",
        )
    return tuple(field.name for field in found)
