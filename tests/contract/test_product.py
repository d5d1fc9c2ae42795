"""Every promise of a contract is checked, and a broken one names product, rule and cure."""

from pathlib import Path

import pytest

from telltale.api.mesh.v1.product_pb2 import Kind, Role
from telltale.cli.scaffold import proto_text
from telltale.contract.image import own_image
from telltale.contract.product import Contract, contracts_in
from telltale.errors import InvalidInput
from tests.support.protos import compile_image

FANS = "telltale/api/servers/v1/fans.proto"


def text(kind: str) -> str:
    return proto_text("servers.fans", kind, Path("nowhere"))


def contracts(source: str, file: str = FANS) -> tuple[Contract, ...]:
    return contracts_in(compile_image({file: source}))


def test_a_contract_tells_what_generic_code_needs() -> None:
    by_name = {contract.name: contract for contract in contracts_in(own_image("servers"))}
    disk, host = by_name["servers.disk_usage"], by_name["servers.inventory"]
    assert disk.kind == Kind.KIND_SAMPLES and disk.domain == "servers" and disk.listing is None
    assert disk.service == "telltale.api.servers.v1.DiskUsage"
    assert disk.description == "How full every mounted filesystem is, as the host itself sees it."
    assert disk.file == "telltale/api/servers/v1/disk_usage.proto"
    assert (disk.time_field, disk.key_fields) == ("time", ("mountpoint",))
    assert disk.record.full_name == "telltale.api.servers.v1.DiskUsageRecord"
    assert disk.records.full_name == "telltale.api.servers.v1.DiskUsageFrame.Records"
    assert disk.field_options("used_bytes").unit == "By"
    assert disk.roles("used_bytes") == {Role.ROLE_GAUGE}
    assert host.kind == Kind.KIND_INVENTORY and host.listing is not None
    assert host.listing.full_name == "telltale.api.servers.v1.InventoryList"
    assert host.fields_with(Role.ROLE_ENTITY_ADDRESS) == ("addresses",)


def test_the_platforms_products_have_the_prefix_of_the_mesh() -> None:
    for contract in contracts_in(own_image("platform")):
        assert contract.name.startswith("mesh.") and contract.domain == "platform"
        assert contract.options.open_to_all_trust_domains


def test_contracts_from_before_the_sync_mark_are_still_read() -> None:
    (contract,) = contracts(text("samples").replace("  telltale.api.mesh.v1.Sync sync = 4;\n", ""))
    assert "sync" not in contract.frame.fields_by_name


