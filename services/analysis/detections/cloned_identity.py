"""Two holders of one identity."""

from datetime import timedelta

from services.analysis.detection import Detection, Example, Wrong
from services.analysis.rules.faults import REFUSALS, Faults
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

_REFUSED = {
    "reporter": "service",
    "product": "servers.cpu",
    "batch_source": "spiffe://servers.telltale.internal/agent/web1",
    "reason": "REFUSAL_REASON_FORK",
}

CLONED_IDENTITY = Detection(
    name="cloned_identity",
    version=1,
    verdict=Verdict.VERDICT_SECURITY,
    severity=Severity.SEVERITY_CRITICAL,
    purpose="A chain forked: somebody else seals batches with the source's key.",
    technique="T1649",
    quiet=timedelta(minutes=15),
    rule=Faults(
        frozenset({Wrong.FORK}), "Two holders of one identity: {source} tells two stories of {product}"
    ),
    examples=(
        Example("a fork on the stream", told=[(0, []), (10, Wrong.FORK)], finds=[("OPEN", "web1", "")]),
        Example(
            "the domain service refused forks, which fold",
            told=[(0, [_REFUSED, _REFUSED]), (30, [_REFUSED]), (1_000, None)],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
            product=REFUSALS,
        ),
        Example(
            "another refusal is no fork",
            told=[(0, [{**_REFUSED, "reason": "REFUSAL_REASON_TOO_LARGE"}])],
            product=REFUSALS,
        ),
    ),
)
