"""A server of the mesh: mTLS 1.3, limits, keepalive, health, and a guard around every handler."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Never

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from telltale.audit import UNRECORDED, Auditor
from telltale.errors import ConfigurationError
from telltale.identity.dialling import LARGEST_METADATA
from telltale.identity.tokens import LONGEST_LIFE
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.rpc.auth import CallAuthenticator
from telltale.rpc.bounds import MEMBERS, MOST_CALLS, STRANGERS, Bounds
from telltale.rpc.guard import Guard

# Seconds for calls in flight once streams were told to return.
_GRACE = 5.0
# Who joins or logs in makes one call at a time.
_MOST_STREAMS_OF_A_STRANGER = 4
# TLS looks at a certificate at the handshake only: connections are made anew this often,
_CONNECTION_AGE_MS = 60 * 60 * 1000
# and nobody's stream is cut by that, because its token ends first.
_CONNECTION_GRACE_MS = int(LONGEST_LIFE.total_seconds() * 1000) + 60_000

# What a stream may send before anybody reads it. By itself gRPC lets that grow to a message of the largest
# kind, for each call. Who is read has room for the rest of the message at once.
_READ_AHEAD = 256 * 1024

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_metadata_size", LARGEST_METADATA),
    ("grpc.absolute_max_metadata_size", LARGEST_METADATA),
    ("grpc.http2.lookahead_bytes", _READ_AHEAD),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MS),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 30 s; with the default of 5 minutes they would be sent away.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Two processes on one port would take turns and confuse everybody.
    ("grpc.so_reuseport", 0),
)

_log = structlog.get_logger("telltale.rpc")


class _Health(health.aio.HealthServicer):  # type: ignore[name-defined,misc]  # missing in the stubs
    """Answers probes, and lets nobody hold a call open for as long as they like."""

    async def Watch(self, request: object, context: object) -> None:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def serving(
    me: Workload,
    listen: str,
    authenticator: CallAuthenticator | None,
    add: Callable[[grpc.aio.Server], None],
    *,
    auditor: Auditor = UNRECORDED,
    bounds: Bounds | None = None,
    grace: float = _GRACE,
) -> AsyncIterator[int]:
    """Serves what `add` adds on `listen` (host:port, port 0 for any) while the body runs; yields the port.

    Without an authenticator peers need no certificate: only enrolment is served like that. The auditor is
    told of every caller whom the authenticator does not know, and of everyone with too many calls at once.
    Handlers that stream responses should be async generators. Those that a client streams to
    send their initial metadata as soon as they have decided to go on, because clients wait for it.
    """
    bounds = bounds or (STRANGERS if authenticator is None else MEMBERS)
    guard = Guard(authenticator, bounds, auditor)
    # A client keeps back what its connection has no room for, and nobody would tell why it waits: there is
    # room for more than its bound, so that it is told.
    streams = _MOST_STREAMS_OF_A_STRANGER if authenticator is None else bounds.largest + 1
    server = grpc.aio.server(
        interceptors=[guard],
        options=(
            *SERVER_OPTIONS,
            ("grpc.max_concurrent_streams", streams),
            ("grpc.max_receive_message_length", bounds.message),
        ),
        maximum_concurrent_rpcs=MOST_CALLS,
    )
    state = _Health()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    add(server)
    try:
        port = server.add_secure_port(listen, me.server_credentials(require_client=authenticator is not None))
    except RuntimeError as refused:
        raise ConfigurationError(
            f"cannot listen on {listen}: the address is taken or not of this host"
        ) from refused
    await server.start()
    heeding = asyncio.create_task(_heed(me.trust, guard), name="reconsider")
    try:
        await state.set("", health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", spiffe_id=str(me.spiffe_id), listen=listen, port=port)
        yield port
    finally:
        heeding.cancel()
        await asyncio.gather(heeding, return_exceptions=True)
        await state.enter_graceful_shutdown()
        guard.end_streams()
        await server.stop(grace)


async def _heed(trust: Trust, guard: Guard) -> Never:
    """Ends the streams of whoever is believed no more while they run: the root of their certificate or the
    key of their token has left the bundle, or they are distrusted. New calls are refused by themselves."""
    with trust.listening() as changed:
        while True:
            await changed.wait()
            changed.clear()
            try:
                await guard.reconsider()
            except Exception as failed:
                # Whatever it is, the next change has to find somebody who heeds it.
                _log.error("streams not reconsidered; they end with their tokens", exc_info=failed)
