"""The link does to connections what a network does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.chaos.link import Link

# Nothing is to come in this time; a slow machine only makes the test weaker.
_NOTHING_SECONDS = 0.3


class Client:
    """Connections to a link, closed in the end."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.link.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def linked() -> AsyncIterator[Client]:
    """A client behind a link to a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1024):
                writer.write(chunk)
        await close(writer)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        async with Link(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as link:
            client = Client(link)
            try:
                yield client
            finally:
                await client.close()
    finally:
        server.close()
        await server.wait_closed()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, word: bytes) -> bytes:
    writer.write(word)
    return await reader.readexactly(len(word))


async def test_what_is_sent_arrives_and_comes_back_also_slowly() -> None:
    async with linked() as client:
        reader, writer = await client.dial()
        assert await echoed(reader, writer, b"fast") == b"fast"
        client.link.delay, client.link.bytes_per_second = 0.01, 1_000
        assert await echoed(reader, writer, b"slow") == b"slow"


async def test_a_cut_resets_old_connections_and_new_ones_until_it_is_healed() -> None:
    async with linked() as client:
        reader, writer = await client.dial()
        assert await echoed(reader, writer, b"before") == b"before"
        client.link.cut()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await echoed(reader, writer, b"after")
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await echoed(*await client.dial(), b"during")
        client.link.heal()
        assert await echoed(*await client.dial(), b"healed") == b"healed"


async def test_a_half_open_connection_says_nothing_for_ever_and_new_ones_only_until_it_is_healed() -> None:
    async with linked() as client:
        old = await client.dial()
        assert await echoed(*old, b"before") == b"before"
        client.link.fall_silent()
        during = await client.dial()
        client.link.heal()
        for silent in (old, during):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(echoed(*silent, b"lost"), _NOTHING_SECONDS)
        assert await echoed(*await client.dial(), b"new") == b"new"
