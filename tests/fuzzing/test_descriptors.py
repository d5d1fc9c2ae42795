"""Whatever descriptors come: from a source, from a domain that registers, from a server's reflection."""

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import cache
from random import Random
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from gateway import registration
from services.writer.tables import table_of
from telltale.contract.image import own_image, parse_set
from telltale.contract.pull import METHOD, SERVICES, PullLimits, pull
from telltale.contract.reflection import SymbolIndex
from telltale.contract.schema import Schema, incompatibilities
from telltale.errors import LONGEST_MESSAGE, InvalidInput, Unavailable
from telltale.wire import fields
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, record, run, seed, shares
from tests.fuzzing.mutate import Mutator
from tests.support.batches import CONTRACTS, DISK_USAGE, INVENTORY, SCHEMAS


def schemas() -> list[bytes]:
    return [SCHEMAS[DISK_USAGE].data, SCHEMAS[INVENTORY].data]


def a_schema(data: bytes) -> Schema:
    """What it says can be compared with what is there, and becomes a table or is refused."""
    schema = Schema.parse(data)
    for contract in schema.contracts():
        if contract.name in CONTRACTS:
            assert len(incompatibilities(contract, CONTRACTS[contract.name])) < 10_000
        assert len(table_of(contract).columns) <= 500
    return schema


@cache
def own_files() -> dict[str, bytes]:
    """What the servers domain registers, with only two of its products."""
    wanted = {CONTRACTS[name].file for name in (DISK_USAGE, INVENTORY)}
    files = own_image("servers").files
    return {name: files[name] for name in files if "/servers/" not in name or name in wanted}


def offers() -> list[bytes]:
    """Its own files; the shared ones have to be the gateway's own anyway."""
    return [fields(1, [data for name, data in own_files().items() if "/servers/" in name])]


def a_registration(data: bytes) -> registration.Registration:
    """What is registered is of the domain, all of it."""
    files = {name: own for name, own in own_files().items() if "/servers/" not in name}
    for proto in parse_set(data).file:
        files[proto.name] = proto.SerializeToString()
    offered = registration.check(files, world.mesh().trust_domain("servers"), world.mesh().name)
    assert all(name.startswith("telltale/api/servers/") for name in offered.files)
    assert all(name.startswith("servers.") for name in offered.contracts)
    return offered


@cache
def index() -> SymbolIndex:
    return SymbolIndex(own_files())


def questions() -> list[bytes]:
    service = CONTRACTS[DISK_USAGE].service
    extension = {"containing_type": "google.protobuf.FieldOptions", "extension_number": 50_000}
    return [
        ServerReflectionRequest(host="h", list_services="").SerializeToString(),
        ServerReflectionRequest(file_containing_symbol=service).SerializeToString(),
        ServerReflectionRequest(file_by_filename=CONTRACTS[DISK_USAGE].file).SerializeToString(),
        ServerReflectionRequest(
            all_extension_numbers_of_type="google.protobuf.FieldOptions"
        ).SerializeToString(),
        ServerReflectionRequest(file_containing_extension=extension).SerializeToString(),  # type: ignore[arg-type]
    ]


def a_question(data: bytes) -> bool:
    """It is answered, and by nothing that is larger than the files and the question."""
    answer = index().answer(ServerReflectionRequest.FromString(data), set())
    assert answer.ByteSize() <= sum(map(len, own_files().values())) + 4 * len(data) + 1_000
    return True


@shares(
    Target("schema", 20_000, schemas, a_schema),
    Target("registration", 10_000, offers, a_registration),
    Target("reflection request", 80_000, questions, a_question, refusals=(DecodeError,)),
)
def test_descriptors_are_taken_as_they_are_or_refused(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    run(share, record_property)


@contextlib.asynccontextmanager
async def lying(mutator: Mutator, random: Random) -> AsyncIterator[grpc.aio.Channel]:
    """A server whose reflection tells the truth and something else in turns."""

    async def inspect(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        sent: set[str] = set()
        async for data in requests:
            answer = index().answer(ServerReflectionRequest.FromString(data), sent).SerializeToString()
            yield answer if random.random() < 0.7 else mutator.changed(answer)

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(inspect)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICES[0], {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


@shares(Target("reflection of a hostile server", 15_000, questions, a_question))
async def test_what_a_server_reflects_is_read_within_bounds_or_refused(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    start = seed() + share.part
    answers = [index().answer(ServerReflectionRequest.FromString(one), set()) for one in questions()]
    mutator = Mutator(start, [one.SerializeToString() for one in answers])
    taken = 0
    async with lying(mutator, Random(start)) as channel:
        for number in range(share.inputs):
            try:
                files = await pull(channel, limits=PullLimits(max_files=50))
            except (InvalidInput, Unavailable) as refused:
                assert 0 < len(str(refused)) <= LONGEST_MESSAGE, (start, number)
            else:
                assert len(files) <= 50
                taken += 1
    record(share, record_property, taken)
