"""Fairness: what a source that sends a little waits while another one floods the same product."""

from bench.forwarding import OWN, RECORDS
from bench.mesh import Member, running, source, subscriber
from bench.report import Figure, Section
from bench.window import measured

_QUIET, _FLOOD, _SUBSCRIBER = "quiet", "flood", "subscriber"
# A host's telling: a few records, several times a second so that a percentile means something.
_QUIET_RECORDS, _QUIET_INTERVAL = 10, 0.05

METHOD = (
    "A quiet source pushes 10 records each 50 ms; the time from its first record until the ack"
    " (fsynced) and until a verified subscriber has it, first alone, then beside a source that pushes"
    " as much as it can into the same product of the same service. Latencies count from the schedule:"
    " waiting to send counts too, and the 50 ms of the batch itself count for the subscriber."
)


async def measure(seconds: float, flood: int = RECORDS) -> Section:
    members: list[Member] = [
        source(_QUIET, "--records", str(_QUIET_RECORDS), "--interval", str(_QUIET_INTERVAL)),
        source(_FLOOD, "--records", str(flood), "--ahead", "1000"),
        subscriber(_SUBSCRIBER, "--source", f"/{_QUIET}"),
    ]
    figures = []
    async with running(OWN, members) as mesh, mesh.running(_SUBSCRIBER), mesh.running(_QUIET):
        for case in ("alone", "beside a flood"):
            if case == "alone":
                window = await measured(mesh, seconds, _QUIET, _SUBSCRIBER)
            else:
                async with mesh.running(_FLOOD):
                    window = await measured(mesh, seconds, _QUIET, _SUBSCRIBER, _FLOOD)
                figures.append(Figure("the flood", window.rate(_FLOOD), "records/s"))
            acked, read = window.counted[_QUIET], window.counted[_SUBSCRIBER]
            for share, name in ((0.5, "p50"), (0.99, "p99")):
                figures.append(Figure(f"{case}: observed to acked, {name}", acked.percentile(share), "s"))
                figures.append(Figure(f"{case}: observed to subscriber, {name}", read.percentile(share), "s"))
    return Section("fairness", METHOD, figures)
