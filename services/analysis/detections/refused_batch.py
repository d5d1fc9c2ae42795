"""A source hands in what cannot be taken."""

from datetime import timedelta

from services.analysis.detection import Detection, Example, Wrong
from services.analysis.rules.faults import Faults
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

REFUSED_BATCH = Detection(
    name="refused_batch",
    version=1,
    verdict=Verdict.VERDICT_INTEGRITY,
    severity=Severity.SEVERITY_MEDIUM,
    purpose="Batches are refused for what they are: their records are missing until the source is mended.",
    quiet=timedelta(minutes=15),
    rule=Faults(
        frozenset(
            {
                Wrong.MALFORMED,
                Wrong.PERMISSION,
                Wrong.STALE_EPOCH,
                Wrong.FUTURE,
                Wrong.UNKNOWN_SCHEMA,
                Wrong.TOO_LARGE,
            }
        ),
        "Batches of {product} from {entity} are refused ({wrong})",
    ),
    examples=(
        Example(
            "a clock runs ahead for a while, and is told once",
            told=[(0, []), (10, Wrong.FUTURE), (70, Wrong.FUTURE), (75, []), (1_200, None)],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
        ),
        Example("the domain had no space for a moment", told=[(0, Wrong.UNAVAILABLE)]),
        Example("batches that hold", told=[(0, []), (60, [])]),
    ),
)
