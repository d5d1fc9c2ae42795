"""Groups from a real LDAP server, and every way in which it lets nobody in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certs.people.directory import Directory, canonical
from certs.people.settings import DirectorySettings
from telltale.errors import ConfigurationError, Unauthenticated, Unavailable
from tests.certs.people.test_logins import authority
from tests.support.domain import free_port
from tests.support.provider import serving as serving_provider
from tests.support.slapd import GROUPS, PEOPLE, READER, authority_certificate, serving
from tests.support.slapd import Directory as Served

TABLE = {f"cn=mesh,{GROUPS}": "responders", f"CN=Net, {GROUPS.upper()}": "network"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as directory:
        alice, bob, carol = (directory.add_person(name) for name in ("alice", "bob", "carol"))
        directory.add_person("star*(x)\\\\")
        directory.add_group("mesh", alice, bob)
        directory.add_group("net", alice)
        directory.add_group("everybody", alice, bob, carol)
        directory.add(
            f"dn: ou=visitors,{PEOPLE}\nobjectClass: organizationalUnit\nou: visitors\n\n"
            f"dn: uid=bob,ou=visitors,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: bob\ncn: bob\nsn: bob\n"
        )
        yield directory


def settings(served: Served, **changed: Any) -> DirectorySettings:
    wanted = {
        "url": served.ldaps,
        "ca": served.ca,
        "bind_dn": READER,
        "password_file": served.password_file,
        "base": PEOPLE,
        "group_attribute": "memberOf",
        "groups": TABLE,
        **changed,
    }
    return DirectorySettings(**wanted)


SEARCHED = {"group_attribute": None, "group_base": GROUPS}


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
@pytest.mark.parametrize("way", [{}, SEARCHED], ids=["attribute", "search"])
async def test_groups_that_the_table_names_are_found_both_ways_over_tls(
    served: Served, scheme: str, way: dict[str, Any]
) -> None:
    directory = Directory(settings(served, url=getattr(served, scheme), **way))
    assert await directory.groups("alice") == {"responders", "network"}
    assert await directory.groups("carol") == set()


@pytest.mark.parametrize(
    "name", ["*", "*)(uid=*", "alice)(|(uid=*", "a*", "nobody", "alice\x00", "\\2a", "uid=alice"]
)
async def test_a_name_is_no_filter(served: Served, name: str) -> None:
    for way in ({}, SEARCHED):
        with pytest.raises(Unauthenticated, match="knows nobody of the name"):
            await Directory(settings(served, **way)).groups(name)


async def test_a_person_whose_name_looks_like_a_filter_is_found_as_what_it_is(served: Served) -> None:
    name = "star*(x)\\"
    dn = f"uid=star*(x)\\\\,{PEOPLE}"
    served.add_group("odd", dn)
    table = {f"cn=odd,{GROUPS}": "network"}
    for way in ({}, SEARCHED):
        assert await Directory(settings(served, groups=table, **way)).groups(name) == {"network"}


async def test_two_people_of_one_name_are_nobody(served: Served) -> None:
    with pytest.raises(Unauthenticated, match="knows several people"):
        await Directory(settings(served)).groups("bob")


async def test_a_wrong_password_lets_nobody_in_and_is_not_told(served: Served, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("hunter2")
    with pytest.raises(Unavailable, match="the directory refuses cn=telltale") as refused:
        await Directory(settings(served, password_file=wrong)).groups("alice")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
async def test_a_directory_that_another_authority_vouches_for_gets_no_password(
    served: Served, tmp_path: Path, scheme: str
) -> None:
    other = authority_certificate(tmp_path)
    with pytest.raises(Unavailable, match=r"does not answer as it should .*certificate"):
        await Directory(settings(served, url=getattr(served, scheme), ca=other)).groups("alice")


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
async def test_a_directory_of_another_name_gets_no_password(served: Served, scheme: str) -> None:
    url = getattr(served, scheme).replace("127.0.0.1", "localhost")
    with pytest.raises(Unavailable, match=r"does not answer as it should .*(match|certificate)"):
        await Directory(settings(served, url=url)).groups("alice")


async def test_a_directory_that_is_not_there_lets_nobody_in(served: Served) -> None:
    url = f"ldaps://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="nobody logs in without it"):
        await Directory(settings(served, url=url)).groups("alice")


async def test_a_base_that_is_not_there_lets_nobody_in(served: Served) -> None:
    with pytest.raises(Unavailable, match="does not answer as it should"):
        await Directory(settings(served, base="ou=nothing,dc=example,dc=org")).groups("alice")


def test_files_that_are_missing_or_empty_are_named_at_the_start(served: Served, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for changed, reason in (
        ({"password_file": tmp_path / "none"}, "cannot read the directory's password"),
        ({"password_file": empty}, "password file .* is empty"),
        ({"ca": tmp_path / "none"}, "cannot read the directory's certificates"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            Directory(settings(served, **changed))


def test_distinguished_names_compare_without_regard_to_case_and_spaces() -> None:
    assert canonical("CN=Net, OU=Groups,dc=Example,DC=org") == canonical("cn=net,ou=groups,dc=example,dc=org")
    assert canonical("cn=a\\,ou=b,dc=org") != canonical("cn=a,ou=b,dc=org")
    assert canonical("no distinguished name") == "no distinguished name"


async def test_a_login_takes_groups_from_the_claim_and_from_the_directory(
    served: Served, tmp_path: Path
) -> None:
    with serving_provider() as provider:
        wanted = json.loads(settings(served, groups={f"cn=net,{GROUPS}": "network"}).model_dump_json())
        async with authority(tmp_path, provider, directory=wanted) as running:
            assert (await running.login()).groups == ("network", "responders")
            assert (await running.login(groups=[])).groups == ("network",)
            reason = await running.refused_with(preferred_username="carol", sub="u-3", groups=[])
            assert "in no group that this mesh knows" in reason
            reason = await running.refused_with(preferred_username="*)(uid=*", sub="u-4")
            assert "knows nobody of the name" in reason


async def test_a_login_without_an_answer_of_the_directory_is_refused_whatever_the_claim_says(
    served: Served, tmp_path: Path
) -> None:
    wanted = json.loads(settings(served, url=f"ldaps://127.0.0.1:{free_port()}").model_dump_json())
    with serving_provider() as provider:
        async with authority(tmp_path, provider, directory=wanted) as running:
            with pytest.raises(Unavailable, match="nobody logs in without it"):
                await running.login()
    assert [decision.allowed for decision in running.heard.decisions] == [False]
