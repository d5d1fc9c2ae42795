"""The calling end: channel options, the metadata that every call carries, pauses between attempts, errors."""

import asyncio
import contextlib
from collections.abc import Iterator
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
    "uncancelled",
]


async def call_metadata(me: Workload, audience: str, *others: str) -> tuple[tuple[str, str], ...]:
    """Metadata of one call to the services of `audience`. A call that will be forwarded names the trust
    domains behind the first one too. Fetch it anew for every call: it ends after 15 minutes."""
    return (("authorization", f"Bearer {await me.token(audience, *others)}"),)


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
