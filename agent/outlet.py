"""What one collector yields on its way to the sink: losses gathered, inventories compared, silence broken."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from google.protobuf.message import Message

from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason
from telltale.api.mesh.v1.product_pb2 import Kind, Role
from telltale.contract.product import Contract
from telltale.source.source import Part

SNAPSHOT_EVERY_SECONDS = 3600.0
# Losses of different wording that may wait for the next batch; the rest is counted under the last wording.
MAX_PENDING_LOSSES = 16

Key = tuple[object, ...]


class Sink(Protocol):
    """Takes what was collected. The agent's is a Source; a test's is a list."""

    @property
    def holes_declared(self) -> int:
        """Grows whenever something handed over was given up: inventories send a new snapshot then."""
        ...

    async def publish(
        self,
        product: str,
        records: Sequence[Message],
        *,
        removed: Sequence[Message] = (),
        losses: Sequence[Loss] = (),
    ) -> bool:
        """Keeps the records durably. Nothing at all is a sign of life: an empty batch.

        False when there is no room: they are not kept, and declared as lost.
        """
        ...

    async def publish_encoded(
        self, product: str, parts: Sequence[Part], *, losses: Sequence[Loss] = ()
    ) -> bool:
        """Keeps records that are encoded already. False as for publish."""
        ...

    async def snapshot(self, product: str, records: Sequence[Message]) -> bool:
        """Keeps the whole state of an inventory, which replaces what was there. False as for publish."""
        ...


class Outlet:
    """The way of one product's records into the sink."""

    def __init__(self, contract: Contract, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        self.product = contract.name
        self._sink = sink
        self._clock = clock
        freshness = contract.options.freshness.ToTimedelta().total_seconds()
        self._quiet_seconds = freshness / 2
        self._inventory = None
        if contract.kind == Kind.KIND_INVENTORY:
            self._inventory = _Inventory(contract, min(SNAPSHOT_EVERY_SECONDS, freshness / 2))
        self._losses: dict[tuple[LossReason, str], int] = {}
        self._published_at = clock()

    async def put(self, records: Sequence[Message], losses: Sequence[Loss] = ()) -> bool:
        """Hands records on; for an inventory they are its whole state, of which only the difference travels.

        Losses wait for the next batch: a method that always misses something makes no batches by that.
        False when the sink had no room for them.
        """
        for loss in losses:
            self.lose(loss)
        kept = True
        if self._inventory is not None:
            kept = await self._put_inventory(self._inventory, records)
        elif records:
            kept = await self._publish(records)
        if self._clock() - self._published_at >= self._quiet_seconds:
            kept = await self._publish(()) and kept
        return kept

    async def put_encoded(self, parts: Sequence[Part], losses: Sequence[Loss] = ()) -> bool:
        """The same for records that are encoded already."""
        for loss in losses:
            self.lose(loss)
        if not parts and self._clock() - self._published_at < self._quiet_seconds:
            return True
        kept = await self._sink.publish_encoded(self.product, parts, losses=self._declared())
        self._published()
        return kept

    def lose(self, loss: Loss) -> None:
        """Declares a loss with the next batch."""
        place = (loss.reason, loss.detail)
        if place not in self._losses and len(self._losses) >= MAX_PENDING_LOSSES:
            place = next(reversed(self._losses))
        self._losses[place] = self._losses.get(place, 0) + loss.records

    async def _put_inventory(self, inventory: "_Inventory", records: Sequence[Message]) -> bool:
        kept = True
        state = inventory.state(records)
        holes, now = self._sink.holes_declared, self._clock()
        if inventory.needs_snapshot(now, holes):
            kept = await self._sink.snapshot(self.product, tuple(state.values()))
            inventory.snapshot_taken(now, holes)
            self._published_at = now
            if self._losses:
                kept = await self._publish(()) and kept
        else:
            changed, removed = inventory.difference(state)
            if changed or removed:
                # Until the difference is durable the last state is not what the domain will have.
                inventory.forget()
                kept = await self._publish(changed, removed)
        inventory.remember(state)
        return kept

    async def _publish(self, records: Sequence[Message], removed: Sequence[Message] = ()) -> bool:
        kept = await self._sink.publish(self.product, records, removed=removed, losses=self._declared())
        self._published()
        return kept

    def _declared(self) -> list[Loss]:
        return [
            Loss(records=count, reason=reason, detail=detail)
            for (reason, detail), count in self._losses.items()
        ]

    def _published(self) -> None:
        self._losses.clear()
        self._published_at = self._clock()


class _Inventory:
    """The state that the domain has of an inventory once everything handed over has arrived."""

    def __init__(self, contract: Contract, snapshot_seconds: float) -> None:
        self._keys = contract.key_fields
        # A measurement alone is no change: it travels when something else does, and with every snapshot.
        measurements = contract.fields_with(Role.ROLE_COUNTER) + contract.fields_with(Role.ROLE_GAUGE)
        self._incomparable = (contract.time_field, *(name for name in measurements if name not in self._keys))
        self._snapshot_seconds = snapshot_seconds
        self._snapshot_at = 0.0
        self._holes = 0
        self._last: dict[Key, tuple[bytes, type[Message]]] | None = None

    def state(self, records: Sequence[Message]) -> dict[Key, Message]:
        return {tuple(getattr(record, key) for key in self._keys): record for record in records}

    def needs_snapshot(self, now: float, holes: int) -> bool:
        return self._last is None or holes != self._holes or now - self._snapshot_at >= self._snapshot_seconds

    def snapshot_taken(self, now: float, holes: int) -> None:
        self._snapshot_at, self._holes = now, holes

    def difference(self, state: dict[Key, Message]) -> tuple[list[Message], list[Message]]:
        """What is new or changed, and the keys of what is gone."""
        last = self._last or {}
        changed = [
            record
            for key, record in state.items()
            if key not in last or last[key][0] != self._fingerprint(record)
        ]
        removed = [
            kind(**dict(zip(self._keys, key, strict=True)))
            for key, (_, kind) in last.items()
            if key not in state
        ]
        return changed, removed

    def forget(self) -> None:
        self._last = None

    def remember(self, state: dict[Key, Message]) -> None:
        self._last = {key: (self._fingerprint(record), type(record)) for key, record in state.items()}

    def _fingerprint(self, record: Message) -> bytes:
        comparable = type(record)()
        comparable.CopyFrom(record)
        for name in self._incomparable:
            comparable.ClearField(name)
        return comparable.SerializeToString(deterministic=True)
