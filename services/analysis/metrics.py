"""What the analysis measures of itself."""

from opentelemetry import metrics

_METER = metrics.get_meter("telltale.analysis")

BATCHES = _METER.create_counter("telltale.analysis.batches", unit="{batch}", description="Batches looked at.")
RECORDS = _METER.create_counter(
    "telltale.analysis.records", unit="{record}", description="Records that detections read."
)
LATE = _METER.create_counter(
    "telltale.analysis.late_records", unit="{record}", description="Records that came too late to count."
)
FINDINGS = _METER.create_counter(
    "telltale.analysis.findings",
    unit="{finding}",
    description="Revisions of findings, by detection and state.",
)
LAG = _METER.create_histogram(
    "telltale.analysis.lag", unit="s", description="Time from the receipt of a batch to its verdict."
)
