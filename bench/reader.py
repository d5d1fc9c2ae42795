"""A subscriber under load: a verified subscription through the gateway. Part of a measured mesh."""

import argparse
import asyncio
import time

from pydantic import Field

from bench.counters import Counters
from bench.load import COUNTERS
from bench.sealed import PRODUCT
from telltale import process
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.buffers import keep_freed_buffers
from telltale.consume.delivered import Delivered
from telltale.consume.subscription import Subscription
from telltale.identity.workload import Workload
from telltale.settings import IdentitySettings, read_or_exit


class ReaderSettings(IdentitySettings):
    """Who reads, and where."""

    gateway: str = Field(description="host:port of the gateway.")


async def run(settings: ReaderSettings, source: str, stopping: asyncio.Event) -> None:
    """Reads until `stopping` is set. Latencies are those of `source`, or of all when it is empty."""
    with Counters(settings.state / COUNTERS) as counters:
        async with (
            Workload.open(settings) as me,
            Subscription(me, settings.gateway, [PRODUCT], start=Start.START_LATEST) as stream,
        ):
            reading = asyncio.create_task(_read(stream, counters, source))
            ended = asyncio.create_task(stopping.wait())
            done, left = await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for task in done:
                task.result()


async def _read(stream: Subscription, counters: Counters, source: str) -> None:
    async for items in stream:
        now = time.time_ns()
        for item in items:
            if not isinstance(item, Delivered) or item.refused is not None:
                # A gap or what does not hold: neither may happen in a run that counts.
                counters.refuse()
                continue
            header = item.header
            counters.count(header.record_count, item.batch.ByteSize())
            if header.HasField("first_event_time") and header.source.endswith(source):
                counters.took((now - header.first_event_time.ToNanoseconds()) / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", default="", help="end of the SPIFFE ID whose latencies count")
    how = parser.parse_args()
    settings = read_or_exit(ReaderSettings, "A subscriber under load.")
    keep_freed_buffers()
    process.run(lambda stopping: run(settings, how.source, stopping))


if __name__ == "__main__":
    main()
