"""A filesystem is as good as full."""

from services.analysis.detection import Detection, Example
from services.analysis.detections.disk_space import DISKS, EVIDENCE, WRITABLE
from services.analysis.rules.threshold import Threshold
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict


def _disk(ratio: float) -> dict[str, object]:
    return {"mountpoint": "/var", "filesystem_type": "xfs", "used_ratio": ratio}


DISK_FULL = Detection(
    name="disk_full",
    version=1,
    verdict=Verdict.VERDICT_PERFORMANCE,
    severity=Severity.SEVERITY_CRITICAL,
    purpose="A filesystem has no space left to speak of: what writes there fails now.",
    rule=Threshold(
        products=DISKS,
        fields=("used_ratio", "filesystem_type"),
        value="used_ratio",
        unit="1",
        limit=lambda thresholds: thresholds.disk_full,
        title="{part} on {entity} is full ({value:.1%})",
        where=WRITABLE,
        evidence=EVIDENCE,
    ),
    examples=(
        Example(
            "it is full at once",
            told=[(0, [_disk(0.5)]), (30, [_disk(0.99)])],
            finds=[("OPEN", "web1", "/var")],
        ),
        Example(
            "it was full for a moment",
            told=[(0, [_disk(1.0)]), (30, [_disk(0.96)]), (60, [_disk(0.9)])],
            finds=[("OPEN", "web1", "/var"), ("ENDED", "web1", "/var")],
        ),
        Example("it is not full yet", told=[(0, [_disk(0.8)]), (30, [_disk(0.89)])]),
    ),
)
