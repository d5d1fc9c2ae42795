"""Schemas are the same bytes everywhere, and what a stranger sends as one is bounded and checked."""

import hashlib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame
from telltale.cli.scaffold import proto_text
from telltale.contract.image import Image, own_image
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import MAX_BYTES, MAX_FILES, Schema, message_class
from telltale.errors import InvalidInput
from tests.support.protos import PROTOS, compile_image, compile_set

FILE = "telltale/api/servers/v1/disk_usage.proto"
PRODUCT = "servers.disk_usage"


def contract_of(image: Image, product: str) -> Contract:
    return next(contract for contract in contracts_in(image) if contract.name == product)


def own() -> Schema:
    image = own_image("servers")
    return Schema.of(image, contract_of(image, PRODUCT))


def files_of(schema: Schema) -> FileDescriptorSet:
    return FileDescriptorSet.FromString(schema.data)


def test_the_same_file_has_the_same_digest_wherever_it_is_compiled() -> None:
    alone = compile_image({FILE: (PROTOS / FILE).read_text()})
    commented = compile_image({FILE: (PROTOS / FILE).read_text().replace("// ", "// So: ")})
    for image in (alone, commented):
        assert Schema.of(image, contract_of(image, PRODUCT)) == own()


def test_a_schema_has_imports_first_and_no_source_info() -> None:
    seen: set[str] = set()
    for file in files_of(own()).file:
        assert seen.issuperset(file.dependency)
        assert not file.HasField("source_code_info")
        seen.add(file.name)
    assert FILE in seen


def test_a_parsed_schema_decodes_what_the_generated_code_encoded() -> None:
    schema = Schema.parse(own().data, own().sha256)
    (contract,) = schema.contracts()
    written = DiskUsageFrame.Records()
    written.records.add(mountpoint="/", used_bytes=7)
    records = message_class(contract.records).FromString(written.SerializeToString())
    assert records.SerializeToString() == written.SerializeToString()
    assert type(records) is not DiskUsageFrame.Records, "a stranger's descriptors stay in a pool of their own"
    assert contract.key_fields == ("mountpoint",)
    assert contract.field_options("used_bytes").unit == "By"
    assert schema.contract(PRODUCT) is contract


def test_a_product_that_the_schema_does_not_describe_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"does not describe the product servers\.cpu"):
        own().contract("servers.cpu")


def test_bytes_with_another_digest_are_not_even_parsed() -> None:
    with pytest.raises(InvalidInput, match="do not use it"):
        Schema.parse(own().data, hashlib.sha256(b"").digest())


def test_swapped_fields_change_the_digest() -> None:
    text = (PROTOS / FILE).read_text()
    swapped = text.replace("total_bytes = 5", "x = 5").replace("used_bytes = 6", "total_bytes = 6")
    image = compile_image({FILE: swapped.replace("x = 5", "used_bytes = 5")})
    assert Schema.of(image, contract_of(image, PRODUCT)).sha256 != own().sha256


def test_size_files_and_nesting_are_bounded() -> None:
    with pytest.raises(InvalidInput, match=f"at most {MAX_BYTES} are taken"):
        Schema.parse(bytes(MAX_BYTES + 1))
    many = FileDescriptorSet()
    for number in range(MAX_FILES + 1):
        many.file.add(name=f"{number}.proto")
    with pytest.raises(InvalidInput, match=f"between 1 and {MAX_FILES}"):
        Schema.parse(many.SerializeToString())
    deep = files_of(own())
    message = deep.file[-1].message_type[0]
    for _ in range(9):
        message = message.nested_type.add(name="Deeper")
    with pytest.raises(InvalidInput, match="nests messages more than 8 deep"):
        Schema.parse(deep.SerializeToString())


@pytest.mark.parametrize("empty", [b"", b"\xff", b"\x0a\x02\x0a\xff"])
def test_what_is_no_descriptor_set_is_refused(empty: bytes) -> None:
    with pytest.raises(InvalidInput):
        Schema.parse(empty)


