"""The file by which people log in: what is missing or wrong is named by its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from certs.people.settings import PeopleSettings
from telltale.errors import ConfigurationError

PROVIDER = {
    "issuer": "https://login.example.org",
    "client_id": "telltale",
    "jwks": "https://login.example.org/jwks",
    "groups": {"/mesh": "responders"},
}
DIRECTORY = {
    "url": "ldaps://ldap.example.org",
    "bind_dn": "cn=telltale,dc=example,dc=org",
    "password_file": "/run/secrets/ldap",
    "base": "ou=people,dc=example,dc=org",
    "group_attribute": "memberOf",
    "groups": {"cn=mesh,dc=example,dc=org": "responders"},
}


def read(file: Path, provider: dict[str, Any], directory: dict[str, Any] | None = None) -> PeopleSettings:
    content = {"provider": {**PROVIDER, **provider}}
    if directory is not None:
        content["directory"] = {**DIRECTORY, **directory}
    file.write_text(json.dumps(content))
    return PeopleSettings.read(file)


@pytest.mark.parametrize(
    ("provider", "directory", "reason"),
    [
        ({"issuer": "http://login.example.org"}, None, r"provider\.issuer: is no https"),
        ({"issuer": "https://u:p@login.example.org"}, None, r"provider\.issuer: is no https"),
        ({"jwks": "ftp://login.example.org/"}, None, r"provider\.jwks: is no https"),
        ({"client_id": ""}, None, r"provider\.client_id"),
        ({"client_secret": "x"}, None, r"provider\.client_secret"),
        ({"algorithms": ["HS256"]}, None, "algorithms must be of .* got HS256"),
        ({"algorithms": ["none"]}, None, "algorithms must be of .* got none"),
        ({"algorithms": []}, None, r"provider\.algorithms"),
        ({"scopes": ["profile"]}, None, "scopes must hold `openid`"),
        ({"groups": {}}, None, "groups must map at least one"),
        ({"groups": {"a": "No Group"}}, None, "is no group"),
        ({"groups": {str(n): f"g{n}" for n in range(33)}}, None, "32 are the most"),
        ({"groups_claim": None}, None, "nobody knows any group"),
        ({}, {"url": "http://ldap.example.org"}, r"directory\.url"),
        ({}, {"group_base": "ou=groups"}, "either group_attribute or group_base"),
        ({}, {"group_attribute": None}, "either group_attribute or group_base"),
        ({}, {"user_filter": "(uid=alice)"}, r"user_filter must hold \{name\}"),
        ({}, {"groups": {}}, r"directory\.groups"),
        ({}, {"password": "secret"}, r"directory\.password"),
    ],
)
def test_a_wrong_key_is_named(
    tmp_path: Path, provider: dict[str, Any], directory: dict[str, Any] | None, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason) as wrong:
        read(tmp_path / "people.json", provider, directory)
    assert "secret" not in str(wrong.value).replace("client_secret", "")


def test_the_examples_of_the_documentation_are_such_files(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```json\n")[1:]]
    examples = [json.loads(block) for block in blocks]
    people = [example for example in examples if "provider" in example]
    assert any("directory" in example for example in people)
    for example in people:
        file = tmp_path / "people.json"
        file.write_text(json.dumps(example))
        PeopleSettings.read(file)


def test_a_provider_on_this_machine_needs_no_tls_and_a_directory_can_be_the_only_one_to_know(
    tmp_path: Path,
) -> None:
    settings = read(
        tmp_path / "people.json",
        {"issuer": "http://localhost:8080", "groups_claim": None, "groups": {}},
        {},
    )
    assert settings.directory is not None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "people.json"
    with pytest.raises(ConfigurationError, match=r"cannot read .*people\.json"):
        PeopleSettings.read(file)
    file.write_text("{")
    with pytest.raises(ConfigurationError, match=r"people\.json: file: "):
        PeopleSettings.read(file)
