"""What the writer counts of itself; published with every process's metrics as `mesh.processes`."""

from opentelemetry import metrics

_METER = metrics.get_meter("telltale.writer")

COMMITS = _METER.create_counter(
    "telltale.writer.commits", unit="{commit}", description="Transactions with rows and cursor."
)
BATCHES = _METER.create_counter(
    "telltale.writer.stored.batches", unit="{batch}", description="Batches stored."
)
RECORDS = _METER.create_counter(
    "telltale.writer.stored.records", unit="{record}", description="Records stored."
)
DUPLICATES = _METER.create_counter(
    "telltale.writer.duplicates", unit="{batch}", description="Batches that were stored already."
)
REFUSED = _METER.create_counter(
    "telltale.writer.refused.batches", unit="{batch}", description="Batches put into quarantine."
)
GAPS = _METER.create_counter("telltale.writer.gaps", unit="{gap}", description="Gaps that were announced.")
PRUNED = _METER.create_counter(
    "telltale.writer.pruned.batches", unit="{batch}", description="Batches removed by retention."
)
DISTRUSTED = _METER.create_counter(
    "telltale.writer.distrusted.batches",
    unit="{batch}",
    description="Stored batches whose rows were marked as distrusted afterwards.",
)
LAG = _METER.create_histogram(
    "telltale.writer.lag", unit="s", description="From a batch's received time until its commit."
)
