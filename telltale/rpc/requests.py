"""The requests of a call: read within a time, and decoded behind the authentication."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from google.protobuf.message import DecodeError

from telltale.errors import DeadlineExceeded, InvalidInput, LimitExceeded
from telltale.rpc.auth import Context
from telltale.rpc.bounds import turn

Decode = Callable[[bytes], Any] | None


@asynccontextmanager
async def single(context: Context, decode: Decode, seconds: float) -> AsyncIterator[Any]:
    """The one request of a call. Raises DeadlineExceeded when it has not come in that time."""
    data = await first_message(context, seconds)
    yield data if decode is None else _message(data, decode)


@asynccontextmanager
async def streamed(raw: AsyncIterator[bytes], decode: Decode) -> AsyncIterator[AsyncIterator[Any]]:
    """The requests of a stream, one by one, whenever they come: a stream may stay quiet."""
    async with aclosing(_Requests(raw, decode)) as requests:
        yield requests


async def first_message(context: Context, seconds: float) -> bytes:
    """What a call begins with, as bytes. Raises DeadlineExceeded when it has not come in that time, and
    LimitExceeded when so many others of its caller had not that this one was not read at all.

    A call that is opened and never made costs its caller nothing and the server a place among its calls, and
    what has come of its request.
    """
    reading = False
    try:
        async with asyncio.timeout(seconds), turn():
            reading = True
            data = await context.read()
    except TimeoutError:
        if not reading:
            raise LimitExceeded(
                "requests_being_read",
                f"this call has waited for {seconds:g} s behind other calls of yours whose requests do not "
                "end; send those, or end them, and try again",
            ) from None
        raise DeadlineExceeded(
            f"the call was opened {seconds:g} s ago and its request has not come; send it with the call"
        ) from None
    if not isinstance(data, bytes):
        raise InvalidInput("the call ended without a request; send one message")
    return data


class _Requests:
    """The requests of a stream, decoded one by one."""

    def __init__(self, raw: AsyncIterator[bytes], decode: Decode) -> None:
        self._raw = raw
        self._reading: AsyncIterator[bytes] | None = None
        self._decode = decode

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Any:
        if self._reading is None:
            self._reading = aiter(self._raw)
        data = await anext(self._reading)
        return data if self._decode is None else _message(data, self._decode)

    async def aclose(self) -> None:
        """Ends the reading: gRPC's generator would otherwise wait for a collector of garbage that may
        come when the loop has gone."""
        if self._reading is not None:
            await self._reading.aclose()  # type: ignore[attr-defined]  # gRPC's is a generator


def _message(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(data)
    except (DecodeError, ValueError) as broken:
        raise InvalidInput(
            "the request is not the message that this method takes; see its description"
        ) from broken
