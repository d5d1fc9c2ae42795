"""Tells an engine stories: batches as a subscription yields them, without the wire."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from google.protobuf.json_format import ParseDict

from services.analysis.detection import Detection, Example, Word, Wrong
from services.analysis.engine import Engine
from services.analysis.episodes import TABLES as EPISODES
from services.analysis.outbox import TABLES as OUTBOX
from services.analysis.state import State
from services.analysis.thresholds import Thresholds
from telltale import naming
from telltale.api.analysis.v1.findings_pb2 import FindingsRecord
from telltale.api.mesh.v1.batch_pb2 import (
    Gap,
    GapReason,
    Header,
    Hole,
    Origin,
    Position,
    SealedBatch,
)
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.contract.image import own_image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import message_class
from telltale.errors import BatchRefused
from telltale.identity.distrust import Distrust, DistrustList, Entry
from telltale.naming import SpiffeId
from telltale.seal.chain import Head, Link, Range, follow
from telltale.seal.sealing import sha256

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WEB1 = "spiffe://servers.telltale.internal/agent/web1"
PLATFORM = "spiffe://platform.telltale.internal/service"
OWN = "spiffe://analysis.telltale.internal/service"
DISK = "servers.disk_usage"
# Somebody of the mesh is always heard.
_CHATTER_SECONDS = 30


@lru_cache
def contract_of(product: str) -> Contract:
    domain = naming.owner_of(product)
    return next(contract for contract in contracts_in(own_image(domain)) if contract.name == product)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Teller:
    """Seals what sources tell, as a verified subscription delivers it. Offsets grow over all products."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, str], Head] = {}
        self._offset = 0

    def batch(
        self,
        seconds: float,
        records: Sequence[Mapping[str, Any]] = (),
        product: str = DISK,
        source: str = WEB1,
        *,
        received: float | None = None,
        skip: int = 0,
        holes: Sequence[Range] = (),
        wrong: RefusalReason | None = None,
        run: str = "",
        payload: bytes | None = None,
        after_gap: bool = False,
    ) -> Delivered:
        """The next batch of a source: told at a time of its clock, received at a time of the domain's."""
        contract = contract_of(product)
        encoded: Any = message_class(contract.records)()
        for record in records:
            message = ParseDict(dict(record), message_class(contract.record)())
            if not message.HasField(contract.time_field):
                getattr(message, contract.time_field).FromDatetime(at(seconds))
            encoded.records.append(message)
        data = encoded.SerializeToString() if payload is None else payload
        key = (product, source)
        head = self._heads.get(key, Head(1, 0, b""))
        header = Header(
            product=product,
            source=source,
            epoch=head.epoch,
            sequence=head.sequence + 1 + skip,
            record_count=len(records),
            payload_sha256=sha256(data),
            previous_header_sha256=b"" if skip else head.header_sha256,
            origin=Origin.ORIGIN_AUTHENTICATED,
            holes=[Hole(first_sequence=first, last_sequence=last, records=7) for first, last in holes],
            replay_run=run,
        )
        header.sealed_time.FromDatetime(at(seconds))
        if records:
            header.first_event_time.FromDatetime(at(seconds))
            header.last_event_time.FromDatetime(at(seconds))
        digest = sha256(header.SerializeToString())
        missing = ((head.sequence + 1, head.sequence + skip),) if skip else ()
        link = Link.FORK if wrong == RefusalReason.REFUSAL_REASON_FORK else follow(head, header, digest)
        signed = wrong != RefusalReason.REFUSAL_REASON_SIGNATURE
        if signed and link is Link.NEXT:
            self._heads[key] = Head(header.epoch, header.sequence, digest)
        self._offset += 1
        return Delivered(
            product=product,
            header=header,
            header_sha256=digest,
            batch=SealedBatch(header=header.SerializeToString(), payload=data),
            position=Position(product=product, log="log", offset=self._offset),
            received_time=at(seconds if received is None else received),
            schema=None,
            contract=None if wrong is not None else contract,
            refused=None if wrong is None else BatchRefused(wrong, "it does not hold"),
            signed=signed,
            link=link,
            missing=missing,
            after_gap=after_gap,
        )

    def gap(self, reason: GapReason, product: str = DISK) -> Missing:
        return Missing(Gap(reason=reason, product=product, log="old", after_offset=7))

    def item(self, seconds: float, what: object, product: str, source: str) -> Item | None:
        """A step of an example."""
        if what is None:
            return None
        if isinstance(what, str):
            return self.batch(seconds, (), what, source)
        if not isinstance(what, Wrong):
            return self.batch(seconds, what, product, source)  # type: ignore[arg-type]
        if what is Wrong.BROKEN_CHAIN:
            return self.batch(seconds, (), product, source, skip=1)
        gap = f"GAP_REASON_{what.name}"
        if gap in GapReason.keys():
            return self.gap(GapReason.Value(gap), product)
        return self.batch(
            seconds, (), product, source, wrong=RefusalReason.Value(f"REFUSAL_REASON_{what.name}")
        )


def opened_state(path: Any, detections: Iterable[Detection]) -> State:
    rules = dict.fromkeys(table for detection in detections for table in detection.rule.tables)
    return State(path, (*EPISODES, *OUTBOX, *rules))


def engine_of(state: State, detections: Sequence[Detection], distrust: Distrust | None = None) -> Engine:
    return Engine(state, detections, Thresholds(), OWN, distrust or Distrust())


def word(distrust: Distrust, source: str, seconds: float, *, lifted: bool) -> None:
    """The source's trust domain distrusts it now, or lifts that, as an authority's list says it."""
    spiffe_id = SpiffeId.parse(source)
    known = distrust.of(spiffe_id.trust_domain)
    if lifted:
        entries = tuple(replace(entry, until=at(seconds)) for entry in distrust.entries)
    else:
        entries = (Entry(spiffe_id, at(seconds), None, "stolen", "alice", at(seconds)),)
    sequence = 1 if known is None else known.sequence + 1
    distrust.take(DistrustList(spiffe_id.trust_domain, sequence, at(seconds), entries, "", b""))


def play(example: Example, detection: Detection, path: Any) -> list[FindingsRecord]:
    """Tells an example to an engine with this detection, while somebody else is heard all the time."""
    teller = Teller()
    found: list[FindingsRecord] = []
    with opened_state(path, (detection,)) as state:
        distrust = Distrust()
        engine = engine_of(state, (detection,), distrust)
        heard = 0.0
        for seconds, what in example.told:
            while heard <= seconds:
                chatter = teller.batch(heard, (), "mesh.processes", PLATFORM)
                found += engine.take([chatter], at(heard))
                heard += _CHATTER_SECONDS
            if isinstance(what, Word):
                word(distrust, example.source, seconds, lifted=what.lifted)
                what = None
            item = teller.item(seconds, what, example.product, example.source)
            found += engine.tick(at(seconds)) if item is None else engine.take([item], at(seconds))
    return found
