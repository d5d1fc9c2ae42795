"""A link between sources and their service that can be cut, slow, or half open: a TCP proxy."""

import asyncio
import contextlib
from typing import Self

_CHUNK = 64 << 10


class Link:
    """Passes TCP connections on to `target`, host:port. Use as `async with`.

    delay: seconds that every chunk takes. bytes_per_second: 0 for no bound.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.delay = 0.0
        self.bytes_per_second = 0
        self.is_cut = False
        self.is_silent = False
        self._passing: set[_Passing] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for passing in self._passing:
            passing.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Resets every connection, and every new one until `heal`."""
        self.is_cut = True
        for passing in self._passing:
            passing.abort()

    def fall_silent(self) -> None:
        """Nothing passes any more and no end is told: as if the other machine had lost its power.

        Connections of this moment stay so for ever; new ones only until `heal`.
        """
        self.is_silent = True
        for passing in self._passing:
            passing.silent.set()

    def heal(self) -> None:
        """Passes everything on again, at once."""
        self.delay, self.bytes_per_second = 0.0, 0
        self.is_cut = self.is_silent = False

    @property
    def connections(self) -> int:
        return len(self._passing)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        passing = _Passing(self, writer)
        self._passing.add(passing)
        try:
            if self.is_cut:
                return
            if self.is_silent:
                passing.silent.set()
                await passing.aborted.wait()
                return
            host, _, port = self._target.rpartition(":")
            with contextlib.suppress(OSError):
                await passing.join(reader, *await asyncio.open_connection(host, int(port)))
        finally:
            await passing.ended()
            self._passing.discard(passing)


class _Passing:
    """One connection of a client, and its other half."""

    def __init__(self, link: Link, client: asyncio.StreamWriter) -> None:
        self._link = link
        self._writers = [client]
        self.silent = asyncio.Event()
        self.aborted = asyncio.Event()

    def abort(self) -> None:
        self.aborted.set()
        for writer in self._writers:
            writer.transport.abort()

    async def ended(self) -> None:
        """Ends both halves and waits until they are gone."""
        self.abort()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def join(
        self, reader: asyncio.StreamReader, other: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Passes both ways until one side ends."""
        self._writers.append(writer)
        ways = [
            asyncio.ensure_future(self._pass(reader, writer)),
            asyncio.ensure_future(self._pass(other, self._writers[0])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                pause = self._link.delay
                if self._link.bytes_per_second:
                    pause += len(chunk) / self._link.bytes_per_second
                await asyncio.sleep(pause)
                if self.silent.is_set():
                    # What was on its way is gone, and nobody hears of it.
                    await self.aborted.wait()
                    return
                writer.write(chunk)
                await writer.drain()
