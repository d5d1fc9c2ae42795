"""What the gateway counts of itself; published with every process's metrics as `mesh.processes`."""

from opentelemetry import metrics

_METER = metrics.get_meter("telltale.gateway")

BATCHES_IN = _METER.create_counter(
    "telltale.gateway.received.batches", unit="{batch}", description="Batches read from domains."
)
BYTES_IN = _METER.create_counter(
    "telltale.gateway.received.bytes", unit="By", description="Bytes of batches read from domains."
)
BYTES_OUT = _METER.create_counter(
    "telltale.gateway.delivered.bytes", unit="By", description="Bytes of frames handed to subscribers."
)
SUBSCRIPTIONS = _METER.create_up_down_counter(
    "telltale.gateway.subscriptions",
    unit="{subscription}",
    description="Products being read by subscribers now.",
)
CATCH_UPS = _METER.create_counter(
    "telltale.gateway.catch_ups", unit="{read}", description="Times a subscriber was behind the ring."
)
GAPS = _METER.create_counter(
    "telltale.gateway.gaps", unit="{gap}", description="Gaps that domains declared on upstream subscriptions."
)
REPEATS = _METER.create_counter(
    "telltale.gateway.repeats", unit="{batch}", description="Batches that a domain sent twice; dropped."
)
REFUSALS = _METER.create_counter(
    "telltale.gateway.refusals", unit="{refusal}", description="Registrations and subscriptions refused."
)
