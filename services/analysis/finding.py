"""The record that is published of what a detection found."""

import hashlib
import json

from services.analysis.clock import to_timestamp
from services.analysis.detection import Detection
from services.analysis.signals import Signal, Subject
from telltale.api.analysis.v1.findings_pb2 import (
    Completeness,
    Fact,
    FindingsRecord,
    State,
)

# Bounds of one record; the contract promises them.
MAX_FACTS = 16
MAX_FACT = 1_000
MAX_TITLE = 300


def finding_id(detection: Detection, subject: Subject, since: int) -> str:
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
    detection: Detection,
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
