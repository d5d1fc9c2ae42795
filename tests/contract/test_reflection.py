"""Reflection shows real clients the contracts with their comments, and reads them from servers that lie."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from telltale.contract.image import Image, own_image
from telltale.contract.product import contracts_in
from telltale.contract.pull import METHOD, SERVICES, PullLimits, pull
from telltale.contract.reflection import Context, SymbolIndex, add_reflection
from telltale.errors import InvalidInput, Unavailable

BIN = Path(sys.executable).parent
DISK_USAGE = "telltale.api.servers.v1.DiskUsage"
INVENTORY = "telltale.api.servers.v1.Inventory"
OWN = SymbolIndex(own_image("servers").files)


@asynccontextmanager
async def serving(add: Callable[[grpc.aio.Server], None]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    add(server)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def reflecting(index: SymbolIndex) -> Callable[[grpc.aio.Server], None]:
    async def visible(context: Context) -> SymbolIndex:
        return index

    return lambda server: add_reflection(server, visible)


async def run(program: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(BIN / program), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_grpcurl_lists_and_describes_with_comments_units_and_promises() -> None:
    async with serving(reflecting(OWN.only([DISK_USAGE, INVENTORY]))) as address:
        listed = (await run("grpcurl", "-plaintext", address, "list")).split()
        service = await run("grpcurl", "-plaintext", address, "describe", DISK_USAGE)
        record = await run("grpcurl", "-plaintext", address, "describe", f"{DISK_USAGE}Record")
        method = await run("grpcurl", "-plaintext", address, "describe", f"{DISK_USAGE}.Subscribe")
        header = await run("grpcurl", "-plaintext", address, "describe", "telltale.api.mesh.v1.Header")
    assert listed == [DISK_USAGE, INVENTORY], "neither shared services nor reflection itself"
    assert "// How full every mounted filesystem is" in service
    assert 'name:"servers.disk_usage"' in service and 'purpose:"Tell which filesystem' in service
    assert "// Directory that it is mounted on. Required." in record
    assert 'unit:"By"' in record and "ROLE_GAUGE" in record
    assert "The caller needs `subscribe`" in method
    assert "What the source says of a batch and signs" in header


async def test_buf_lists_the_services() -> None:
    async with serving(reflecting(OWN.only([DISK_USAGE]))) as address:
        listed = await run(
            "buf",
            "curl",
            "--protocol",
            "grpc",
            "--http2-prior-knowledge",
            f"http://{address}",
            "--list-services",
        )
    assert listed.split() == [DISK_USAGE]


async def test_every_caller_sees_only_what_it_may() -> None:
    async def visible(context: Context) -> SymbolIndex:
        metadata = dict(context.invocation_metadata() or ())
        return OWN.only([DISK_USAGE] if metadata.get("who") == "ada" else [])

    async with (
        serving(lambda server: add_reflection(server, visible)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        assert f"{DISK_USAGE}" in (await run("grpcurl", "-plaintext", "-H", "who: ada", address, "list"))
        assert await pull(channel) == {}
        names = set(await pull(channel, [("who", "ada")]))
    assert "telltale/api/servers/v1/disk_usage.proto" in names
    assert "telltale/api/servers/v1/inventory.proto" not in names


async def test_what_is_pulled_is_what_was_served() -> None:
    index = OWN.only([DISK_USAGE, INVENTORY])
    async with serving(reflecting(index)) as address, grpc.aio.insecure_channel(address) as channel:
        files = await pull(channel)
    own = own_image("servers").files
    assert files == {name: own[name] for name in files}
    found = contracts_in(Image.of_files(files.values()))
    assert [contract.name for contract in found] == ["servers.disk_usage", "servers.inventory"]
    assert found[0].description.startswith("How full")


async def test_a_server_with_the_older_protocol_only_is_read() -> None:
    def older(server: grpc.aio.Server) -> None:
        handler = grpc.stream_stream_rpc_method_handler(
            answering(lambda request: OWN.answer(request, set()).SerializeToString())
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICES[1], {METHOD: handler}),)
        )

    async with serving(older) as address, grpc.aio.insecure_channel(address) as channel:
        assert len(await pull(channel)) == len(own_image("servers").files)


def ask(index: SymbolIndex, **request: object) -> ServerReflectionResponse:
    return index.answer(ServerReflectionRequest(**request), set())


@pytest.mark.parametrize(
    "symbol",
    [
        DISK_USAGE,
        f"{DISK_USAGE}.Subscribe",
        f"{DISK_USAGE}Record",
        f"{DISK_USAGE}Record.used_bytes",
        f"{DISK_USAGE}Frame.Batch",
    ],
)
def test_every_kind_of_symbol_finds_its_file(symbol: str) -> None:
    files = ask(OWN, file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
    assert files[0] == own_image("servers").files["telltale/api/servers/v1/disk_usage.proto"]


def test_extensions_are_found_by_number() -> None:
    options = "google.protobuf.FieldOptions"
    numbers = ask(OWN, all_extension_numbers_of_type=options).all_extension_numbers_response
    assert list(numbers.extension_number) == [50500]
    found = ask(OWN, file_containing_extension={"containing_type": options, "extension_number": 50500})
    files = found.file_descriptor_response.file_descriptor_proto
    assert files[0] == own_image("servers").files["telltale/api/mesh/v1/product.proto"]


def test_what_is_not_visible_is_not_found() -> None:
    part = OWN.only([DISK_USAGE])
    for request in (
        {"file_containing_symbol": INVENTORY},
        {"file_by_filename": "telltale/api/servers/v1/inventory.proto"},
        {"all_extension_numbers_of_type": "no.Message"},
        {},
    ):
        error = ask(part, **request).error_response
        assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_file_brings_its_imports_once_a_stream() -> None:
    sent: set[str] = set()
    request = ServerReflectionRequest(file_containing_symbol=DISK_USAGE)
    first = OWN.answer(request, sent).file_descriptor_response.file_descriptor_proto
    second = OWN.answer(request, sent).file_descriptor_response.file_descriptor_proto
    assert len(first) > 1 and list(second) == list(first[:1])


Behaviour = Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]


def answering(answer: Callable[[ServerReflectionRequest], bytes]) -> Behaviour:
    async def behave(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for data in requests:
            yield answer(ServerReflectionRequest.FromString(data))

    return behave


def lies() -> Iterator[tuple[str, Callable[[ServerReflectionRequest], bytes], str]]:
    """Answers of hostile servers, and what is said about each."""

    def files(*protos: bytes) -> bytes:
        response = ServerReflectionResponse()
        response.file_descriptor_response.file_descriptor_proto.extend(protos)
        return response.SerializeToString()

    def listing(
        answer: Callable[[ServerReflectionRequest], bytes],
    ) -> Callable[[ServerReflectionRequest], bytes]:
        response = ServerReflectionResponse()
        response.list_services_response.service.add(name="a.B")
        return lambda request: (
            response.SerializeToString() if request.HasField("list_services") else answer(request)
        )

    def endless(request: ServerReflectionRequest) -> bytes:
        name = request.file_by_filename or "0"
        return files(b"\x0a" + bytes([len(name)]) + name.encode() + b"\x1a\x04" + f"{len(name):04}".encode())

    many = ServerReflectionResponse()
    for number in range(300):
        many.list_services_response.service.add(name=f"a.B{number}")
    counter = iter(range(10**6))

    def chain(request: ServerReflectionRequest) -> bytes:
        name, after = request.file_by_filename or "f0", f"f{next(counter) + 1}"
        return files(
            b"\x0a" + bytes([len(name)]) + name.encode() + b"\x1a" + bytes([len(after)]) + after.encode()
        )

    yield "garbage", lambda request: b"\xff\xff", "is no ServerReflectionResponse"
    yield "another answer", lambda request: files(), "with file_descriptor_response instead of list_services"
    yield "too many services", lambda request: many.SerializeToString(), "lists 300 services"
    yield "garbage file", listing(lambda request: files(b"\xff")), "are no FileDescriptorProto"
    yield (
        "two of one name",
        listing(lambda request: files(b"\x0a\x01a", b"\x0a\x01a\x12\x01b")),
        "two different",
    )
    yield "endless imports", listing(chain), "more than 50 files"
    yield "another file", listing(lambda request: files(b"\x0a\x01a\x1a\x01b")), "was asked for the file 'b'"
    yield (
        "large",
        listing(lambda request: files(b"\x0a\x01a" + b"\x12\xff\xff\x03" + b"x" * 65535)),
        "more than",
    )
    yield (
        "unknown",
        lambda request: (
            SymbolIndex({}).answer(ServerReflectionRequest(file_by_filename="x"), set()).SerializeToString()
        ),
        "lists what it cannot describe",
    )


@pytest.mark.parametrize(
    ("answer", "message"), [pytest.param(lie, said, id=name) for name, lie, said in lies()]
)
async def test_a_lie_is_refused_and_named(
    answer: Callable[[ServerReflectionRequest], bytes], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await pull_from(answering(answer), PullLimits(max_bytes=60_000, max_files=50))
    assert message in str(refused.value)


async def pull_from(behave: Behaviour, limits: PullLimits) -> None:
    def add(server: grpc.aio.Server) -> None:
        handler = grpc.stream_stream_rpc_method_handler(behave)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICES[0], {METHOD: handler}),)
        )

    async with serving(add) as address, grpc.aio.insecure_channel(address) as channel:
        await pull(channel, limits=limits)


async def test_a_server_that_never_answers_is_left() -> None:
    async def silent(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for _ in requests:
            await asyncio.Event().wait()
            yield b""

    with pytest.raises(Unavailable, match=r"took longer than 0\.2 s"):
        await pull_from(silent, PullLimits(seconds=0.2))


async def test_a_refusal_comes_with_its_status() -> None:
    async def refusing(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
        yield b""

    with pytest.raises(Unavailable, match="UNAUTHENTICATED: who are you"):
        await pull_from(refusing, PullLimits())


async def test_a_server_without_reflection_and_no_server_are_unavailable() -> None:
    async with serving(lambda server: None) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(Unavailable, match="has no reflection"):
            await pull(channel)
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(Unavailable, match="UNAVAILABLE"):
            await pull(channel)
