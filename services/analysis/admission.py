"""From what a subscription yields to what rules look at: what counts, what is wrong, what is missing."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from services.analysis.clock import SECOND, micros
from services.analysis.detection import Fault, Wrong
from services.analysis.records import Opened
from services.analysis.signals import host_of
from services.analysis.streams import Stream, count
from services.analysis.thresholds import Thresholds
from telltale.api.mesh.v1.batch_pb2 import GapReason, Header, LossReason
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.contract.product import Contract
from telltale.seal.chain import Link, Range

# Ranges that a finding names.
_SHOWN_RANGES = 8


@dataclass
class Chunk:
    """What a few deliveries amount to."""

    opened: list[Opened] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    streams: dict[tuple[str, str], Stream] = field(default_factory=dict)
    # Latest received time by product, where it matters.
    received: dict[str, int] = field(default_factory=dict)
    # Offsets reached by (product, log), and the logs that are no more.
    reached: dict[tuple[str, str], int] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)
    # Products of which a part could no longer be had.
    gapped: set[str] = field(default_factory=set)
    # Amounts missing by (product, source, time, kind); the kinds are the fields of Completeness.
    shortfalls: Counter[tuple[str, str, int, str]] = field(default_factory=Counter)


class Admission:
    """Looks at deliveries one by one, in their order. `own` is the source that takes no input from itself."""

    def __init__(self, thresholds: Thresholds, own: str) -> None:
        self._grace = int(thresholds.hole_grace_seconds * SECOND)
        self._own = own

    def admit(
        self,
        items: Iterable[Item],
        streams: Mapping[tuple[str, str], Stream],
        received: Mapping[str, int],
    ) -> Chunk:
        """The chunk that the items amount to, given the streams that they may continue.

        received: until when each product that has a gap among the items was received.
        """
        chunk = Chunk(streams=dict(streams), received=dict(received))
        for item in items:
            if isinstance(item, Missing):
                self._gap(item, chunk)
                continue
            if item.position.log:
                chunk.reached[item.product, item.position.log] = item.position.offset
            if item.header.source != self._own:
                self._batch(item, chunk)
        return chunk

    def _gap(self, missing: Missing, chunk: Chunk) -> None:
        gap = missing.gap
        # It has no time of its own: it lies behind what was received of the product before.
        at = chunk.received.get(gap.product, 0)
        if gap.reason == GapReason.GAP_REASON_LOG_REPLACED:
            chunk.left.append((gap.product, gap.log))
            chunk.reached.pop((gap.product, gap.log), None)
        name = (
            GapReason.Name(gap.reason).removeprefix("GAP_REASON_") if gap.reason in GapReason.values() else ""
        )
        facts = (
            ("log", gap.log),
            ("after_offset", str(gap.after_offset)),
            ("resumed_offset", str(gap.resumed.offset)),
        )
        chunk.gapped.add(gap.product)
        for key, stream in chunk.streams.items():
            if stream.product == gap.product:
                chunk.streams[key] = replace(stream, after_gap=True)
        chunk.shortfalls[gap.product, "", at, "gaps"] += 1
        chunk.faults.append(Fault(Wrong.named(name), gap.product, "", at, "", facts))

    def _batch(self, item: Delivered, chunk: Chunk) -> None:
        received = micros(item.received_time)
        header = item.header
        key = (item.product, header.source)
        chunk.received[item.product] = max(received, chunk.received.get(item.product, 0))
        if item.refused is not None:
            chunk.shortfalls[*key, received, "refused_batches"] += 1
            wrong = Wrong.named(RefusalReason.Name(item.refused.reason).removeprefix("REFUSAL_REASON_"))
            chunk.faults.append(_fault(wrong, header, received, item.refused.detail))
        if not item.signed or item.link is not Link.NEXT:
            # It proves nothing about its source, or has been here before.
            return
        stream = chunk.streams.get(key) or Stream(*key)
        if item.contract is not None and item.refused is None:
            chunk.opened.append(
                _opened(item.contract, item.batch.payload, header, received, stream.watermark)
            )
        freshness = _freshness(item.contract) or stream.freshness
        stream = self._chain(stream, item, received, chunk)
        chunk.streams[key] = stream.advanced(header, item.header_sha256, received, freshness)
        for loss in header.losses:
            # What a method can never see is a limit of the product, which says so; it is not missing now.
            if loss.reason != LossReason.LOSS_REASON_METHOD:
                kind = "lost_records" if loss.records else "uncounted_losses"
                chunk.shortfalls[*key, received, kind] += loss.records or 1
        for hole in header.holes:
            chunk.shortfalls[*key, received, "hole_records"] += hole.records

    def _chain(self, stream: Stream, item: Delivered, received: int, chunk: Chunk) -> Stream:
        missing = () if item.after_gap else item.missing
        stream = stream.missing(item.header, missing, received)
        broken = stream.undeclared(item.header, received, self._grace)
        if not broken:
            return stream
        key = (item.product, item.header.source)
        chunk.shortfalls[*key, stream.pending_since, "missing_batches"] += count(broken)
        detail = f"{count(broken)} batches are missing and were not declared as lost: {_spelled(broken)}"
        chunk.faults.append(_fault(Wrong.BROKEN_CHAIN, item.header, received, detail))
        return stream.settled()


def _fault(wrong: Wrong, header: Header, received: int, detail: str) -> Fault:
    facts = (("epoch", str(header.epoch)), ("sequence", str(header.sequence)), ("reported_by", "analysis"))
    return Fault(
        wrong,
        header.product,
        header.source,
        received,
        detail,
        facts,
        run=header.replay_run,
        origin=header.origin,
    )


def _opened(contract: Contract, payload: bytes, header: Header, received: int, watermark: int) -> Opened:
    return Opened(
        contract=contract,
        payload=payload,
        records=header.record_count,
        source=header.source,
        host=host_of(header.source),
        run=header.replay_run,
        origin=header.origin,
        received=received,
        watermark=watermark,
    )


def _freshness(contract: Contract | None) -> int:
    if contract is None:
        return 0
    promised = contract.options.freshness
    return promised.seconds * 1_000_000 + promised.nanos // 1_000


def _spelled(ranges: tuple[Range, ...]) -> str:
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in ranges[:_SHOWN_RANGES]]
    return ", ".join(shown) + (" and more" if len(ranges) > _SHOWN_RANGES else "")
