"""Every rule of the mesh, broken by itself, is told with what to do; what is delivered breaks none."""

from pathlib import Path

import pytest

from telltale.cli.scaffold import proto_text
from telltale.contract import governance
from telltale.contract.governance import RULES, Kept, Violation
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from telltale.errors import InvalidInput
from tests.support.protos import compile_image

FANS = "telltale/api/servers/v1/fans.proto"
DAY = 86_400


def text(kind: str = "samples") -> str:
    return proto_text("servers.fans", kind, Path("nowhere"))


def violations(source: str) -> list[Violation]:
    image = compile_image({FANS: source})
    return list(governance.violations(contracts_in(image), image))


def broken(source: str) -> set[str]:
    return {one.rule for one in violations(source)}


def changed(old: str, new: str, kind: str = "samples") -> str:
    source = text(kind)
    assert old in source
    return source.replace(old, new, 1)


def with_field(declaration: str) -> str:
    """The product with one more field."""
    return changed("  // Time since the host booted.\n", f"{declaration}  // Time since the host booted.\n")


def personal(retention: int) -> str:
    """The product with a field that names people, kept for so many seconds."""
    source = changed("classification: CLASSIFICATION_INTERNAL", "classification: CLASSIFICATION_PERSONAL")
    source = source.replace("retention: {seconds: 2592000}", f"retention: {{seconds: {retention}}}")
    return source.replace('unit: "s"', 'unit: "s" classification: CLASSIFICATION_PERSONAL')


@pytest.mark.parametrize("domain", ["servers", "network", "platform", "analysis"])
def test_every_product_that_is_delivered_keeps_every_rule(domain: str) -> None:
    image = own_image(domain)
    assert [str(one) for one in governance.violations(contracts_in(image), image)] == []


@pytest.mark.parametrize("kind", ["samples", "events", "inventory"])
def test_what_the_scaffold_writes_keeps_every_rule(kind: str) -> None:
    assert violations(text(kind)) == []


@pytest.mark.parametrize("support", ["team@example.org", "#team-servers", "https://example.org/help"])
def test_help_is_an_address_a_channel_or_a_url(support: str) -> None:
    assert broken(changed('support: "servers@example.org"', f'support: "{support}"')) == set()


@pytest.mark.parametrize(
    "support", ["ask Ann", "example.org", "http://example.org", "a@b", "# team", "https:///x"]
)
def test_help_that_nobody_can_reach_breaks_a_rule(support: str) -> None:
    assert broken(changed('support: "servers@example.org"', f'support: "{support}"')) == {"support"}


def test_a_deprecated_product_names_its_successor() -> None:
    deprecated = changed("STATUS_EXPERIMENTAL", "STATUS_DEPRECATED")
    assert broken(deprecated) == {"successor"}
    assert broken(deprecated.replace('purpose: "', 'purpose: "Use servers.fans. ')) == {"successor"}
    assert broken(deprecated.replace('purpose: "', 'purpose: "Use servers.blowers. ')) == set()


def test_a_source_that_may_be_silent_for_days_is_told_and_not_refused() -> None:
    slow = changed("freshness: {seconds: 60}", f"freshness: {{seconds: {DAY + 1}}}")
    (told,) = violations(slow)
    assert (told.rule, told.mandatory) == ("daily", False)
    assert broken(changed("freshness: {seconds: 60}", f"freshness: {{seconds: {DAY}}}")) == set()


def test_data_is_kept_until_the_next_batch_is_due() -> None:
    short = changed("retention: {seconds: 2592000}", "retention: {seconds: 59}")
    assert broken(short) == {"retention"}
    assert broken(changed("retention: {seconds: 2592000}", "retention: {seconds: 60}")) == set()


def test_personal_data_is_kept_for_a_hundred_days_and_confidential_data_for_four_hundred() -> None:
    assert broken(personal(100 * DAY)) == set()
    assert broken(personal(100 * DAY + 1)) == {"retention"}
    assert broken(personal(400 * DAY).replace("PERSONAL", "CONFIDENTIAL")) == set()
    assert broken(personal(400 * DAY + 1).replace("PERSONAL", "CONFIDENTIAL")) == {"retention"}
    assert broken(personal(4000 * DAY).replace("PERSONAL", "INTERNAL")) == set()


def test_a_product_is_not_classified_above_its_fields() -> None:
    higher = changed("classification: CLASSIFICATION_INTERNAL", "classification: CLASSIFICATION_CONFIDENTIAL")
    assert broken(higher) == {"classification"}


