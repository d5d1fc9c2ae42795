"""A way to a server on which everything is quick but the end of what a client sends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Stalling:
    """Where a client connects; each connection passes so many bytes on and keeps the rest."""

    address: str = ""
    # Bytes that the server has taken, by connection.
    taken: list[int] = field(default_factory=list)
    # One entry for each connection that has passed all it ever will.
    stalled: asyncio.Queue[int] = field(default_factory=asyncio.Queue)


@asynccontextmanager
async def stalling(server: str, after: int) -> AsyncIterator[Stalling]:
    """Relays to the server while the body runs; of what a connection sends only the first `after` bytes."""
    relay, (host, _, port) = Stalling(), server.rpartition(":")

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(relay.taken)
        relay.taken.append(0)
        while left := after - relay.taken[number]:
            if not (some := await reader.read(min(65_536, left))):
                return
            writer.write(some)
            await writer.drain()
            relay.taken[number] += len(some)
        relay.stalled.put_nowait(number)
        while await reader.read(65_536):
            pass

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65_536):
            writer.write(some)
            await writer.drain()

    async def relaying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(send(reader, back)), asyncio.create_task(answer(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (back, writer):
                end.close()

    async with await asyncio.start_server(relaying, "127.0.0.1", 0) as listening:
        relay.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield relay
