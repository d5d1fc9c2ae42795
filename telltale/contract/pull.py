"""Reads the descriptors of a remote server by reflection, within bounds: the server may be hostile."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from telltale.contract.image import parse_file
from telltale.errors import InvalidInput, Unavailable

# Two names of one service: messages and behaviour are the same.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"
# A client that is still writing when the server refuses sees INTERNAL in place of the status, now and then.
_TRIES = 3


@dataclass(frozen=True)
class PullLimits:
    """What a remote server may make us read."""

    max_bytes: int = 4 << 20
    max_files: int = 256
    max_services: int = 256
    seconds: float = 10.0


async def pull(
    channel: grpc.aio.Channel,
    metadata: Iterable[tuple[str, str]] = (),
    limits: PullLimits = PullLimits(),
) -> dict[str, bytes]:
    """The files of all services that the server lists, and of everything that they import.

    Raises Unavailable when the server cannot be read now, InvalidInput when an answer breaks a rule
    or a bound.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            for service in SERVICES:
                try:
                    return await _pull_by(channel, service, tuple(metadata), limits)
                except _EndedError as ended:
                    if ended.code != grpc.StatusCode.UNIMPLEMENTED:
                        raise Unavailable(
                            f"reflection ended with {ended.code.name}: {ended.details}"
                        ) from None
    except TimeoutError:
        raise Unavailable(f"reflection took longer than {limits.seconds:g} s; try again") from None
    raise Unavailable("the server has no reflection; serve it with add_reflection")


async def _pull_by(
    channel: grpc.aio.Channel, service: str, metadata: tuple[tuple[str, str], ...], limits: PullLimits
) -> dict[str, bytes]:
    for _ in range(_TRIES - 1):
        try:
            return await _Pull(channel, service, metadata, limits).run()
        except _EndedError as ended:
            if ended.code != grpc.StatusCode.INTERNAL:
                raise
    return await _Pull(channel, service, metadata, limits).run()


class _EndedError(Exception):
    """The server ended the stream while an answer was due."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Pull:
    """One reflection stream: requests and answers strictly in turn."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        service: str,
        metadata: tuple[tuple[str, str], ...],
        limits: PullLimits,
    ) -> None:
        self._limits = limits
        self._files: dict[str, bytes] = {}
        self._imports: deque[str] = deque()
        self._bytes = 0
        # The stubs know neither calls without a serializer nor those that are written to.
        open_stream: Any = channel.stream_stream
        self._call = open_stream(f"/{service}/{METHOD}")(metadata=metadata)

    async def run(self) -> dict[str, bytes]:
        try:
            listed = await self._ask(ServerReflectionRequest(list_services=""), "list_services_response")
            services = [service.name for service in listed.list_services_response.service]
            if len(services) > self._limits.max_services:
                raise InvalidInput(
                    f"the server lists {len(services)} services; at most {self._limits.max_services} are read"
                )
            for service in services:
                if service not in SERVICES:
                    await self._fetch(ServerReflectionRequest(file_containing_symbol=service))
            while self._imports:
                name = self._imports.popleft()
                if name not in self._files:
                    await self._fetch(ServerReflectionRequest(file_by_filename=name))
                    if name not in self._files:
                        raise InvalidInput(f"the server was asked for the file {name!r} and sent another")
            return self._files
        finally:
            self._call.cancel()

    async def _fetch(self, request: ServerReflectionRequest) -> None:
        answer = await self._ask(request, "file_descriptor_response")
        for data in answer.file_descriptor_response.file_descriptor_proto:
            proto = parse_file(data)
            if self._files.setdefault(proto.name, data) != data:
                raise InvalidInput(f"the server has two different files {proto.name!r}")
            if len(self._files) > self._limits.max_files:
                raise InvalidInput(f"the server has more than {self._limits.max_files} files")
            self._imports.extend(proto.dependency)

    async def _ask(self, request: ServerReflectionRequest, expected: str) -> ServerReflectionResponse:
        try:
            await self._call.write(request.SerializeToString())
            data = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            data = None
        if not isinstance(data, bytes):
            raise _EndedError(await self._call.code(), await self._call.details())
        self._bytes += len(data)
        if self._bytes > self._limits.max_bytes:
            raise InvalidInput(f"the server's descriptors have more than {self._limits.max_bytes} bytes")
        try:
            answer = ServerReflectionResponse.FromString(data)
        except DecodeError:
            raise InvalidInput("the server's reflection answer is no ServerReflectionResponse") from None
        kind = answer.WhichOneof("message_response")
        if kind == "error_response":
            raise InvalidInput(
                f"the server lists what it cannot describe: {answer.error_response.error_message[:200]}"
            )
        if kind != expected:
            raise InvalidInput(f"the server answered reflection with {kind} instead of {expected}")
        return answer
