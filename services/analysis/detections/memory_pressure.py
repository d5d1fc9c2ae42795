"""A host is running out of memory."""

from services.analysis.detection import Detection, Example
from services.analysis.rules.threshold import Threshold
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict


def _memory(ratio: float) -> dict[str, object]:
    return {"used_ratio": ratio, "total_bytes": 1 << 30, "available_bytes": int((1 - ratio) * (1 << 30))}


MEMORY_PRESSURE = Detection(
    name="memory_pressure",
    version=1,
    verdict=Verdict.VERDICT_PERFORMANCE,
    severity=Severity.SEVERITY_HIGH,
    purpose="Memory stays nearly used up: soon the kernel swaps or kills.",
    rule=Threshold(
        products=("*.memory",),
        fields=("used_ratio",),
        value="used_ratio",
        unit="1",
        limit=lambda thresholds: thresholds.memory,
        title="{entity} has {value:.0%} of its memory in use",
        evidence=("total_bytes", "available_bytes", "swap_total_bytes", "swap_used_bytes"),
    ),
    examples=(
        Example(
            "memory stays used up",
            told=[(30 * i, [_memory(0.97)]) for i in range(5)] + [(150, [_memory(0.6)])],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
            product="servers.memory",
        ),
        Example(
            "a build takes it for a minute",
            told=[(0, [_memory(0.5)]), (30, [_memory(0.99)]), (90, [_memory(0.97)]), (120, [_memory(0.4)])],
            product="servers.memory",
        ),
    ),
)
