"""Keeps the domain's lease at the gateway, so that its products stay in the catalog."""

import asyncio
from typing import Never

import structlog
from grpc import aio

from telltale import naming
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.api.mesh.v1.catalog_pb2_grpc import CatalogStub
from telltale.errors import TelltaleError
from telltale.identity.workload import Workload
from telltale.rpc.client import answered, backoff, call_metadata

log = structlog.get_logger(__name__)

# A registration makes the gateway call back and read the descriptors.
_CALL_SECONDS = 15.0
# Whatever lease a gateway grants: a wrong one must not make this a busy loop, nor keep it away for ever.
_SHORTEST_SECONDS = 1.0
_LONGEST_SECONDS = 60.0


async def keep_lease(me: Workload, gateway: str, address: str, descriptors_sha256: bytes) -> Never:
    """Registers `address` at the gateway again and again until cancelled."""
    platform = naming.trust_domain(naming.PLATFORM, me.trust.mesh)
    request = RegisterRequest(address=address, descriptors_sha256=descriptors_sha256)
    attempt = 0
    registered = False
    while True:
        channel = me.channel(gateway, naming.server_name("gateway", platform))
        try:
            stub = CatalogStub(channel)
            # One channel for many renewals; a failure or a new certificate makes another.
            credentials = me.credentials
            while credentials is me.credentials:
                metadata = await call_metadata(me, platform)
                response = answered(
                    await stub.Register(request, metadata=metadata, timeout=_CALL_SECONDS), "the gateway"
                )
                if not registered:
                    log.info("registered at the gateway", gateway=gateway, address=address)
                registered, attempt = True, 0
                await asyncio.sleep(min(max(response.lease.seconds / 3, _SHORTEST_SECONDS), _LONGEST_SECONDS))
        except (aio.AioRpcError, TelltaleError) as failed:
            detail = failed.details() if isinstance(failed, aio.AioRpcError) else str(failed)
            log.warning("not registered at the gateway", gateway=gateway, reason=detail)
            registered, attempt = False, attempt + 1
            await asyncio.sleep(backoff(attempt))
        finally:
            await channel.close(None)