@pytest.mark.parametrize("kind", ["samples", "events", "inventory"])
def test_what_the_scaffold_writes_keeps_every_rule(kind: str) -> None:
    (contract,) = contracts(text(kind))
    assert contract.name == "servers.fans"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name: "servers.fans"', 'name: "network.fans"', "the domain servers owns servers.* only"),
        ('name: "servers.fans"', 'name: "servers.Fans"', "no product name"),
        ('name: "servers.fans"', "", "the domain servers owns servers.* only"),
        ("kind: KIND_SAMPLES", "", "lacks `kind`; use one of KIND_SAMPLES"),
        ('owner: "servers"', 'owner: " "', "lacks `owner`"),
        ('support: "servers@example.org"', "", "lacks `support`"),
        ('version: "0.1.0"', 'version: "1"', "its version is '1'; use a semantic version"),
        ("status: STATUS_EXPERIMENTAL", "", "lacks `status`"),
        ("classification: CLASSIFICATION_INTERNAL", "", "lacks `classification`"),
        ("freshness: {seconds: 60}", "freshness: {seconds: 0}", "lacks `freshness`"),
        ("retention: {seconds: 2592000}", "", "lacks `retention`"),
        (
            "retention: {seconds: 2592000}",
            "retention: {seconds: 9000000000000}",
            "between zero and 100 years",
        ),
        ("freshness: {seconds: 60}", "freshness: {seconds: 60 nanos: -1}", "lacks `freshness`"),
        (
            "= {roles: ROLE_TIME}",
            "= {roles: ROLE_GAUGE}",
            "exactly one field of type google.protobuf.Timestamp",
        ),
        ("roles: ROLE_GAUGE", "roles: ROLE_TIME", "exactly one field"),
        (
            'unit: "s"',
            "classification: CLASSIFICATION_PERSONAL",
            "uptime_seconds is CLASSIFICATION_PERSONAL; raise",
        ),
        (
            "rpc Subscribe(",
            "rpc Follow(",
            "needs `rpc Subscribe(telltale.api.mesh.v1.SubscribeRequest) returns (str",
        ),
        ("returns (stream", "returns (", "needs `rpc Subscribe("),
        (
            "(telltale.api.mesh.v1.SubscribeRequest)",
            "(telltale.api.mesh.v1.WatchRequest)",
            "needs `rpc Subscribe(",
        ),
        ("bytes signature = 2", "string signature = 2", "must be `bytes signature = 2`"),
        ("bytes signature = 2", "bytes signature = 9", "lacks the field `signature = 2`"),
        ("repeated Batch batches", "Batch batches", "must be `repeated <its own message> batches = 1`"),
        (
            "telltale.api.mesh.v1.Header header",
            "telltale.api.mesh.v1.Delivery header",
            "must be `telltale.api.mesh",
        ),
        (
            "repeated bytes certificates = 2;",
            "repeated bytes certificates = 2; string x = 7;",
            "has no place in the",
        ),
        (
            "repeated FansRecord records",
            "repeated telltale.api.mesh.v1.Header records",
            "must be `repeated <its rec",
        ),
        ("double uptime_seconds = 2", "FansRecord uptime_seconds = 2", "nests"),
        ("double uptime_seconds", f"double {'u' * 64}", "a field's name has at most 63"),
        ('owner: "servers"', f'owner: "{"s" * 4_096}"', "at most 4096 and 4096 are taken"),
        ("service Fans", f"// {'word ' * 1_000}\nservice Fans", "at most 4096 and 4096 are taken"),
        ("package telltale.api.servers.v1", "package telltale.api.other.v1", "has the package"),
    ],
)
def test_a_broken_promise_names_product_rule_and_cure(old: str, new: str, message: str) -> None:
    source = text("samples")
    assert old in source
    if old.startswith("package"):
        source = source.replace("option (telltale", "option (.telltale")
    with pytest.raises(InvalidInput) as refused:
        contracts(source.replace(old, new, 1))
    assert message in str(refused.value)
    assert "fans" in str(refused.value).lower()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("roles: ROLE_KEY", "", "has no field with ROLE_KEY"),
        ("string filesystem_type = 2", "repeated string filesystem_type = 2", "only single scalar fields"),
        ("rpc List(", "rpc Enumerate(", "needs `rpc List("),
        ("rpc Watch(", "rpc Look(", "needs `rpc Watch("),
        ("  telltale.api.mesh.v1.Sync sync = 4;", "", "lacks the field `sync = 4`"),
        ("repeated FansRecord removed = 2;", "", "lacks the field `removed = 2`"),
        ("repeated FansRecord removed", "repeated FansFrame removed", "as its record"),
        ("FansRecord record = 3", "FansFrame record = 3", "as its record"),
        ("string next_page_token = 2", "int32 next_page_token = 2", "must be `string next_page_token = 2`"),
    ],
)
def test_an_inventory_keeps_the_rules_of_inventories(old: str, new: str, message: str) -> None:
    source = text("inventory")
    assert old in source
    with pytest.raises(InvalidInput) as refused:
        contracts(source.replace(old, new, 1))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "file", ["fans.proto", "telltale/api/servers/fans.proto", "telltale/api/servers/v1/Fans.proto"]
)
def test_a_file_outside_its_domain_is_refused(file: str) -> None:
    with pytest.raises(InvalidInput, match=r"move it to telltale/api/<domain>/v1/<product>\.proto"):
        contracts(text("samples"), file)


def test_two_services_of_one_name_are_refused() -> None:
    again = text("samples").replace("Fans", "Blowers")
    image = compile_image({FANS: text("samples"), FANS.replace("fans", "blowers"): again})
    with pytest.raises(InvalidInput, match="two services have this name"):
        contracts_in(image)


def test_messages_that_multiply_are_counted_without_being_walked() -> None:
    levels = "".join(
        f"message L{level} {{ {' '.join(f'L{level + 1} f{n} = {n};' for n in range(1, 200))} }}\n"
        for level in range(6)
    )
    source = text("samples") + levels + "message L6 { string leaf = 1; }\n"
    with pytest.raises(InvalidInput, match=f"has {199**6 + 2 + 1} columns"):
        contracts(source.replace("double uptime_seconds = 2", "L0 many = 3; double uptime_seconds = 2"))


def test_fields_of_inner_messages_are_classified_too() -> None:
    personal = "[(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}]"
    inner = f"message Who {{ string name = 1 {personal}; }}"
    source = (
        text("samples").replace("double uptime_seconds = 2", "Who who = 3; double uptime_seconds = 2") + inner
    )
    with pytest.raises(InvalidInput, match=r"Who\.name is CLASSIFICATION_PERSONAL"):
        contracts(source)
