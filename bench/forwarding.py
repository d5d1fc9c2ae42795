"""Forwarding: sealed batches through the durable service and the gateway to two verified subscribers."""

from bench.mesh import running, source, subscriber
from bench.report import Figure, Section
from bench.window import measured

OWN = ("platform", "gateway", "servers")
RECORDS = 10_000
_SUBSCRIBERS = ("subscriber-1", "subscriber-2")
# Batches that are sealed before the clock starts; later ones are sealed on the way, at 60 us each.
_AHEAD = 2_000

METHOD = (
    "One source pushes batches that were sealed ahead, as fast as they are acked (fsynced), to the"
    " servers service; two processes subscribe through the gateway and verify every batch. mTLS, tokens"
    " and signatures are on. Records a second of the slower subscriber; CPU from /proc."
)


async def measure(seconds: float, records: int = RECORDS) -> Section:
    members = [
        source("source", "--records", str(records), "--ahead", str(_AHEAD)),
        *(subscriber(name) for name in _SUBSCRIBERS),
    ]
    async with running(OWN, members) as mesh, mesh.running(*_SUBSCRIBERS), mesh.running("source"):
        window = await measured(mesh, seconds, "source", *_SUBSCRIBERS)
    rate = window.rate(*_SUBSCRIBERS)
    counted = window.counted["source"]
    figures = [
        Figure("records forwarded", rate, "records/s", "1,000,000"),
        Figure("records of a batch", records, "records"),
        Figure("bytes of a record", counted.bytes / counted.records, "bytes"),
        Figure("payload forwarded", rate * counted.bytes / counted.records / 2**20, "MiB/s"),
        *window.costs(rate * window.seconds),
    ]
    return Section("forwarding", METHOD, figures)
