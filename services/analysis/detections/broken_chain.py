"""Batches vanish between a source and us."""

from datetime import timedelta

from services.analysis.detection import Detection, Example, Wrong
from services.analysis.rules.faults import Faults
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

BROKEN_CHAIN = Detection(
    name="broken_chain",
    version=1,
    verdict=Verdict.VERDICT_SECURITY,
    severity=Severity.SEVERITY_HIGH,
    purpose="Batches are missing that their source never gave up: somebody on the way holds them back.",
    technique="T1565.002",
    quiet=timedelta(minutes=15),
    rule=Faults(frozenset({Wrong.BROKEN_CHAIN}), "Batches of {product} from {entity} vanish on the way"),
    examples=(
        Example(
            "a batch is held back and nobody declares it",
            told=[(0, []), (10, Wrong.BROKEN_CHAIN), (80, [])],
            finds=[("OPEN", "web1", "")],
        ),
        Example("the source may still declare it", told=[(0, []), (10, Wrong.BROKEN_CHAIN), (40, [])]),
        Example("nothing is missing", told=[(0, []), (60, []), (120, [])]),
    ),
)