def test_a_product_of_public_fields_is_public() -> None:
    source = changed("classification: CLASSIFICATION_INTERNAL", "classification: CLASSIFICATION_PUBLIC")
    source = source.replace("{roles: ROLE_TIME}", "{roles: ROLE_TIME classification: CLASSIFICATION_PUBLIC}")
    assert broken(source.replace('unit: "s"', 'unit: "s" classification: CLASSIFICATION_PUBLIC')) == set()


@pytest.mark.parametrize(
    "option",
    [
        "roles: ROLE_ENTITY_ACCOUNT",
        "roles: ROLE_ENTITY_ADDRESS",
        "roles: ROLE_ENTITY_PRINCIPAL",
        'semconv: "user.id"',
        'semconv: "process.real_user.name"',
    ],
)
def test_a_field_that_can_name_somebody_states_its_classification(option: str) -> None:
    source = with_field(f"  // Who.\n  string who = 9 [(telltale.api.mesh.v1.field) = {{{option}}}];\n")
    (told,) = violations(source)
    assert (told.rule, told.element) == ("people", "telltale.api.servers.v1.FansRecord.who")
    assert told.mandatory
    assert broken(source.replace(option, f"{option} classification: CLASSIFICATION_INTERNAL")) == set()


@pytest.mark.parametrize(
    ("part", "element"),
    [
        ("service Fans {", "Fans"),
        ("rpc Subscribe(", "Fans.Subscribe"),
        ("message FansRecord {", "FansRecord"),
        ("double uptime_seconds", "FansRecord.uptime_seconds"),
        ("message Records {", "FansFrame.Records"),
        ("message Batch {", "FansFrame.Batch"),
        ("message FansFrame {", "FansFrame"),
        ("message FansList {", "FansList"),
        ("message Entry {", "FansList.Entry"),
        ("rpc Watch(", "Fans.Watch"),
    ],
)
def test_what_consumers_read_has_a_comment(part: str, element: str) -> None:
    source = next(one for one in (text("samples"), text("inventory")) if part in one)
    lines = source.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.lstrip().startswith(part)]
    while lines[at - 1].lstrip().startswith("//"):
        del lines[at - 1]
        at -= 1
    (told,) = violations("\n".join(lines))
    assert (told.rule, told.element) == ("comments", f"telltale.api.servers.v1.{element}")
    assert told.mandatory


def test_inner_messages_and_enums_have_comments_too() -> None:
    source = with_field("  Mode mode = 8;\n  map<string, Part> parts = 9;\n")
    source += "message Part { string name = 1; }\nenum Mode { MODE_UNSPECIFIED = 0; MODE_FAST = 1; }\n"
    package = "telltale.api.servers.v1."
    assert {one.element.removeprefix(package) for one in violations(source)} == {
        "FansRecord.mode",
        "FansRecord.parts",
        "Part",
        "Part.name",
        "Mode",
        "MODE_FAST",
    }


def test_what_is_measured_has_a_unit() -> None:
    assert broken(changed('unit: "s"', "")) == {"units"}


def test_only_the_platform_hears_every_trust_domain() -> None:
    opened = changed("freshness:", "open_to_all_trust_domains: true\n    freshness:")
    assert broken(opened) == {"open"}


def test_a_product_without_limits_is_told_and_not_refused() -> None:
    (told,) = violations(changed('limitations: "Only hosts with an agent."', ""))
    assert (told.rule, told.mandatory) == ("limitations", False)


def test_a_refusal_says_what_is_wrong_and_what_to_do_and_is_bounded() -> None:
    source = "\n".join(line for line in text().splitlines() if not line.lstrip().startswith("//"))
    image = compile_image({FANS: source})
    with pytest.raises(InvalidInput) as refused:
        governance.require(contracts_in(image), image)
    said = str(refused.value)
    assert "servers.fans breaks the rule `comments`: telltale.api.servers.v1.Fans has no comment" in said
    assert (
        "write above it what it is" in said
        and said.count("breaks the rule") == 5
        and said.endswith("(and more)")
    )


def test_recommendations_refuse_nobody() -> None:
    image = compile_image({FANS: changed('limitations: "Only hosts with an agent."', "")})
    governance.require(contracts_in(image), image)


def test_every_rule_is_checked_where_the_table_says() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        checked_here = rule.kept is Kept.REGISTRATION or not rule.mandatory
        assert (rule.check is not None) == checked_here, rule.name
