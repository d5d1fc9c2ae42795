"""What a domain service may answer a source: counted before it is parsed.

A parser makes some 40 bytes of an embedded message of two. A service that turns on its sources must not fill
the memory of their hosts with that.
"""

from grpc import aio

from telltale.api.mesh.v1.ingest_pb2 import ChainsRequest, ChainsResponse, PushRequest, PushResponse
from telltale.errors import InvalidInput
from telltale.wire import has_more_fields

_SERVICE = "telltale.api.mesh.v1.Ingest"
# A request is answered by one message: for each of its batches, of which a source sends fewer, one part.
MAX_ANSWERS = 1_000
# Chains of products that a source has or once had.
MAX_CHAINS = 10_000


class IngestStub:
    """The calls of `Ingest`. A response with too many parts does not parse, which gRPC tells by None."""

    def __init__(self, channel: aio.Channel) -> None:
        self.Chains = channel.unary_unary(
            f"/{_SERVICE}/Chains",
            request_serializer=ChainsRequest.SerializeToString,
            response_deserializer=parse_chains,
        )
        self.Push = channel.stream_stream(
            f"/{_SERVICE}/Push",
            request_serializer=PushRequest.SerializeToString,
            response_deserializer=parse_push,
        )


def parse_push(data: bytes) -> PushResponse:
    """Raises InvalidInput when it has too many parts, DecodeError when it is no message."""
    if has_more_fields(data, MAX_ANSWERS):
        raise InvalidInput(f"a response to a push holds at most {MAX_ANSWERS} acks and refusals")
    return PushResponse.FromString(data)


def parse_chains(data: bytes) -> ChainsResponse:
    """Raises InvalidInput when it has too many parts, DecodeError when it is no message."""
    if has_more_fields(data, MAX_CHAINS):
        raise InvalidInput(f"a service knows at most {MAX_CHAINS} chains of a source")
    return ChainsResponse.FromString(data)
