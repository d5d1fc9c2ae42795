"""A source has stopped telling one of its products."""

from services.analysis.detection import Detection, Example
from services.analysis.rules.silence import ProductSilence
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

PRODUCT_SILENT = Detection(
    name="product_silent",
    version=1,
    verdict=Verdict.VERDICT_INTEGRITY,
    severity=Severity.SEVERITY_MEDIUM,
    purpose="A source goes on to tell, but not of this product: its collector fails or was switched off.",
    technique="T1562.006",
    rule=ProductSilence(),
    examples=(
        Example(
            "one collector fails and recovers",
            told=[
                (0, []),
                (10, "servers.memory"),
                (200, "servers.memory"),
                (201, None),
                (220, []),
                (221, None),
            ],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
        ),
        Example(
            "all fall silent: that is another finding", told=[(0, []), (10, "servers.memory"), (240, None)]
        ),
        Example(
            "both go on", told=[(0, []), (1, "servers.memory"), (60, []), (61, "servers.memory"), (62, None)]
        ),
    ),
)
