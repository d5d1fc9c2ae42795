"""What a domain may register: each rule, broken by itself."""

from collections.abc import Callable, Mapping

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from gateway import registration
from gateway.registration import check
from telltale.api.mesh.v1 import product_pb2
from telltale.contract import own_image
from telltale.errors import InvalidInput

MESH = "telltale.test"
SERVERS = f"servers.{MESH}"
DISK_USAGE = "telltale/api/servers/v1/disk_usage.proto"
BATCH = "telltale/api/mesh/v1/batch.proto"


def offered() -> dict[str, bytes]:
    return {**own_image("mesh").files, **own_image("servers").files}


def changed(
    name: str, change: Callable[[FileDescriptorProto], object], files: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """The files with one of them changed; it is served under the name that it then has."""
    result = dict(files or offered())
    proto = FileDescriptorProto.FromString(result.pop(name))
    change(proto)
    result[proto.name] = proto.SerializeToString()
    return result


def option(proto: FileDescriptorProto, old: str, new: str) -> None:
    """Replaces text of the same length in the file's options and names."""
    assert len(old) == len(new)
    data = proto.SerializeToString()
    assert old.encode() in data
    proto.ParseFromString(data.replace(old.encode(), new.encode()))


def test_a_domain_registers_its_own_products() -> None:
    found = check(offered(), SERVERS, MESH)
    assert "servers.disk_usage" in found.contracts
    assert all(name.startswith("telltale/api/servers/") for name in found.files)


def test_products_of_another_domain_are_refused() -> None:
    with pytest.raises(InvalidInput, match="is not of network"):
        check(offered(), f"network.{MESH}", MESH)


def test_a_foreign_product_prefix_is_refused() -> None:
    files = changed(DISK_USAGE, lambda proto: option(proto, "servers.disk_usage", "network.disk_usage"))
    with pytest.raises(InvalidInput, match="owns servers"):
        check(files, SERVERS, MESH)


def test_a_foreign_package_is_refused() -> None:
    files = changed(DISK_USAGE, lambda proto: setattr(proto, "package", "telltale.api.network.v1"))
    with pytest.raises(InvalidInput, match=r"has the package 'telltale.api.network.v1'"):
        check(files, SERVERS, MESH)


def test_a_foreign_directory_is_refused() -> None:
    move = lambda proto: setattr(proto, "name", "telltale/api/network/v1/disk_usage.proto")  # noqa: E731
    with pytest.raises(InvalidInput, match="whose files lie below telltale/api/servers/"):
        check(changed(DISK_USAGE, move), SERVERS, MESH)


def test_a_file_beside_the_house_is_refused() -> None:
    files = {**offered(), "evil.proto": FileDescriptorProto(name="evil.proto").SerializeToString()}
    with pytest.raises(InvalidInput, match=r"'evil.proto' is not of"):
        check(files, SERVERS, MESH)


def test_changed_mesh_descriptors_are_refused() -> None:
    def swap(proto: FileDescriptorProto) -> None:
        """Two fields of the signed header change places."""
        header = next(message for message in proto.message_type if message.name == "Header")
        header.field[2].number, header.field[3].number = header.field[3].number, header.field[2].number

    with pytest.raises(InvalidInput, match="contradicts the mesh's own copy"):
        check(changed(BATCH, swap), SERVERS, MESH)


def test_an_unknown_shared_file_is_refused() -> None:
    name = "telltale/api/mesh/v1/command.proto"
    file = FileDescriptorProto(name=name, package="telltale.api.mesh.v1")
    with pytest.raises(InvalidInput, match="not part of the mesh's contracts"):
        check({**offered(), name: file.SerializeToString()}, SERVERS, MESH)


def test_another_meaning_for_everybodys_options_is_refused() -> None:
    def extend(proto: FileDescriptorProto) -> None:
        proto.dependency.append("google/protobuf/descriptor.proto")
        proto.extension.add(
            name="harmless",
            number=50501,
            extendee=".google.protobuf.FieldOptions",
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )

    with pytest.raises(InvalidInput, match="extend your own messages only"):
        check(changed(DISK_USAGE, extend), SERVERS, MESH)


def test_a_name_that_is_defined_twice_is_refused() -> None:
    copy = FileDescriptorProto.FromString(offered()[DISK_USAGE])
    copy.name = "telltale/api/servers/v1/copy.proto"
    with pytest.raises(InvalidInput, match="is defined twice"):
        check({**offered(), copy.name: copy.SerializeToString()}, SERVERS, MESH)


def test_too_many_files_are_refused() -> None:
    names = [f"telltale/api/servers/v1/f{number}.proto" for number in range(registration.MAX_FILES)]
    more = {
        name: FileDescriptorProto(name=name, package="telltale.api.servers.v1").SerializeToString()
        for name in names
    }
    with pytest.raises(InvalidInput, match="at most 256"):
        check({**offered(), **more}, SERVERS, MESH)


def test_too_many_bytes_are_refused() -> None:
    def comment(proto: FileDescriptorProto) -> None:
        proto.source_code_info.location.add(leading_comments="x" * registration.MAX_BYTES)

    with pytest.raises(InvalidInput, match="at most 256 of 4194304 bytes"):
        check(changed(DISK_USAGE, comment), SERVERS, MESH)


def test_too_many_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "MAX_SYMBOLS", 100)
    with pytest.raises(InvalidInput, match="more than 100 names"):
        check(offered(), SERVERS, MESH)


