"""The calling end: channel options, the metadata that every call carries, pauses between attempts, errors."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

import grpc.aio

from telltale.errors import Unavailable
from telltale.identity.dialling import CHANNEL_OPTIONS, LARGEST_MESSAGE, backoff
from telltale.identity.workload import Workload
from telltale.rpc.status import status_error

_T = TypeVar("_T")

__all__ = [
    "CHANNEL_OPTIONS",
    "LARGEST_MESSAGE",
    "answered",
    "backoff",
    "call_metadata",
    "calling",
    "status_error",
    "stream_metadata",
    "uncancelled",
]

# Share of a token's remaining life after which the stream that it opened is opened anew.
_STREAM_SHARE = 0.5
# Whatever the authority hands out: a stream that is renewed at once must not become a busy loop.
_SHORTEST_STREAM = 0.2


async def call_metadata(me: Workload, audience: str, *others: str) -> tuple[tuple[str, str], ...]:
    """Metadata of one call to the services of `audience`. A call that will be forwarded names the trust
    domains behind the first one too. Fetch it anew for every call: it ends after 15 minutes."""
    return (("authorization", f"Bearer {await me.token(audience, *others)}"),)


async def stream_metadata(
    me: Workload, audience: str, *others: str
) -> tuple[tuple[tuple[str, str], ...], float]:
    """As `call_metadata`, for a stream; and after how many seconds to open the next one. The server would
    end this one with its token, so half of what is left of it is room for doing so."""
    issued = await me.issued_token(audience, *others)
    left = (issued.expires - datetime.now(UTC)).total_seconds()
    return (("authorization", f"Bearer {issued.text}"),), max(_SHORTEST_STREAM, left * _STREAM_SHARE)


@contextlib.contextmanager
def calling(peer: str) -> Iterator[None]:
    """Whatever ends a call that is made in the body is raised as a TelltaleError."""
    try:
        with uncancelled(peer):
            yield
    except grpc.aio.AioRpcError as failed:
        raise status_error(failed) from None


def answered(response: _T | None, peer: str) -> _T:
    """The response of a call; raises Unavailable when it does not parse, which gRPC tells by None."""
    if response is None:
        raise Unavailable(f"{peer} answered with what is no response")
    return response


@contextlib.contextmanager
def uncancelled(peer: str) -> Iterator[None]:
    """A call in the body whose channel is closed meanwhile is Unavailable.

    gRPC cancels it, in whichever task waits for it. That must not pass for the cancellation of the task,
    which alone goes on as CancelledError.
    """
    try:
        yield
    except (grpc.aio.UsageError, asyncio.InvalidStateError):
        raise _closed(peer) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _closed(peer) from None


def _closed(peer: str) -> Unavailable:
    return Unavailable(f"the connection to {peer} was closed meanwhile; try again")
