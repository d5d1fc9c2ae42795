"""A call to an authority, as whoever is at the terminal."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from telltale.api.mesh.v1.authority_pb2_grpc import AuthorityStub
from telltale.errors import TelltaleError, Unavailable
from telltale.identity.workload import Workload
from telltale.naming import server_name
from telltale.rpc.client import call_metadata, status_error

# Of one call.
TIMEOUT = 10.0


@asynccontextmanager
async def calling_authority(
    me: Workload, address: str, trusted: str
) -> AsyncIterator[tuple[AuthorityStub, tuple[tuple[str, str], ...]]]:
    """The authority of a trust domain at host:port, and the metadata for one call to it.

    A call that fails in the body is raised as a TelltaleError.
    """
    async with me.channel(address, server_name("authority", trusted)) as channel:
        try:
            yield AuthorityStub(channel), await call_metadata(me, trusted)
        except grpc.aio.AioRpcError as failed:
            raise _translated(failed, trusted, address) from failed


def _translated(failed: grpc.aio.AioRpcError, trusted: str, address: str) -> TelltaleError:
    if failed.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"the authority of {trusted} at {address} does not answer; see the logs of the mesh"
        )
    return status_error(failed)