def test_too_many_services_are_refused() -> None:
    def serve(proto: FileDescriptorProto) -> None:
        for number in range(registration.MAX_SERVICES):
            proto.service.add(name=f"S{number}")

    with pytest.raises(InvalidInput, match="at most 256 are taken"):
        check(changed(DISK_USAGE, serve), SERVERS, MESH)


def test_messages_nested_too_deeply_are_refused() -> None:
    def nest(proto: FileDescriptorProto) -> None:
        message = proto.message_type[0]
        for depth in range(registration.MAX_NESTING):
            message = message.nested_type.add(name=f"M{depth}")

    with pytest.raises(InvalidInput, match="nests messages more than 8 deep"):
        check(changed(DISK_USAGE, nest), SERVERS, MESH)


def test_a_circle_of_imports_is_refused() -> None:
    circle = changed(DISK_USAGE, lambda proto: proto.dependency.append(DISK_USAGE))
    with pytest.raises(InvalidInput, match="imports itself"):
        check(circle, SERVERS, MESH)


def test_a_long_way_of_imports_is_refused() -> None:
    files = offered()
    previous = DISK_USAGE
    for number in range(registration.MAX_IMPORT_DEPTH):
        name = f"telltale/api/servers/v1/f{number}.proto"
        file = FileDescriptorProto(name=name, package="telltale.api.servers.v1", dependency=[previous])
        files[name], previous = file.SerializeToString(), name
    with pytest.raises(InvalidInput, match="more than 16 deep"):
        check(files, SERVERS, MESH)


def test_a_missing_import_is_refused() -> None:
    files = offered()
    del files["telltale/api/mesh/v1/stream.proto"]
    with pytest.raises(InvalidInput, match="imported and missing"):
        check(files, SERVERS, MESH)


def test_a_file_under_another_name_is_refused() -> None:
    files = offered()
    files["telltale/api/servers/v1/other.proto"] = files.pop(DISK_USAGE)
    with pytest.raises(InvalidInput, match="calls itself"):
        check(files, SERVERS, MESH)


def test_bytes_that_are_no_file_are_refused() -> None:
    with pytest.raises(InvalidInput, match="are no FileDescriptorProto"):
        check({**offered(), "telltale/api/servers/v1/x.proto": b"\xff\xff"}, SERVERS, MESH)


def test_a_domain_without_a_product_is_refused() -> None:
    with pytest.raises(InvalidInput, match="offers no data product"):
        check(own_image("mesh").files, SERVERS, MESH)


def test_a_product_that_breaks_a_mandatory_rule_of_the_mesh_is_refused_with_its_words() -> None:
    def keep_for_ever(proto: FileDescriptorProto) -> None:
        """The records, which name people, are kept for more than a hundred days."""
        options = proto.service[0].options.Extensions[product_pb2.product]
        options.retention.seconds = 101 * 86_400

    accounts = "telltale/api/servers/v1/accounts.proto"
    with pytest.raises(InvalidInput) as refused:
        check(changed(accounts, keep_for_ever), SERVERS, MESH)
    assert str(refused.value) == (
        "servers.accounts breaks the rule `retention`: telltale.api.servers.v1.Accounts keeps personal data "
        "for 101 days; keep what is personal for 100 days at most"
    )


def test_descriptors_without_comments_are_refused() -> None:
    def silence(proto: FileDescriptorProto) -> None:
        proto.ClearField("source_code_info")

    with pytest.raises(
        InvalidInput, match=r"breaks the rule `comments`: telltale\.api\.servers\.v1\.DiskUsage has"
    ):
        check(changed(DISK_USAGE, silence), SERVERS, MESH)


def test_another_mesh_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is no trust domain of the mesh"):
        check(offered(), "servers.elsewhere.test", MESH)
