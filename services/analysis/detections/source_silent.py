"""A source tells nothing any more."""

from services.analysis.detection import Detection, Example
from services.analysis.rules.silence import SourceSilence
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

SOURCE_SILENT = Detection(
    name="source_silent",
    version=1,
    verdict=Verdict.VERDICT_INTEGRITY,
    severity=Severity.SEVERITY_HIGH,
    purpose="A source tells nothing of any product: it is down, cut off, or somebody has stopped it.",
    technique="T1562.001",
    rule=SourceSilence(),
    examples=(
        Example(
            "it stops and comes back",
            told=[(0, []), (60, []), (241, None), (300, []), (301, None)],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
        ),
        Example("it is a little late", told=[(0, []), (100, None), (170, []), (171, None), (230, None)]),
    ),
)
