"""An identity that its own trust domain no longer believes."""

from services.analysis.detection import Detection, Example, Word
from services.analysis.rules.distrust import Distrusted
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

DISTRUSTED_SOURCE = Detection(
    name="distrusted_source",
    version=1,
    verdict=Verdict.VERDICT_SECURITY,
    severity=Severity.SEVERITY_HIGH,
    purpose="An operator has said that an identity is not to be believed; it is silent until that is lifted.",
    technique="T1078",
    rule=Distrusted(),
    examples=(
        Example(
            "a host is distrusted, and set up anew",
            told=[(0, []), (10, Word()), (20, None), (600, Word(lifted=True)), (610, None)],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
        ),
        Example("a host that nobody distrusts", told=[(0, []), (60, []), (120, None)]),
    ),
)
