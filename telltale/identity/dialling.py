"""Channels to the services of the mesh: mTLS, the name that the server must prove, limits, keepalive."""

import random

import grpc
import grpc.aio

from telltale.identity.credentials import Credentials

# A frame is coalesced to 64 KiB and a single batch may be larger; beyond this it is no message of the mesh.
LARGEST_MESSAGE = 8 * 1024 * 1024
LARGEST_METADATA = 16 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_metadata_size", LARGEST_METADATA),
    # A stream that says nothing for hours must still notice that its peer is gone.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel made after a renewal must shake hands with the new certificate, not share an old connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Proxies of the environment would see who talks to whom, and none of ours stands behind one.
    ("grpc.enable_http_proxy", 0),
)

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 15.0


def dial(
    address: str, server_name: str, root_pem: bytes, credentials: Credentials | None = None
) -> grpc.aio.Channel:
    """A channel to the server that proves `server_name`, wherever it listens.

    Without credentials it can only enrol. An expired certificate is refused here, with a
    reason, because the handshake would give none.
    """
    if credentials is None:
        tls = grpc.ssl_channel_credentials(root_pem)
    else:
        credentials.check()
        tls = grpc.ssl_channel_credentials(root_pem, credentials.key_pem, credentials.chain_pem)
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
    return grpc.aio.secure_channel(address, tls, options)


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt`; jittered, so that no fleet marches in step."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))
    return random.uniform(_FIRST_PAUSE / 2, longest)  # noqa: S311 -- nobody gains by guessing it
