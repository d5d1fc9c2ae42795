"""Policy groups stay with a session: from the join token through renewals into every token."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from certs.__main__ import main
from certs.ledger import Ledger
from certs.profiles import Profile, person
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from certs.sessions import Session, Sessions, begin
from certs.state import State
from telltale.errors import LimitExceeded, Precondition, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient, JoinToken
from telltale.identity.keys import new_key
from telltale.identity.person import end_session
from tests.support.mesh import Mesh


@dataclass
class Running:
    """The operators' authority, which serves."""

    mesh: Mesh
    client: AuthorityClient

    @property
    def directory(self) -> Path:
        return self.mesh.home.authority("operators")

    async def enrol(self, *groups: str) -> Credentials:
        profile = Profile(self.mesh.spiffe_id("operators", "/alice"))
        token = Ledger(self.directory).grant(profile, groups=groups).token
        return await self.client.enroll(token, new_key())

    async def groups(self, credentials: Credentials) -> list[str]:
        token = await self.client.token(credentials, ["servers.telltale.test"])
        groups = jwt.decode(token.text, options={"verify_signature": False}).get("groups", [])
        assert isinstance(groups, list)
        return groups


def begun(directory: Path, credentials: Credentials, *groups: str) -> Session:
    leaf = credentials.certificates[0]
    with State(directory).transaction() as connection:
        begin(connection, leaf, groups, None)
    session = Sessions(directory).of(leaf)
    assert session is not None
    return session


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    mesh = Mesh.create(tmp_path, "operators", "servers")
    address = AuthorityAddress(
        directory=mesh.home.authority("operators"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    async with serving_authority(address, AuthoritySettings(authorities=(address,))) as (port, enrollment):
        yield Running(mesh, AuthorityClient(mesh.trust, f"127.0.0.1:{port}", f"127.0.0.1:{enrollment}"))


async def test_groups_of_a_join_token_are_in_every_token_and_outlive_renewals(running: Running) -> None:
    first = await running.enrol("responders", "network")
    assert await running.groups(first) == ["network", "responders"]
    second = await running.client.renew(await running.client.renew(first))
    assert await running.groups(second) == ["network", "responders"]
    # A renewal does not take the rights of the certificate before it.
    assert await running.groups(first) == ["network", "responders"]


async def test_who_joins_without_groups_has_none_and_joining_anew_changes_them(running: Running) -> None:
    assert await running.groups(await running.enrol("responders")) == ["responders"]
    assert await running.groups(await running.enrol()) == []


async def test_a_renewed_certificate_ends_with_its_session(running: Running) -> None:
    alice = person(running.mesh.trust_domain("operators"), "alice")
    ends = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    key = new_key()
    authority = running.mesh.authorities["operators"]
    issued = authority.issue(Profile(alice), key.public_key(), ends)
    with State(running.directory).transaction() as connection:
        begin(connection, issued[0], ["responders"], ends)
    first = Credentials(key, issued)
    renewed = await running.client.renew(first)
    assert first.not_after == renewed.not_after == ends
    assert await running.groups(renewed) == ["responders"]


async def test_a_person_without_a_session_gets_neither_certificate_nor_token(running: Running) -> None:
    alice = running.mesh.credentials("operators", "/person/alice")
    for asked in (running.client.renew(alice), running.client.token(alice, ["servers.telltale.test"])):
        with pytest.raises(Unauthenticated, match="log in again with `telltale login`"):
            await asked


async def test_only_a_person_ends_a_session(running: Running) -> None:
    with pytest.raises(Precondition, match="has not logged in"):
        await end_session(running.mesh.trust, running.client._authority, await running.enrol("responders"))


def test_nothing_is_issued_once_a_session_has_ended(tmp_path: Path) -> None:
    authority = Mesh.create(tmp_path, "operators").authorities["operators"]
    profile = Profile(person(authority.trust_domain, "alice"))
    with pytest.raises(Unauthenticated, match="has ended; log in again"):
        authority.issue(profile, new_key().public_key(), datetime.now(UTC) - timedelta(seconds=1))


def test_a_persons_identity_is_had_by_no_join_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Mesh.create(tmp_path, "operators")
    words = ["join-token", "--home", str(tmp_path), "--domain", "operators", "--path", "/person/alice"]
    assert main(words) == 1
    assert "is a person's, who logs in" in capsys.readouterr().err


async def test_a_renewal_beside_a_logout_leaves_nothing_that_gets_tokens(running: Running) -> None:
    alice = person(running.mesh.trust_domain("operators"), "alice")
    ends = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    key = new_key()
    first = Credentials(
        key, running.mesh.authorities["operators"].issue(Profile(alice), key.public_key(), ends)
    )
    with State(running.directory).transaction() as connection:
        begin(connection, first.certificates[0], ["responders"], ends)
    renewed: list[Credentials] = []
    begun_to_renew = asyncio.Event()

    async def renew_for_ever() -> None:
        with pytest.raises((Unauthenticated, LimitExceeded)):
            while True:
                renewed.append(await running.client.renew(first))
                begun_to_renew.set()

    renewing = [asyncio.create_task(renew_for_ever()) for _ in range(8)]
    await begun_to_renew.wait()
    await end_session(running.mesh.trust, running.client._authority, first)
    await asyncio.gather(*renewing)
    for each in renewed:
        with pytest.raises(Unauthenticated, match="there is no session"):
            await running.groups(each)


def test_a_session_that_ended_between_its_reading_and_the_next_certificate_stays_ended(
    tmp_path: Path,
) -> None:
    mesh = Mesh.create(tmp_path, "operators")
    directory = mesh.home.authority("operators")
    sessions = Sessions(directory)
    session = begun(directory, mesh.credentials("operators", "/alice"), "responders")
    late = mesh.credentials("operators", "/alice").certificates[0]
    sessions.end(session)
    with pytest.raises(Unauthenticated, match="this session has ended"):
        sessions.follow(session, late)
    assert sessions.of(late) is None


def test_the_certificates_of_one_session_are_bounded(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path, "operators")
    directory = mesh.home.authority("operators")
    sessions = Sessions(directory)
    session = begun(directory, mesh.credentials("operators", "/alice"), "responders")
    leaves = (mesh.credentials("operators", "/alice").certificates[0] for _ in range(1000))
    with pytest.raises(LimitExceeded, match="this session has 200 certificates"):
        for leaf in leaves:
            sessions.follow(session, leaf)


def test_what_has_expired_is_forgotten(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path, "operators", leaf_life=timedelta(seconds=1))
    directory = mesh.home.authority("operators")
    sessions = Sessions(directory)
    brief = mesh.credentials("operators", "/alice")
    begun(directory, brief, "responders")
    while time.time() <= brief.not_after.timestamp():
        time.sleep(0.05)
    begun(directory, mesh.credentials("operators", "/bob"))
    assert sessions.of(brief.certificates[0]) is None


def test_the_program_makes_join_tokens_with_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh.create(tmp_path, "operators")
    home = ["--home", str(tmp_path)]
    where = [*home, "--domain", "operators", "--path", "/alice"]
    assert main(["join-token", *where, "--json", "--group", "a", "--group", "b"]) == 0
    single = json.loads(capsys.readouterr().out)["token"]
    monkeypatch.setattr("sys.stdin", io.StringIO("operators /alice +a +b\n"))
    assert main(["join-tokens", *home]) == 0
    several = capsys.readouterr().out.strip()
    directory = mesh.home.authority("operators")
    authority = mesh.authorities["operators"]
    for token in (single, several):
        assert JoinToken.parse(token).spiffe_id.path == "/alice"
        key = new_key().public_key()
        redeemed = Ledger(directory).redeem(
            token, bytes(32), lambda profile, key=key: authority.issue(profile, key)
        )
        leaf, _ = redeemed.certificates
        session = Sessions(directory).of(leaf)
        assert session is not None
        assert session.groups == ("a", "b")
    assert main(["join-token", *where, "--group", "No Group"]) == 1
    assert "is no group" in capsys.readouterr().err


def test_more_groups_than_a_token_carries_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Mesh.create(tmp_path, "operators")
    groups = [word for number in range(33) for word in ("--group", f"g{number}")]
    where = ["--home", str(tmp_path), "--domain", "operators", "--path", "/alice"]
    assert main(["join-token", *where, *groups]) == 1
    assert "32 are the most" in capsys.readouterr().err
