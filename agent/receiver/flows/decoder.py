"""Datagrams in, batches of network.flows out: what belongs to one template is decoded together."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from agent.receiver.encoding import Encoded, RecordEncoder
from agent.receiver.flows import meaning, netflow, sflow
from agent.receiver.flows.exporter import Context, Exporter, Place
from agent.receiver.flows.layout import Layout
from agent.receiver.flows.meaning import Exported
from agent.receiver.flows.netflow import V5_LAYOUT, Data, Malformed, Set, Template
from agent.receiver.flows.parts import parts
from agent.receiver.flows.sflow import Sample
from agent.receiver.flows.table import Allowlist, ExporterTable, named
from telltale.api.mesh.v1.batch_pb2 import (
    LOSS_REASON_BOUND,
    LOSS_REASON_UPSTREAM,
    Loss,
    LossReason,
)
from telltale.api.network.v1.formats_pb2 import Format
from telltale.contract.product import Contract
from telltale.source.source import Part

# Layouts of one address, in all its observation domains, that are decoded at a time. Each costs a millisecond
# however few its records are, and one datagram could define a thousand.
_MOST_LAYOUTS = 128
# Records of one turn: three times what a turn of ordinary flows holds. A record may be as short as a byte,
# and each takes some hundred bytes of memory while it is decoded.
MOST_RECORDS = 500_000
# Losses in different words that one turn declares; further ones are added to the last.
_MOST_LOSSES = 16
_NETFLOW_V5, _NETFLOW_V9, _IPFIX, _SFLOW_V5 = 5, 9, 10, 5


class Datagram(NamedTuple):
    """One datagram. `received_ns`: nanoseconds since 1970."""

    data: bytes
    host: str
    received_ns: int


@dataclass(frozen=True)
class Decoded:
    """What came of some datagrams."""

    parts: Sequence[Part]
    losses: Sequence[Loss]
    records: int


@dataclass
class _Pending:
    """Sets of one layout of one exporter."""

    exporter: Exporter
    layout: Layout
    data: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)


@dataclass
class _Samples:
    """Samples of one exporter of sFlow, and when they came."""

    exporter: Exporter
    samples: list[Sample] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)


class FlowDecoder:
    """Decodes datagrams. Not thread-safe: one turn at a time."""

    def __init__(self, table: ExporterTable, contract: Contract) -> None:
        self.table = table
        # Whether there is something new to keep for the next start.
        self.learned = False
        self._encoder = RecordEncoder(contract.record, contract.time_field)
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._layouts: dict[bytes, int] = {}
        self._records = 0
        self._samples: dict[int, _Samples] = {}
        self._losses: dict[tuple[LossReason, str], int] = {}

    def decode(self, datagrams: Iterable[Datagram], allowed: Allowlist) -> Decoded:
        """One turn: takes datagrams apart, and decodes what they hold as far as templates are known."""
        newest = 0.0
        for datagram in datagrams:
            newest = datagram.received_ns / 1e9
            address, permitted = allowed.look(datagram.host)
            if permitted:
                self._take(datagram, address)
            else:
                self.table.refuse(address, newest)
        found = list(parts(self._encode()))
        self._count_losses(newest)
        return Decoded(found, self._take_losses(), sum(part.records for part in found))

    def drop(self) -> None:
        """Forgets what was taken apart and not decoded."""
        self._pending, self._layouts, self._samples, self._records = {}, {}, {}, 0

    def close(self) -> Sequence[Loss]:
        """Gives up what waits for templates; what that loses."""
        for exporter in self.table:
            exporter.give_up_held()
        self._count_losses(0.0)
        return self._take_losses()

    def _take(self, datagram: Datagram, address: bytes) -> None:
        data = datagram.data
        now = datagram.received_ns / 1e9
        version = int.from_bytes(data[:2], "big")
        exporter: Exporter | None = None
        try:
            if version == _NETFLOW_V5:
                exporter = self._take_v5(data, address, now)
            elif version == _NETFLOW_V9:
                head = netflow.read_v9_head(data)
                exporter = self.table.exporter(Place(address, Format.FORMAT_NETFLOW_V9, head.domain))
                exporter.hear(now, head.context)
                exporter.sequence.saw(head.sequence, 1)
                self._take_sets(exporter, netflow.read_v9_sets(data), head.context, now)
            elif version == _IPFIX:
                exporter = self._take_ipfix(data, address, now)
            elif data[:4] == struct.pack("!I", _SFLOW_V5):
                sample_head = sflow.read_head(data)
                exporter = self.table.exporter(Place(address, Format.FORMAT_SFLOW_V5, sample_head.sub_agent))
                exporter.hear(now, None)
                exporter.sequence.saw(sample_head.sequence, 1)
                self._take_samples(exporter, sample_head, datagram.received_ns)
            else:
                raise Malformed("it is of no version that this receiver knows")
        except Malformed:
            if exporter is None:
                # So early that nobody knows of which part it is: counted at the address.
                exporter = self.table.exporter(Place(address, Format.FORMAT_UNSPECIFIED, 0))
                exporter.hear(now, None)
            exporter.counters.malformed += 1
            detail = f"datagrams of {named(exporter.place)} are not what they should be"
            self._lose(LOSS_REASON_UPSTREAM, detail)

    def _take_v5(self, data: bytes, address: bytes, now: float) -> Exporter:
        read = netflow.read_v5(data)
        exporter = self.table.exporter(Place(address, Format.FORMAT_NETFLOW_V5, read.head.domain))
        exporter.hear(now, read.head.context)
        exporter.sequence.saw(read.head.sequence, read.count)
        exporter.default_rate = read.rate
        self._add(exporter, V5_LAYOUT, read.data, read.head.context)
        return exporter

    def _take_ipfix(self, data: bytes, address: bytes, now: float) -> Exporter:
        head = netflow.read_ipfix_head(data)
        exporter = self.table.exporter(Place(address, Format.FORMAT_IPFIX, head.domain))
        exporter.hear(now, head.context)
        # Known before the sets are read: a fault among them leaves the number of their records unknown.
        counted: int | None = None
        try:
            counted = self._take_sets(exporter, netflow.read_ipfix_sets(data), head.context, now)
        finally:
            if counted is None:
                exporter.sequence.lost_track()
            else:
                exporter.sequence.saw(head.sequence, counted)
        return exporter

    def _take_sets(self, exporter: Exporter, sets: Iterator[Set], context: Context, now: float) -> int | None:
        """How many records there were, options included; None when nobody can tell."""
        total: int | None = 0
        for one in sets:
            if isinstance(one, Template):
                self._learn(exporter, one)
                continue
            count = self._take_data(exporter, one, context, now)
            total = None if count is None or total is None else total + count
        return total

    def _take_data(self, exporter: Exporter, one: Data, context: Context, now: float) -> int | None:
        layout = exporter.templates.get(one.template)
        if layout is None:
            exporter.hold(one.template, one.data, context, now)
            return None
        return self._add(exporter, layout, one.data, context)

    def _learn(self, exporter: Exporter, template: Template) -> None:
        if template.layout is None:
            numbers = [template.number] if template.number else list(exporter.templates)
            for number in numbers:
                self.learned |= exporter.withdraw(number)
            return
        self.learned |= exporter.learn(template.number, template.layout)
        layout = exporter.templates[template.number]
        for held in exporter.release(template.number):
            self._add(exporter, layout, held.data, held.context)

    def _add(self, exporter: Exporter, layout: Layout, data: bytes, context: Context) -> int:
        """Keeps a set for the end of the turn; returns how many records it has."""
        data = layout.without_padding(data)
        count = layout.count(data)
        if not count:
            return 0
        if layout.options:
            self.learned |= exporter.told(layout, layout.read(data))
            return count
        if self._records + count > MOST_RECORDS:
            self._lose(LOSS_REASON_BOUND, "more flows at once than are decoded at a time", count)
            return count
        pending = self._pending.get((id(exporter), id(layout)))
        if pending is None:
            layouts = self._layouts.get(exporter.place.address, 0)
            if layouts >= _MOST_LAYOUTS:
                detail = f"too many templates at once from {named(exporter.place)}"
                self._lose(LOSS_REASON_BOUND, detail, count)
                return count
            self._layouts[exporter.place.address] = layouts + 1
            pending = self._pending[id(exporter), id(layout)] = _Pending(exporter, layout)
        pending.data.append(data)
        pending.counts.append(count)
        pending.contexts.append(context)
        self._records += count
        exporter.counters.records += count
        return count

    def _take_samples(self, exporter: Exporter, head: sflow.SFlowHead, received_ns: int) -> None:
        pending = self._samples.setdefault(id(exporter), _Samples(exporter))
        for sample in sflow.read_samples(head):
            pending.samples.append(sample)
            pending.received_ns.append(received_ns)
            exporter.counters.records += 1

    def _encode(self) -> Iterator[Encoded]:
        pendings, self._pending, self._layouts = list(self._pending.values()), {}, {}
        samples, self._samples, self._records = list(self._samples.values()), {}, 0
        for pending in pendings:
            exporter, layout = pending.exporter, pending.layout
            counts = np.array(pending.counts, np.int64)
            export_ns = np.array([context.export_ns for context in pending.contexts], np.int64)
            uptimes = [context.uptime_ms for context in pending.contexts]
            known = [uptime for uptime in uptimes if uptime is not None]
            exported = Exported(
                exporter.place.address,
                exporter.place.domain,
                exporter.place.format,
                np.repeat(export_ns, counts),
                np.repeat(np.array(known, np.int64), counts) if len(known) == len(uptimes) else None,
                exporter.system_start_ms,
            )
            records = layout.read(b"".join(pending.data))
            yield from self._encoder.encode(meaning.to_columns(layout, records, exported, exporter.sampling))
        for one in samples:
            if one.samples:
                place = one.exporter.place
                received = np.array(one.received_ns, np.int64)
                exported = Exported(place.address, place.domain, place.format, received)
                yield from self._encoder.encode(sflow.to_columns(one.samples, exported))

    def _count_losses(self, now: float) -> None:
        self.table.forget(now)
        for exporter in self.table:
            exporter.expire(now)
            missing = exporter.take_missing()
            if missing:
                what = "records" if exporter.numbers_records else "datagrams"
                self._lose(
                    LOSS_REASON_UPSTREAM,
                    f"{what} of {named(exporter.place)} are missing by its numbers",
                    missing if exporter.numbers_records else 0,
                )
            if exporter.take_given_up():
                self._lose(LOSS_REASON_BOUND, f"templates of {named(exporter.place)} did not come in time")
        if self.table.given_up:
            self.table.given_up = 0
            self._lose(LOSS_REASON_BOUND, "there are too many exporters to hold their data without templates")

    def _take_losses(self) -> list[Loss]:
        losses, self._losses = self._losses, {}
        return [Loss(reason=reason, detail=detail, records=n) for (reason, detail), n in losses.items()]

    def _lose(self, reason: LossReason, detail: str, records: int = 0) -> None:
        place = (reason, detail)
        if place not in self._losses and len(self._losses) >= _MOST_LOSSES:
            place = next(reversed(self._losses))
        self._losses[place] = self._losses.get(place, 0) + records
