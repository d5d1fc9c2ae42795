"""Somebody hands in data that is not theirs, or that was changed on the way."""

from datetime import timedelta

from services.analysis.detection import Detection, Example, Wrong
from services.analysis.rules.faults import REFUSALS, Faults
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

_REFUSED = {
    "reporter": "service",
    "product": "servers.cpu",
    "batch_source": "spiffe://servers.telltale.internal/agent/web2",
    "peer": "spiffe://servers.telltale.internal/agent/web1",
    "reason": "REFUSAL_REASON_FOREIGN_SOURCE",
}

FORGED_BATCH = Detection(
    name="forged_batch",
    version=1,
    verdict=Verdict.VERDICT_SECURITY,
    severity=Severity.SEVERITY_HIGH,
    purpose="A batch in a source's name does not carry its signature, or comes from somebody else.",
    technique="T1565.002",
    quiet=timedelta(minutes=15),
    rule=Faults(
        frozenset({Wrong.SIGNATURE, Wrong.FOREIGN_SOURCE, Wrong.DISTRUSTED}),
        "A batch of {product} in the name of {source} does not hold ({wrong})",
    ),
    examples=(
        Example("a bit was flipped", told=[(0, []), (10, Wrong.SIGNATURE)], finds=[("OPEN", "web1", "")]),
        Example(
            "one agent speaks in the name of another",
            told=[(0, [_REFUSED])],
            finds=[("OPEN", "web1", "")],
            product=REFUSALS,
        ),
        Example("a clock that runs ahead forges nothing", told=[(0, Wrong.FUTURE)]),
        Example("batches that hold", told=[(0, []), (60, []), (120, [])]),
    ),
)
