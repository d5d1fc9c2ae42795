"""rotel in the place of our service and gateway: OTLP points in, the same points out.

rotel is an OpenTelemetry collector in Rust. `make bench` puts its program into build/rotel.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from bench.counters import Counters
from bench.mesh import ROOT
from bench.report import Figure, Section
from bench.usage import cpu_of
from telltale.cli.processes import free_ports, is_free
from telltale.wire import field, fields, varint

PROGRAM = ROOT / "build" / "rotel" / "rotel" / "rotel-agent"
_EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
# A request as large as a batch of forwarding, of metrics of 1,000 points each.
_METRICS, _POINTS = 10, 1_000
# Requests under way at once, as many as a source of ours has.
_WINDOW = 8
_LARGEST = 64 << 20
_PATIENCE = 20.0

METHOD = (
    "A process exports OTLP metrics of about 85 bytes a point, ready encoded, 10,000 points a request,"
    " 8 requests at once, to rotel, which forwards them by OTLP/gRPC without compression to a process"
    " that counts bytes. Plaintext, no identity, no signature, no disk."
)


async def measure(seconds: float) -> Section:
    if not PROGRAM.exists():
        return Section(
            "rotel",
            METHOD,
            (),
            (f"rotel: there is no {PROGRAM.relative_to(ROOT)}; `make bench` puts it there",),
        )
    sink_port, rotel_port, http_port = free_ports(3, but=0)
    with tempfile.TemporaryDirectory() as directory:
        counted = Path(directory) / "counters"
        async with AsyncExitStack() as lives:
            counters = lives.enter_context(Counters(counted))
            own = (sys.executable, "-m", "bench.rotel")
            pids = {
                "sink": await lives.enter_async_context(_running(*own, "sink", str(sink_port), str(counted)))
            }
            await _listens(sink_port)
            pids["rotel"] = await lives.enter_async_context(
                _running(
                    str(PROGRAM),
                    "start",
                    *("--otlp-grpc-endpoint", f"127.0.0.1:{rotel_port}"),
                    *("--otlp-http-endpoint", f"127.0.0.1:{http_port}"),
                    *("--otlp-grpc-max-recv-msg-size-mib", "64"),
                    *("--exporter", "otlp", "--otlp-exporter-endpoint", f"http://127.0.0.1:{sink_port}"),
                    *("--otlp-exporter-protocol", "grpc", "--otlp-exporter-compression", "none"),
                    cwd=directory,
                )
            )
            await _listens(rotel_port)
            pids["load"] = await lives.enter_async_context(_running(*own, "load", str(rotel_port), "-"))
            await _counts(counters)
            await asyncio.sleep(min(3.0, seconds))
            before, cpu_before, start = counters.read(), cpu_of(pids), time.monotonic()
            await asyncio.sleep(seconds)
            took = time.monotonic() - start
            passed, cpu = counters.read().since(before), cpu_of(pids)
    points = passed.bytes / len(_point(0))
    figures = [
        Figure("points forwarded", points / took, "points/s"),
        Figure("bytes of a point", len(_point(0)), "bytes"),
        *(
            Figure(f"CPU of {name}", (cpu[name] - cpu_before[name]) / points * 1e6, "s per million points")
            for name in sorted(pids)
        ),
    ]
    return Section("rotel", METHOD, figures)


@asynccontextmanager
async def _running(*command: str, cwd: str | None = None) -> AsyncIterator[int]:
    """Runs a program while the body runs; yields its process id."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd or ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        while is_free(port):  # noqa: ASYNC110 -- another program says nothing when it is ready
            await asyncio.sleep(0.05)


async def _counts(counters: Counters) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not counters.read().bytes:  # noqa: ASYNC110 -- counters tell no event
            await asyncio.sleep(0.05)


async def _sink(port: int, counted: Path) -> None:
    with Counters(counted) as counters:

        async def export(request: bytes, _: object) -> bytes:
            counters.count(0, len(request))
            return b""

        server = grpc.aio.server(options=[("grpc.max_receive_message_length", _LARGEST)])
        handler = grpc.unary_unary_rpc_method_handler(export)
        service, _, method = _EXPORT.strip("/").partition("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


async def _load(port: int) -> None:
    request = _request()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        export = channel.unary_unary(_EXPORT, None, None)

        async def export_for_ever() -> None:
            while True:
                try:
                    await export(request)
                except grpc.aio.AioRpcError as refused:
                    if refused.code() not in (
                        grpc.StatusCode.UNAVAILABLE,
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                    ):
                        raise
                    # It asks to wait, as a collector that is full does.
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(export_for_ever() for _ in range(_WINDOW)))


def _request() -> bytes:
    """An ExportMetricsServiceRequest by hand: gauges of numbers, each point with two attributes."""
    metrics = []
    for metric in range(_METRICS):
        points = [_point(metric * _POINTS + number) for number in range(_POINTS)]
        # Metric{name = 1, unit = 3, gauge = 5}, Gauge{data_points = 1}
        name = field(1, f"system.disk.io.{metric}".encode())
        metrics.append(name + field(3, b"By") + field(5, fields(1, points)))
    # Request{resource_metrics = 1}, ResourceMetrics{resource = 1, scope_metrics = 2},
    # ScopeMetrics{scope = 1, metrics = 2}
    resource = field(1, _attribute(1, "host.name", "web-1"))
    scope = field(1, field(1, b"bench"))
    return field(1, field(1, resource) + field(2, scope + fields(2, metrics)))


def _point(number: int) -> bytes:
    """NumberDataPoint{start_time_unix_nano = 2, time_unix_nano = 3, as_double = 4, attributes = 7}."""
    now = time.time_ns().to_bytes(8, "little")
    value = number.to_bytes(8, "little")
    numbers = b"".join(varint(place << 3 | 1) + fixed for place, fixed in ((2, now), (3, now), (4, value)))
    return (
        numbers
        + _attribute(7, "system.device", f"nvme{number % 90 + 10}n1")
        + _attribute(7, "disk.io.direction", "write")
    )


def _attribute(place: int, key: str, value: str) -> bytes:
    return field(place, field(1, key.encode()) + field(2, field(1, value.encode())))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("sink", "load"))
    parser.add_argument("port", type=int)
    parser.add_argument("counters", type=Path)
    part = parser.parse_args()
    uvloop.run(_sink(part.port, part.counters) if part.part == "sink" else _load(part.port))


if __name__ == "__main__":
    main()
