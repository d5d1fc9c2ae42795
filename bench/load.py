"""A source under load: pushes batches as fast as they are acked, or at a rate. Part of a measured mesh."""

import argparse
import asyncio
import collections
import time
from collections.abc import AsyncIterator

import grpc.aio
from pydantic import Field

from bench.counters import Counters
from bench.sealed import PRODUCT, Sealed, Stock, schema
from telltale import naming, process, wire
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse
from telltale.api.mesh.v1.product_pb2 import Store
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.buffers import keep_freed_buffers
from telltale.identity.workload import Workload
from telltale.rpc.client import stream_metadata
from telltale.settings import IdentitySettings, read_or_exit

# Requests that wait for their acks, as many as a domain service takes of one stream at a time.
_WINDOW = 8
# As many as the kit's own source puts into one message.
_MESSAGE_BATCHES = 256
PUSH = "/telltale.api.mesh.v1.Ingest/Push"
COUNTERS = "counters"


class LoadSettings(IdentitySettings):
    """Who pushes, and where."""

    service: str = Field(description="host:port of the domain service.")


def pushing_on(
    channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]
) -> "grpc.aio.StreamStreamCall[bytes, PushResponse]":
    """A Push whose requests are bytes already."""
    method = channel.stream_stream(PUSH, None, PushResponse.FromString)
    call: grpc.aio.StreamStreamCall[bytes, PushResponse] = method(metadata=metadata)  # type: ignore[call-arg]
    return call


async def run(settings: LoadSettings, how: argparse.Namespace, stopping: asyncio.Event) -> None:
    """Pushes until `stopping` is set. Counts what is acked; at a rate also how long each ack took."""
    trust_domain = naming.trust_domain(naming.owner_of(PRODUCT), settings.mesh)
    with Counters(settings.state / COUNTERS) as counters:
        async with Workload.open(settings) as me:
            store = Store.STORE_COLUMNS if how.store == "columns" else Store.STORE_UNSPECIFIED
            stock = Stock(me.credentials, how.records, store=store)
            if not how.interval:
                await asyncio.to_thread(stock.seal_ahead, how.ahead)
            metadata, _ = await stream_metadata(me, trust_domain)
            async with me.channel(settings.service, naming.server_name("service", trust_domain)) as channel:
                request = RegisterSchemaRequest(file_descriptor_set=schema(store).data)
                await SchemasStub(channel).Register(request, metadata=metadata)
                call = pushing_on(channel, metadata)
                await call.initial_metadata()
                sender = _Sender(call, counters, me.credentials.certificates)
                batches = _paced(stock, how.interval, counters) if how.interval else _at_once(stock)
                pushing = asyncio.create_task(sender.push(batches, how.message_bytes))
                hearing = asyncio.create_task(sender.hear())
                ended = asyncio.create_task(stopping.wait())
                done, left = await asyncio.wait(
                    {pushing, hearing, ended}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                call.cancel()
                for task in done:
                    task.result()


class _Sender:
    """One Push stream: what is on its way, and the acks for it."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[bytes, PushResponse]",
        counters: Counters,
        certificates: tuple[bytes, ...],
    ) -> None:
        self._call = call
        self._counters = counters
        self._certificates = wire.fields(PushRequest.CERTIFICATES_FIELD_NUMBER, certificates)
        self._room = asyncio.Semaphore(_WINDOW)
        # A service answers its requests one by one, in order.
        self._sent: collections.deque[tuple[int, float, list[Sealed]]] = collections.deque()

    async def push(self, batches: AsyncIterator[tuple[Sealed, float]], message_bytes: int) -> None:
        parts = [self._certificates]
        waiting: list[Sealed] = []
        size = 0
        async for batch, due in batches:
            parts.extend(batch.request)
            waiting.append(batch)
            size += batch.payload.bytes
            full = size + batch.payload.bytes > message_bytes or len(waiting) == _MESSAGE_BATCHES
            if not full and not due:
                continue
            await self._room.acquire()
            self._sent.append((size, due, waiting))
            await self._call.write(b"".join(parts))
            parts, waiting, size = [], [], 0

    async def hear(self) -> None:
        async for response in self._call:
            size, due, batches = self._sent.popleft()
            self._room.release()
            records = sum(batch.payload.records for batch in batches)
            self._counters.count(records, size, len(batches))
            for _ in response.refusals:
                self._counters.refuse()
            if due:
                self._counters.took(time.time() - due)
            if len(response.acks) + len(response.refusals) != len(batches):
                raise RuntimeError(f"{len(batches)} batches, {len(response.acks)} acks")
        raise RuntimeError(f"the stream ended: {await self._call.details()}")


async def _at_once(stock: Stock) -> AsyncIterator[tuple[Sealed, float]]:
    while True:
        yield stock.next(), 0.0


async def _paced(stock: Stock, interval: float, counters: Counters) -> AsyncIterator[tuple[Sealed, float]]:
    """A batch each interval, of records observed since the one before. Its schedule never waits for anybody:
    who falls behind it is late, and that counts."""
    start = time.time()
    # The batch number n (from 1) holds what was observed from `epoch + (n - 1) * interval` on.
    counters.begin(int(start * 1e9))
    number = 0
    while True:
        number += 1
        due = start + number * interval
        await asyncio.sleep(max(0.0, due - time.time()))
        yield stock.next(int((due - interval) * 1e9)), due


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, required=True, help="records of a batch")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds between batches; 0: at once")
    parser.add_argument("--ahead", type=int, default=0, help="batches to seal before the start")
    parser.add_argument("--message-bytes", type=int, default=1 << 20, help="bytes of batches in a message")
    parser.add_argument(
        "--store",
        choices=("rows", "columns"),
        default="rows",
        help="how the history is to keep the records: rows, columns",
    )
    how = parser.parse_args()
    settings = read_or_exit(LoadSettings, "A source under load.")
    keep_freed_buffers()
    process.run(lambda stopping: run(settings, how, stopping))


if __name__ == "__main__":
    main()
