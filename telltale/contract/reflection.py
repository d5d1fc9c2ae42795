"""gRPC server reflection from raw descriptor bytes, so that comments and options reach the caller.

Both protocol versions are served: `grpc.reflection.v1` and its older twin v1alpha have the same messages.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from telltale.contract.image import parse_file
from telltale.contract.pull import METHOD, SERVICES
from telltale.contract.pull import PullLimits as PullLimits
from telltale.contract.pull import pull as pull
from telltale.errors import InvalidInput, NotFound

# What the caller of a running call may see.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Visible: TypeAlias = Callable[[Context], Awaitable["SymbolIndex"]]


class SymbolIndex:
    """Files by name and by what they define, from services and methods down to enum values."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._index([_File.parse(data) for data in files.values()], None)

    def only(self, services: Collection[str]) -> "SymbolIndex":
        """The part of the index that lists these services and holds no file that they do not need."""
        shown = set(self.services) & set(services)
        needed = {name for service in shown for name in self._with_imports(self._file_of_symbol[service])}
        part = SymbolIndex({})
        part._index([file for name, file in self._files.items() if name in needed], shown)
        return part

    def _index(self, files: "list[_File]", shown: Collection[str] | None) -> None:
        self._files = {file.name: file for file in files}
        self._file_of_symbol = {symbol: file.name for file in files for symbol in file.symbols}
        self._extensions: dict[str, dict[int, str]] = {}
        for file in files:
            for extendee, number in file.extensions:
                self._extensions.setdefault(extendee, {})[number] = file.name
        defined = [service for file in files for service in file.services]
        self.services = tuple(sorted(name for name in defined if shown is None or name in shown))

    def _with_imports(self, name: str) -> list[str]:
        found, wanted = dict.fromkeys([name]), [name]
        while wanted:
            for imported in self._files[wanted.pop()].imports:
                if imported in self._files and imported not in found:
                    found[imported] = None
                    wanted.append(imported)
        return list(found)

    def answer(self, request: ServerReflectionRequest, sent: set[str]) -> ServerReflectionResponse:
        """Answers one request. A file comes with its imports, less those of `sent`, which grows."""
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(response, request, sent)
        except NotFound as missing:
            response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            response.error_response.error_message = str(missing)
        return response

    def _fill(
        self, response: ServerReflectionResponse, request: ServerReflectionRequest, sent: set[str]
    ) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                response.list_services_response.SetInParent()
                for service in self.services:
                    response.list_services_response.service.add(name=service)
                return
            case "all_extension_numbers_of_type":
                extendee = request.all_extension_numbers_of_type
                if extendee not in self._file_of_symbol:
                    raise NotFound(f"there is no message {extendee!r} here, or you may not discover it")
                numbers = sorted(self._extensions.get(extendee, {}))
                response.all_extension_numbers_response.base_type_name = extendee
                response.all_extension_numbers_response.extension_number.extend(numbers)
                return
            case "file_by_filename":
                what, name = request.file_by_filename, request.file_by_filename
            case "file_containing_symbol":
                what = request.file_containing_symbol
                name = self._file_of_symbol.get(what, "")
            case "file_containing_extension":
                extension = request.file_containing_extension
                what = f"{extension.containing_type} extension {extension.extension_number}"
                name = self._extensions.get(extension.containing_type, {}).get(extension.extension_number, "")
            case _:
                raise NotFound("the request asks for nothing that this server knows")
        if name not in self._files:
            raise NotFound(f"there is no {what!r} here, or you may not discover it")
        # What was asked for is always sent, its imports once a stream.
        needed = [name, *(other for other in self._with_imports(name) if other != name and other not in sent)]
        sent.update(needed)
        response.file_descriptor_response.file_descriptor_proto.extend(
            self._files[other].data for other in needed
        )


def add_reflection(server: grpc.aio.Server, visible: Visible) -> None:
    """Serves reflection; each call shows what `visible` returns for its caller."""

    async def inspect(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        index = await visible(context)
        # The caller learns that it may write: a refusal while it writes would reach it garbled.
        await context.send_initial_metadata(())
        sent: set[str] = set()
        async for data in requests:
            try:
                request = ServerReflectionRequest.FromString(data)
            except DecodeError:
                raise InvalidInput("the message is no ServerReflectionRequest") from None
            yield index.answer(request, sent).SerializeToString()

    # Bytes on both sides: what cannot be parsed is the caller's mistake, not an internal error.
    handler = grpc.stream_stream_rpc_method_handler(inspect)
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, {METHOD: handler}) for service in SERVICES)
    )


@dataclass(frozen=True)
class _File:
    """One file and what it defines."""

    name: str
    data: bytes
    imports: tuple[str, ...]
    services: tuple[str, ...]
    symbols: tuple[str, ...]
    # Message that is extended, and the number.
    extensions: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, data: bytes) -> "_File":
        proto = parse_file(data)
        prefix = f"{proto.package}." if proto.package else ""
        extensions = list(proto.extension)
        for message in proto.message_type:
            extensions += _nested_extensions(message)
        return cls(
            name=proto.name,
            data=data,
            imports=tuple(proto.dependency),
            services=tuple(prefix + service.name for service in proto.service),
            symbols=tuple(_symbols(proto, prefix)),
            extensions=tuple((one.extendee.removeprefix("."), one.number) for one in extensions),
        )


def _symbols(proto: FileDescriptorProto, prefix: str) -> Iterator[str]:
    for message in proto.message_type:
        yield from _message_symbols(message, prefix)
    for enum in proto.enum_type:
        yield prefix + enum.name
        yield from (prefix + value.name for value in enum.value)
    for extension in proto.extension:
        yield prefix + extension.name
    for service in proto.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)


def _message_symbols(message: DescriptorProto, prefix: str) -> Iterator[str]:
    yield prefix + message.name
    inner = f"{prefix}{message.name}."
    yield from (inner + field.name for field in (*message.field, *message.extension))
    yield from (inner + oneof.name for oneof in message.oneof_decl)
    for nested in message.nested_type:
        yield from _message_symbols(nested, inner)
    for enum in message.enum_type:
        yield inner + enum.name
        yield from (inner + value.name for value in enum.value)


def _nested_extensions(message: DescriptorProto) -> list[FieldDescriptorProto]:
    extensions = list(message.extension)
    for nested in message.nested_type:
        extensions += _nested_extensions(nested)
    return extensions
