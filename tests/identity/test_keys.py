"""Secrets on disk, credentials, and join tokens as text."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltale.errors import ConfigurationError, InvalidInput, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import backoff
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import key_pem, load_key, new_key, write_secret
from tests.support.mesh import Mesh


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Mesh.create(tmp_path, "servers").credentials("servers", "/agent/web1")


def test_a_secret_is_replaced_whole_and_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    for content in (b"one", b"two"):
        write_secret(path, content)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_credentials_survive_the_disk(tmp_path: Path, credentials: Credentials) -> None:
    assert Credentials.load(tmp_path / "me") is None
    credentials.save(tmp_path / "me")
    loaded = Credentials.load(tmp_path / "me")
    assert loaded is not None
    assert loaded.certificates == credentials.certificates
    assert key_pem(loaded.key) == key_pem(credentials.key)
    assert loaded.thumbprint == credentials.thumbprint


@pytest.mark.parametrize("content", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_damaged_credentials_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"identity\.pem"):
        Credentials.load(tmp_path)
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigurationError, match="key"):
        load_key(tmp_path / "key")


def test_a_key_and_anothers_certificate_are_no_credentials(credentials: Credentials) -> None:
    with pytest.raises(ConfigurationError, match="belongs to another key"):
        Credentials(new_key(), credentials.certificates)


def test_a_certificate_says_itself_why_it_cannot_be_used(credentials: Credentials) -> None:
    credentials.check()
    with pytest.raises(Unauthenticated, match=r"spiffe://servers.telltale.test/agent/web1 expired at"):
        credentials.check(datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(Unauthenticated, match="set the clock"):
        credentials.check(datetime.now(UTC) - timedelta(days=2))


def test_a_join_token_is_read_back_and_never_shown() -> None:
    text = "join-c2VjcmV0@servers.telltale.test/agent/web1"
    token = JoinToken.parse(f"{text}\n")
    assert str(token) == text
    assert "c2VjcmV0" not in repr(token)
    for broken in ("", "c2VjcmV0", "join-x", "join-x@", "join-x@servers.telltale.test", "x@a.b/c"):
        with pytest.raises(InvalidInput) as refused:
            JoinToken.parse(broken)
        assert "c2VjcmV0" not in str(refused.value)


@given(attempt=st.integers(0, 10_000))
def test_pauses_are_bounded(attempt: int) -> None:
    assert 0 < backoff(attempt) <= 15
