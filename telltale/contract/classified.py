"""Which fields of a record are classified how, down to those of the messages that it is made of."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.contract.fields import classification_of
from telltale.contract.shared import is_shared


@dataclass(frozen=True)
class Place:
    """A field of a record, at any depth."""

    # Names of the fields that lead to it, itself the last; one step for a map and what its values are.
    names: tuple[str, ...]
    # Their numbers: what they are called on the wire, whatever the version of the contract.
    numbers: tuple[int, ...]
    field: FieldDescriptor
    classification: Classification

    def __str__(self) -> str:
        return ".".join(self.names)


def places(record: Descriptor) -> Iterator[Place]:
    """Every field of a record, each before those that lie in it; as many as contracts allow columns."""
    yield from _below(record, (), ())


def value_of(field: FieldDescriptor) -> FieldDescriptor:
    """The field itself; of a map, the one that its values are."""
    if field.message_type is None or not field.message_type.GetOptions().map_entry:
        return field
    value: FieldDescriptor = field.message_type.fields_by_name["value"]
    return value


def inner(field: FieldDescriptor) -> Descriptor | None:
    """The product's own message that a field or the values of a map are; None for scalars, times and spans.

    Shared messages are values: what they are made of is nobody's to classify.
    """
    message = value_of(field).message_type
    return None if message is None or is_shared(message.file.name) else message


def _below(message: Descriptor, names: tuple[str, ...], numbers: tuple[int, ...]) -> Iterator[Place]:
    for field in message.fields:
        place = Place((*names, field.name), (*numbers, field.number), field, classification_of(field))
        yield place
        below = inner(field)
        if below is not None:
            yield from _below(below, place.names, place.numbers)


def left_behind(old: Descriptor, new: Descriptor) -> dict[str, Classification]:
    """Fields of an earlier version that the record lacks now, by dotted name."""
    present = {place.numbers for place in places(new)}
    return {str(place): place.classification for place in places(old) if place.numbers not in present}
