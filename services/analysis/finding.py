"""What a rule tells, and the record that is published of it."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.analysis.clock import to_timestamp
from telltale.api.analysis.v1.findings_pb2 import (
    Completeness,
    EntityKind,
    Fact,
    FindingsRecord,
    State,
)
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.errors import InvalidInput
from telltale.naming import SpiffeId

if TYPE_CHECKING:
    from services.analysis.detection import Detection

# Bounds of one record; the contract promises them.
MAX_FACTS = 16
MAX_FACT = 1_000
MAX_TITLE = 300
_AGENT = "/agent/"


@dataclass(frozen=True)
class Subject:
    """What a condition is about. With the detection and its start it names a finding."""

    entity_kind: EntityKind
    entity: str
    part: str = ""
    host: str = ""
    product: str = ""
    source: str = ""
    run: str = ""

    @classmethod
    def of_source(cls, source: str, *, product: str = "", part: str = "", run: str = "") -> "Subject":
        """A source as such: the host of a host agent, otherwise the identity itself."""
        host = host_of(source)
        kind = EntityKind.ENTITY_KIND_HOST if host else EntityKind.ENTITY_KIND_PRINCIPAL
        return cls(kind, host or source, part=part, host=host, product=product, source=source, run=run)

    @classmethod
    def of_product(cls, product: str, part: str = "") -> "Subject":
        """A data product as such."""
        return cls(EntityKind.ENTITY_KIND_PRODUCT, product, part=part, product=product)


@dataclass(frozen=True)
class Signal:
    """A rule's word that a condition holds for a subject, or no longer does. Times are in microseconds."""

    subject: Subject
    holds: bool
    # When the condition began; the same through all signals of one condition.
    since: int
    # Event time that the signal rests on.
    at: int
    title: str
    evidence: tuple[tuple[str, str], ...] = ()
    value: float | None = None
    threshold: float | None = None
    unit: str = ""
    # How often the condition was seen since the signal before.
    occurrences: int = 1
    origin: Origin = Origin.ORIGIN_UNSPECIFIED


def host_of(source: str) -> str:
    """The host that a source's name ends with when it is a host agent; empty otherwise."""
    try:
        path = SpiffeId.parse(source).path
    except InvalidInput:
        return ""
    return path.removeprefix(_AGENT) if path.startswith(_AGENT) else ""


def finding_id(detection: "Detection", subject: Subject, since: int) -> str:
    """The same for the same condition, whoever finds it and however often."""
    named = [
        detection.name,
        detection.version,
        int(subject.entity_kind),
        subject.entity,
        subject.part,
        subject.product,
        subject.source,
        since,
        subject.run,
    ]
    return hashlib.sha256(json.dumps(named, ensure_ascii=False).encode()).hexdigest()[:32]


def finding_record(
    detection: "Detection",
    signal: Signal,
    *,
    revision: int,
    since: int,
    occurrences: int,
    completeness: Completeness,
) -> FindingsRecord:
    """The record of one revision of a finding."""
    subject = signal.subject
    return FindingsRecord(
        time=to_timestamp(signal.at),
        id=finding_id(detection, subject, since),
        revision=revision,
        state=State.STATE_OPEN if signal.holds else State.STATE_ENDED,
        detection=detection.name,
        detection_version=detection.version,
        verdict=detection.verdict,
        severity=detection.severity,
        title=signal.title[:MAX_TITLE],
        technique=detection.technique,
        entity_kind=subject.entity_kind,
        entity=subject.entity,
        part=subject.part,
        host=subject.host,
        product=subject.product,
        source=subject.source,
        origin=signal.origin,
        window_start=to_timestamp(since),
        window_end=to_timestamp(max(since, signal.at)),
        value=signal.value,
        threshold=signal.threshold,
        unit=signal.unit,
        occurrences=occurrences,
        evidence=[Fact(name=name, value=value[:MAX_FACT]) for name, value in signal.evidence[:MAX_FACTS]],
        completeness=completeness,
        replay_run=subject.run,
    )
