"""The contract of a data product, read from its descriptors."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import Descriptor, ServiceDescriptor

from telltale.api.mesh.v1 import product_pb2
from telltale.api.mesh.v1.product_pb2 import Field, Kind, Product, Role
from telltale.contract import rules
from telltale.contract.classified import Place, places
from telltale.contract.fields import classification_of as classification_of
from telltale.contract.fields import field_options as field_options
from telltale.contract.fields import inside
from telltale.contract.image import Image
from telltale.contract.shape import FRAME, INVENTORY_FRAME, require_shape
from telltale.errors import InvalidInput

# The generated module types an extension as a plain field.
_PRODUCT: Any = product_pb2.product


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

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every field of the record, down to those of the messages that it is made of."""
        return tuple(places(self.record))

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
                other = contracts[contract.name].service
                raise rules.broken(
                    contract.name, "two services have this name", f"rename {service.full_name} or {other}"
                )
            contracts[contract.name] = contract
    return tuple(contracts[name] for name in sorted(contracts))


def contract_of(image: Image, service: str) -> Contract:
    """The product of one service; raises InvalidInput when its promise is incomplete, not when others are."""
    try:
        found = image.pool.FindServiceByName(service)
    except KeyError:
        raise InvalidInput(f"{service} is not among these descriptors") from None
    return _read(found, image.comment(service))


def _read(service: ServiceDescriptor, description: str) -> Contract:
    options: Product = service.GetOptions().Extensions[_PRODUCT]
    product = options.name or service.full_name
    domain = rules.require_place(product, service)
    rules.require_promise(product, options, description)
    inventory = options.kind == Kind.KIND_INVENTORY
    try:
        frame = rules.streamed(service, "Subscribe", "SubscribeRequest")
        require_shape(frame, INVENTORY_FRAME if inventory else FRAME)
        listing = rules.require_inventory_methods(service, frame) if inventory else None
    except InvalidInput as wrong:
        advice = "the shape is the same for every product of the kind"
        raise rules.broken(product, str(wrong), advice) from None
    records = inside(inside(frame, "batches"), "payload")
    record = inside(records, "records")
    if inventory:
        rules.require_one_record(product, record, records, listing)
    rules.require_fields(product, options, record)
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
        time_field=rules.time_field(product, record),
        key_fields=rules.key_fields(product, record, required=inventory),
    )
