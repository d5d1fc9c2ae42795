"""Images join descriptor sets and keep their comments."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from telltale.contract.image import Image, own_image
from telltale.contract.product import contracts_in
from telltale.errors import ConfigurationError, InvalidInput
from tests.support.protos import compile_set

OWN = own_image("servers").files
DISK_USAGE = "telltale/api/servers/v1/disk_usage.proto"
HEAD = 'syntax = "proto3";\npackage a;\n'
COMMENTED = {
    "a.proto": HEAD
    + """
// Outer,
//   in two lines.
message Outer {
  // A field.
  string name = 1;
  // Inner.
  message Inner {
    // Deep.
    int32 depth = 1;
  }
  // Colours.
  enum Colour {
    // None.
    COLOUR_UNSPECIFIED = 0;
  }
}
// Does.
service Doer {
  // One thing.
  rpc Do(Outer) returns (Outer);
}
"""
}


@pytest.mark.parametrize(
    ("name", "comment"),
    [
        ("a.Outer", "Outer,\nin two lines."),
        ("a.Outer.name", "A field."),
        ("a.Outer.Inner", "Inner."),
        ("a.Outer.Inner.depth", "Deep."),
        ("a.Outer.Colour", "Colours."),
        ("a.Outer.COLOUR_UNSPECIFIED", "None."),
        ("a.Doer", "Does."),
        ("a.Doer.Do", "One thing."),
        ("a.Nothing", ""),
    ],
)
def test_every_comment_is_found_by_full_name(name: str, comment: str) -> None:
    assert Image(compile_set(COMMENTED)).comment(name) == comment


def test_sets_are_joined_by_file_name_and_the_commented_copy_stays(tmp_path: Path) -> None:
    bare, full = tmp_path / "bare", tmp_path / "full"
    bare.write_bytes(compile_set(COMMENTED, source_info=False))
    full.write_bytes(
        compile_set({**COMMENTED, "b.proto": HEAD + 'import "a.proto"; message B { Outer o = 1; }'})
    )
    for image in (Image.load(bare, full), Image.load(full, bare)):
        assert list(image.files) == ["a.proto", "b.proto"]
        assert image.comment("a.Outer.name") == "A field."
        assert image.pool.FindMessageTypeByName("a.B").fields[0].message_type.full_name == "a.Outer"


@pytest.mark.parametrize("name", ["", "a" * 256, "\U0010ffff.proto", "a b.proto"])
def test_a_file_whose_name_no_build_would_make_is_refused(name: str) -> None:
    files = FileDescriptorSet(file=[{"name": name}])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="is no name of a proto file"):
        Image(files.SerializeToString())


def test_a_refusal_of_a_large_name_is_short() -> None:
    # Field 1 of a file, which is its name, and no UTF-8.
    large = b"\x0a\x84\x80\x04" + b"\xff" * 65_540
    with pytest.raises(InvalidInput, match="no UTF-8") as refused:
        Image(b"\x0a\x88\x80\x04" + large)
    assert len(str(refused.value)) < 1_400


def test_two_different_files_of_one_name_are_refused() -> None:
    other = compile_set({"a.proto": HEAD + "message Other {}"})
    with pytest.raises(InvalidInput, match=r"two different files are called 'a\.proto'"):
        Image(compile_set(COMMENTED), other)


def test_a_missing_import_is_named() -> None:
    files = compile_set({**COMMENTED, "b.proto": HEAD + 'import "a.proto"; message B { Outer o = 1; }'})
    lacking = FileDescriptorSet.FromString(files)
    del lacking.file[0]
    with pytest.raises(InvalidInput, match=r"'a\.proto', which 'b\.proto' imports is missing"):
        Image(lacking.SerializeToString())


def test_files_that_import_each_other_are_refused() -> None:
    circle = FileDescriptorSet()
    circle.file.add(name="a.proto", dependency=["b.proto"])
    circle.file.add(name="b.proto", dependency=["a.proto"])
    with pytest.raises(InvalidInput, match="imports itself"):
        Image(circle.SerializeToString())


def test_the_digest_changes_with_a_comment() -> None:
    changed = {"a.proto": COMMENTED["a.proto"].replace("// Deep.", "// Deeper.")}
    first, second = Image(compile_set(COMMENTED)), Image(compile_set(changed))
    assert first.sha256 == Image(compile_set(COMMENTED)).sha256
    assert first.sha256 != second.sha256


def test_single_files_make_the_same_image() -> None:
    image = own_image("servers")
    assert Image.of_files(image.files.values()).sha256 == image.sha256


@pytest.mark.parametrize("domain", ["nowhere", "../mesh", "", "mesh/v1"])
def test_a_domain_without_contracts_says_what_to_do(domain: str) -> None:
    with pytest.raises(ConfigurationError, match="run `make protos`"):
        own_image(domain)


@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_are_refused_or_read_but_never_crash(damages: list[tuple[int, int]]) -> None:
    files = dict(OWN)
    damaged = bytearray(files[DISK_USAGE])
    for place, byte in damages:
        damaged[place % len(damaged)] = byte
    files[DISK_USAGE] = bytes(damaged)
    try:
        contracts_in(Image.of_files(files.values()))
    except InvalidInput:
        pass