def test_a_schema_in_another_order_or_with_source_info_is_refused() -> None:
    backwards = files_of(own())
    reordered = FileDescriptorSet(file=reversed(list(backwards.file)))
    with pytest.raises(InvalidInput, match="send imports first"):
        Schema.parse(reordered.SerializeToString())
    with pytest.raises(InvalidInput, match="leave it out"):
        Schema.parse(compile_set({FILE: (PROTOS / FILE).read_text()}))
    twice = files_of(own())
    twice.file.append(twice.file[0])
    with pytest.raises(InvalidInput, match="twice"):
        Schema.parse(twice.SerializeToString())


def test_a_schema_without_a_product_is_refused() -> None:
    bare = compile_set({"x.proto": 'syntax = "proto3"; package x; message X {}'}, source_info=False)
    with pytest.raises(InvalidInput, match="describes no data product"):
        Schema.parse(bare)


SHARED = [
    ("telltale/api/mesh/v1/batch.proto", "bytes payload_sha256 = 9;", "bytes signer_sha256 = 9;"),
    ("telltale/api/mesh/v1/batch.proto", "ORIGIN_OBSERVED = 2", "ORIGIN_OBSERVED = 3"),
    ("telltale/api/mesh/v1/product.proto", "string unit = 1", "bytes unit = 1"),
    ("telltale/api/mesh/v1/product.proto", "Product product = 50500", "Product product = 50501"),
    ("telltale/api/mesh/v1/stream.proto", "(stream SealedFrame)", "(SealedFrame)"),
]


def with_shared(name: str, old: str, new: str) -> bytes:
    """The schema of a product compiled against a changed copy of a shared file."""
    text = (PROTOS / name).read_text()
    assert old in text
    changed = text.replace(old, new, 1)
    if "signer_sha256 = 9" in changed:
        changed = changed.replace("bytes signer_sha256 = 12", "bytes payload_sha256 = 12")
    return compile_set({name: changed, FILE: (PROTOS / FILE).read_text()}, source_info=False)


@pytest.mark.parametrize(("name", "old", "new"), SHARED)
def test_a_copy_of_a_shared_file_that_contradicts_ours_is_refused(name: str, old: str, new: str) -> None:
    with pytest.raises(InvalidInput, match="contradicts the mesh's own copy"):
        Schema.parse(with_shared(name, old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  string replay_run = 17;", "  string replay_run = 17;\n  string later = 18;"),
        ("  string replay_run = 17;", ""),
    ],
)
def test_a_newer_or_older_copy_of_a_shared_file_is_taken(old: str, new: str) -> None:
    assert Schema.parse(with_shared("telltale/api/mesh/v1/batch.proto", old, new)).contracts()


def test_a_shared_file_that_we_do_not_have_is_refused() -> None:
    source = (PROTOS / FILE).read_text()
    source = source.replace("// One filesystem", 'import "google/protobuf/any.proto";\n// One filesystem', 1)
    source = source.replace("string device = 3", "google.protobuf.Any any = 90;\n string device = 3")
    with pytest.raises(InvalidInput, match=r"any\.proto' is not part of the mesh's contracts"):
        Schema.parse(compile_set({FILE: source}, source_info=False))


def test_a_stranger_cannot_put_files_into_shared_packages() -> None:
    intruder = 'syntax = "proto3"; package telltale.api.mesh.v1; message Grant {}'
    source = proto_text("servers.fans", "samples", Path("nowhere"))
    files = {
        "intruder.proto": intruder,
        "telltale/api/servers/v1/fans.proto": source.replace("import", 'import "intruder.proto";\nimport', 1),
    }
    with pytest.raises(InvalidInput, match=r"'intruder\.proto' claims the shared package"):
        Schema.parse(compile_set(files, source_info=False))


@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_schema_is_refused_or_read_but_never_crashes(damages: list[tuple[int, int]]) -> None:
    damaged = bytearray(OWN.data)
    for place, byte in damages:
        damaged[place % len(damaged)] = byte
    try:
        Schema.parse(bytes(damaged))
    except InvalidInput:
        pass


OWN = own()
