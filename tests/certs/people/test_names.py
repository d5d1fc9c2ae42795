"""Names of people as parts of SPIFFE paths."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.people.names import path_name
from certs.profiles import is_person, person
from telltale.errors import Unauthenticated


def decoded(name: str) -> str:
    """What `path_name` has encoded."""

    def byte(found: re.Match[bytes]) -> bytes:
        return b"_" if found[1] == b"_" else bytes.fromhex(found[1].decode())

    return re.sub(rb"_(_|[0-9a-f]{2})", byte, name.encode()).decode()


@given(st.text(min_size=1, max_size=30))
def test_a_name_can_be_told_from_its_identity_so_no_two_share_one(name: str) -> None:
    try:
        encoded = path_name(name)
    except Unauthenticated:
        assert not name.isprintable() or name != name.strip() or len(name.encode()) * 3 > 128
        return
    assert decoded(encoded) == name
    spiffe_id = person("operators.telltale.test", encoded)
    assert is_person(spiffe_id)
    assert spiffe_id.path.count("/") == 2


def test_common_names_stay_readable() -> None:
    assert path_name("anna-maria.smith") == "anna-maria.smith"
    assert path_name("anna.smith@example.org") == "anna.smith_40example.org"
    assert path_name("anna_smith") == "anna__smith"


@pytest.mark.parametrize("name", ["", " ", " alice", "alice\x00", "ali\u202ece", "\ud800", "a" * 129])
def test_a_name_that_nobody_should_have_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated):
        path_name(name)
