"""A part of a product's stream can no longer be had."""

from datetime import timedelta

from services.analysis.detection import Detection, Example, Wrong
from services.analysis.rules.faults import Faults
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

STREAM_GAP = Detection(
    name="stream_gap",
    version=1,
    verdict=Verdict.VERDICT_INTEGRITY,
    severity=Severity.SEVERITY_MEDIUM,
    purpose="Batches were gone before they could be read, so what they held was never looked at.",
    quiet=timedelta(minutes=15),
    rule=Faults(
        frozenset({Wrong.RETENTION, Wrong.LOG_REPLACED, Wrong.DAMAGED}),
        "A part of {product} can no longer be had ({wrong})",
    ),
    examples=(
        Example(
            "retention passed over our place",
            told=[(0, []), (10, Wrong.RETENTION), (20, [])],
            finds=[("OPEN", "servers.disk_usage", "")],
        ),
        Example(
            "the log was replaced",
            told=[(0, []), (10, Wrong.LOG_REPLACED)],
            finds=[("OPEN", "servers.disk_usage", "")],
        ),
        Example(
            "a part of the log is damaged",
            told=[(0, []), (10, Wrong.DAMAGED), (20, [])],
            finds=[("OPEN", "servers.disk_usage", "")],
        ),
        Example("the stream goes on", told=[(0, []), (10, [])]),
    ),
)
