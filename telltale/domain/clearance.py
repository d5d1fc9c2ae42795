"""What of a product's fields somebody may see, and records without the rest.

A masked copy is made by what may be shown: fields that the present contract does not know are left out too.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from telltale.api.mesh.v1.batch_pb2 import Delivery, Header, SealedBatch
from telltale.api.mesh.v1.product_pb2 import Classification, Kind
from telltale.contract.classified import inner, value_of
from telltale.contract.product import Contract
from telltale.contract.schema import message_class
from telltale.domain.policy import word
from telltale.errors import PermissionMissing

# Fields that one refusal names.
_NAMED = 8

# Of each field of a message that is hidden or holds a hidden one: None, or the same for what is in it.
_Tree: TypeAlias = "dict[str, _Tree | None]"


class NotCleared(PermissionMissing):
    """A caller who may read the product, and not see all that was asked for."""

    def __init__(self, principal: str, product: str, message: str) -> None:
        super().__init__(principal, "see", product)
        self.args = (message,)


class Clearance:
    """What a caller with these classifications sees of a product."""

    def __init__(
        self,
        contract: Contract,
        sees: frozenset[Classification],
        former: Mapping[str, Classification],
    ) -> None:
        """`former`: fields that the product once had, which batches of that time still hold."""
        self._contract = contract
        self._tree: _Tree = {}
        # By dotted name; what lies in a hidden field is not named again.
        self._hidden = {
            str(place): place.classification
            for place in contract.places
            if place.classification not in sees and _hide(self._tree, place.names)
        }
        self._hidden |= {name: one for name, one in former.items() if one not in sees}
        self.masked = tuple(self._hidden)

    def refusal(self, principal: object) -> str:
        """Why the sealed batches are not for somebody, and what is."""
        instead = (
            "List and Watch serve it with these fields masked"
            if self._contract.kind == Kind.KIND_INVENTORY
            else "ask its owner for the permission `see`"
        )
        return f"{self.missing(principal)}, and a sealed batch is delivered whole; {instead}"

    def missing(self, principal: object) -> str:
        """What somebody may not see, in words."""
        named = [f"{name} ({word(one)})" for name, one in self._hidden.items()]
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        return f"{principal} may not see {', '.join(named[:_NAMED])}{more} of {self._contract.name}"

    def require_visible(self, principal: object, field: str) -> None:
        """Raises NotCleared when a filter asks for a field of the record that is hidden."""
        if field in self._hidden:
            raise NotCleared(
                str(principal),
                self._contract.name,
                f"{principal} may not see {field} ({word(self._hidden[field])}) of "
                f"{self._contract.name}; leave it out of the filter",
            )

    def mask(self, record: Message) -> None:
        """Clears what is hidden in a record of the product."""
        record.DiscardUnknownFields()
        _clear(record, self._tree)

    def masked_record(self, record: bytes) -> bytes:
        """A record's bytes without what is hidden."""
        message = message_class(self._contract.record).FromString(record)
        self.mask(message)
        return message.SerializeToString()

    def masked_batch(self, sealed: bytes) -> bytes:
        """A copy of a sealed batch without what is hidden, and without what guesses could be tried against.

        A digest of the payload, in this header or in the next as a part of the header before it, would tell
        whether a guess at the hidden fields is right; so would the signature.
        """
        batch = SealedBatch.FromString(sealed)
        header = Header.FromString(batch.header)
        header.DiscardUnknownFields()
        for field in ("payload_sha256", "previous_header_sha256"):
            header.ClearField(field)
        if self._contract.time_field in self.masked:
            for field in ("first_event_time", "last_event_time"):
                header.ClearField(field)
        for loss in header.losses:
            loss.ClearField("detail")
        payload: Any = message_class(self._contract.records).FromString(batch.payload)
        payload.DiscardUnknownFields()
        for record in (*payload.records, *getattr(payload, "removed", ())):
            self.mask(record)
        delivery = Delivery.FromString(batch.delivery)
        delivery.masked_fields.extend(self.masked)
        copy = SealedBatch(
            header=header.SerializeToString(),
            payload=payload.SerializeToString(),
            delivery=delivery.SerializeToString(),
        )
        return copy.SerializeToString()


def _hide(tree: _Tree, names: tuple[str, ...]) -> bool:
    """Enters a field; False when it lies in one that is hidden already. Outer fields come first."""
    for name in names[:-1]:
        below = tree.setdefault(name, {})
        if below is None:
            return False
        tree = below
    tree[names[-1]] = None
    return True


def _clear(message: Message, tree: _Tree) -> None:
    for field, value in message.ListFields():
        if field.is_extension:
            # It has no classification of its own.
            message.ClearExtension(field)  # type: ignore[arg-type]  # the stubs know generated ones only
        elif field.name in tree and tree[field.name] is None:
            message.ClearField(field.name)
        elif inner(field) is not None:
            for part in _parts(field, value):
                _clear(part, tree.get(field.name) or {})


def _parts(field: FieldDescriptor, value: Any) -> Iterable[Message]:
    if value_of(field) is not field:
        return value.values()  # type: ignore[no-any-return]
    return value if field.is_repeated else (value,)
