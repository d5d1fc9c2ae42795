"""A copied key is noticed where certificates are renewed and tokens issued; no honest holder is suspected."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certs import lineage
from certs.ledger import Ledger
from certs.lineage import OVERLAP, Lineage
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from certs.state import STATE
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient
from telltale.identity.keys import new_key
from tests.support.auditing import Recorded
from tests.support.mesh import Mesh

AUDIENCES = ["servers.telltale.test"]
LONG = OVERLAP.total_seconds() + 1


@cache
def mesh() -> Mesh:
    """One for all examples."""
    return Mesh.create(Path(mkdtemp(prefix="telltale-lineage-")), "servers", "platform")


@dataclass
class Authority:
    """Issues and remembers as the service does, at whatever time a test says it is."""

    lineage: Lineage
    now: float = 2_000_000_000.0
    dns: tuple[str, ...] = ()
    found: list[bool] = field(default_factory=list)

    def enrol(self) -> x509.Certificate:
        return mesh().credentials("servers", "/agent/web1", self.dns).leaf

    def use(self, leaf: x509.Certificate, later: float = LONG) -> bool:
        self.now += later
        self.found.append(self.lineage.use(leaf, self.now))
        return self.found[-1]

    def renew(self, leaf: x509.Certificate, later: float = LONG) -> x509.Certificate:
        self.use(leaf, later)
        issued = mesh().credentials("servers", "/agent/web1", self.dns)
        self.lineage.follow(leaf, issued.certificates[0])
        return issued.leaf


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(Lineage(tmp_path))


def test_a_copy_that_asks_for_tokens_after_its_owner_went_on_is_found(authority: Authority) -> None:
    old = authority.enrol()
    new = authority.renew(old)
    assert not authority.use(new)
    # So far it may be a host that came back from a copy.
    assert not authority.use(old)
    assert authority.use(new)
    assert authority.use(old)


def test_a_copy_that_renews_before_its_owner_does_is_found(authority: Authority) -> None:
    old = authority.enrol()
    stolen = authority.renew(old)
    assert not authority.use(stolen)
    assert not authority.use(old)
    own = authority.renew(old)
    assert not authority.use(own)
    assert authority.use(authority.renew(stolen)) or authority.found[-2]
    assert authority.use(own)


def test_a_host_that_enrolled_again_and_whose_former_key_goes_on_is_found(authority: Authority) -> None:
    old, new = authority.enrol(), authority.enrol()
    assert [authority.use(one) for one in (old, new, old)] == [False, False, False]
    assert authority.use(new)


def test_replicas_of_a_service_that_enrolled_each_for_itself_are_two_and_may_be(authority: Authority) -> None:
    authority.dns = ("service.servers.telltale.test",)
    one, two = authority.enrol(), authority.enrol()
    for _ in range(3):
        one, two = authority.renew(one), authority.renew(two)
    assert not any(authority.found)
    # A copy of one of them is found all the same.
    copy, one = one, authority.renew(one)
    for each in (one, copy):
        authority.use(each)
    assert authority.use(one)


# Each example commits to a disk some dozens of times.
FEWER = settings(max_examples=settings.default.max_examples // 4)
# What befalls an honest holder, each with how long it waits before.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["token", "renew", "lost", "unsaved", "rejoin", "in flight"]),
        st.sampled_from([0.0, 1.0, 30.0, 3_600.0]),
    ),
    max_size=12,
)


@FEWER
@given(STEPS)
# The certificate of a renewal is used for the first time when that of a new enrolment is in use already.
@example([("renew", 0.0), ("rejoin", 0.0), ("in flight", 0.0), ("token", 3_600.0)])
def test_no_honest_holder_is_suspected(steps: list[tuple[str, float]]) -> None:
    one = Authority(Lineage(Path(mkdtemp(prefix="telltale-lineage-"))))
    held = one.enrol()
    before, swapped = held, one.now
    for step, later in steps:
        if step == "renew":
            before, held, swapped = held, one.renew(held, later), one.now
        elif step in ("lost", "unsaved"):
            # The answer never came, or the disk was full: the holder goes on with what it has.
            one.renew(held, later)
        elif step == "rejoin":
            before, held, swapped = held, one.enrol(), one.now
        elif step == "token":
            one.use(held, later)
        elif one.now - swapped < 30:
            # Sent before the next certificate was there, and answered after it was used.
            one.use(held, 0.0)
            one.use(before, 1.0)
    assert not any(one.found)


@FEWER
@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4))
def test_a_host_that_came_back_from_a_copy_and_went_on_is_not_suspected(
    before: int, lost: int, after: int
) -> None:
    one = Authority(Lineage(Path(mkdtemp(prefix="telltale-lineage-"))))
    kept = one.enrol()
    for _ in range(before):
        kept = one.renew(kept)
    gone = kept
    for _ in range(lost):
        gone = one.renew(gone)
        one.use(gone)
    for _ in range(after):
        kept = one.renew(kept)
        one.use(kept)
    assert not any(one.found)


def test_of_very_many_certificates_those_are_kept_that_were_used(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lineage, "_MOST_OF_A_LINE", 5)
    old = authority.enrol()
    new = authority.renew(old)
    authority.use(new)
    for _ in range(20):
        authority.renew(new)
    with closing(sqlite3.connect(tmp_path / STATE)) as state:
        assert state.execute("SELECT count(*) FROM certificate_lineage").fetchone()[0] <= 6
    authority.use(old)
    assert authority.use(new)


def test_copies_of_brief_certificates_are_found(authority: Authority, tmp_path: Path) -> None:
    brief = Mesh.create(tmp_path / "brief", "servers", leaf_life=timedelta(seconds=30))
    old, new = (brief.credentials("servers", "/agent/web1").leaf for _ in range(2))
    authority.use(old)
    authority.lineage.follow(old, new.public_bytes(Encoding.DER))
    # By turns, all of them while both hold; and what was on its way when the holder went on.
    assert [authority.use(one, 1) for one in (new, old, new)] == [False, False, False]
    assert [authority.use(one, 10) for one in (old, new)] == [False, True]


def test_a_line_remembers_few_however_often_it_is_renewed(authority: Authority, tmp_path: Path) -> None:
    held = authority.enrol()
    for _ in range(60):
        held = authority.renew(held)
    with closing(sqlite3.connect(tmp_path / STATE)) as state:
        assert state.execute("SELECT count(*) FROM certificate_lineage").fetchone()[0] <= 51
    assert not any(authority.found)


def test_expired_certificates_are_forgotten(authority: Authority, tmp_path: Path) -> None:
    held = authority.enrol()
    for _ in range(3):
        held = authority.renew(held)
    with closing(sqlite3.connect(tmp_path / STATE)) as state:
        state.execute("UPDATE certificate_lineage SET expire_time = 1")
        state.commit()
        held = authority.renew(held)
        assert state.execute("SELECT count(*) FROM certificate_lineage").fetchone()[0] == 1
    assert not authority.use(held)


@dataclass
class Running:
    """An authority that serves."""

    mesh: Mesh
    domain: str
    client: AuthorityClient
    recorded: Recorded

    async def enrol(self, path: str) -> Credentials:
        profile = Profile(self.mesh.spiffe_id(self.domain, path))
        token = Ledger(self.mesh.home.authority(self.domain)).grant(profile).token
        return await self.client.enroll(token, new_key())


@pytest.fixture(params=["servers", "operators"])
async def running(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    monkeypatch.setattr(lineage, "OVERLAP", timedelta(0))
    made = Mesh.create(tmp_path, "servers", "operators")
    address = AuthorityAddress(
        directory=made.home.authority(request.param), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    recorded, settings = Recorded(), AuthoritySettings(authorities=(address,))
    async with serving_authority(address, settings, auditor=recorded) as (port, enrollment):
        client = AuthorityClient(made.trust, f"127.0.0.1:{port}", f"127.0.0.1:{enrollment}")
        yield Running(made, request.param, client, recorded)


async def test_turns_are_recorded_on_the_wire_and_nobody_is_refused(running: Running) -> None:
    owner = copy = await running.enrol("/agent/web1" if running.domain == "servers" else "/alice")
    for _ in range(2):
        owner = await running.client.renew(owner)
        await running.client.token(owner, AUDIENCES)
        await running.client.token(copy, AUDIENCES)
    told = running.recorded.of("use_superseded")
    if running.domain == "operators":
        # A person's programs share one identity.
        assert not told
        return
    assert {(one.allowed, one.subject, one.peer) for one in told} == {
        (True, str(owner.spiffe_id), str(owner.spiffe_id))
    }
    assert len(told) == 2 and all("distrust it" in one.reason for one in told)
