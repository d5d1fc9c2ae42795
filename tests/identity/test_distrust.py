"""Whom a process believes once its mesh has spoken: intervals, signatures, lists that come late or twice."""

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.profiles import Profile
from telltale.api.mesh.v1.authority_pb2 import DistrustEntries, SignedDistrustList
from telltale.errors import ConfigurationError, InvalidInput, LimitExceeded, Unauthenticated, Unavailable
from telltale.identity.distrust import Distrust, DistrustList, Entry
from telltale.identity.distrust_lists import (
    MOST_ENTRIES,
    TYPE,
    entry_of,
    keep_list,
    load_lists,
    make_list,
    message_of,
    moment,
    oldest,
    read_list,
)
from telltale.identity.keys import new_key
from telltale.identity.tokens import TokenVerifier
from telltale.naming import SpiffeId
from tests.support.mesh import Mesh
from tests.support.words import as_sent, lift, say, signed_list, word

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
WEB1 = SpiffeId("servers.telltale.test", "/agent/web1")
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 -- of hypothesis


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", "servers", "platform")


def only(*entries: Entry) -> Distrust:
    distrust = Distrust()
    distrust.take(DistrustList("servers.telltale.test", 1, START, entries, "", b""))
    return distrust


@given(since=moments, at=moments, issued=moments)
def test_what_is_said_from_since_on_is_not_believed_while_the_word_holds(
    since: datetime, at: datetime, issued: datetime
) -> None:
    distrust = only(word(WEB1, since))
    assert (distrust.at(WEB1, at, issued) is not None) == (since <= at)
    with pytest.raises(Unauthenticated):
        distrust.require(WEB1, issued)
    assert distrust.name(WEB1) is not None


@given(since=moments, until=moments, at=moments, issued=moments)
def test_after_the_lift_only_what_was_issued_since_is_believed(
    since: datetime, until: datetime, at: datetime, issued: datetime
) -> None:
    distrust = only(word(WEB1, since, until))
    covered = distrust.at(WEB1, at, issued) is not None
    if issued < until:
        assert covered == (since <= at)
        with pytest.raises(Unauthenticated, match="for new keys only"):
            distrust.require(WEB1, issued)
    else:
        assert covered == (since <= at < until)
        distrust.require(WEB1, issued)
    assert distrust.name(WEB1) is None
    assert distrust.lifted(WEB1) == until


@given(entries=st.lists(st.tuples(moments, st.none() | moments), max_size=5), at=moments, issued=moments)
def test_words_on_one_identity_add_up_and_those_on_others_do_not(
    entries: list[tuple[datetime, datetime | None]], at: datetime, issued: datetime
) -> None:
    words = [word(WEB1, since, until) for since, until in entries]
    distrust = only(*words, word(SpiffeId("servers.telltale.test", "/agent/web2")))
    assert (distrust.at(WEB1, at, issued) is not None) == any(one.covers(at, issued) for one in words)


@given(entry=st.builds(word, st.just(WEB1), moments, st.none() | moments, issued=moments))
def test_an_entry_travels_as_it_is(entry: Entry) -> None:
    assert entry_of(message_of(entry)) == entry


def test_a_signed_list_is_taken_and_an_older_one_is_not(mesh: Mesh) -> None:
    trust = mesh.trust
    first, second = signed_list(mesh, "servers", 1), signed_list(mesh, "servers", 2, word(WEB1))
    heard = read_list(as_sent(second), trust)
    assert heard is not None and trust.distrust.take(heard)
    # A relay that serves yesterday's list, whenever it was signed.
    assert read_list(as_sent(first), trust) is None
    assert not trust.distrust.take(replace(first, signed=first.signed + timedelta(days=1)))
    assert trust.distrust.name(WEB1) is not None


def test_the_same_words_signed_anew_are_younger_and_change_nothing(mesh: Mesh) -> None:
    trust = mesh.trust
    made = signed_list(mesh, "servers", 1, word(WEB1))
    trust.distrust.take(replace(made, signed=made.signed - timedelta(seconds=100)))
    assert trust.distrust.lists[0].age >= 100
    with trust.distrust.listening() as changed, trust.distrust.listening(of_all=True) as heard:
        assert trust.distrust.take(made)
        assert heard.is_set() and not changed.is_set()
        trust.distrust.take(signed_list(mesh, "servers", 2))
        assert changed.is_set()
    assert trust.distrust.lists[0].age < 100


def test_entries_that_were_left_out_are_those_that_are_known(mesh: Mesh) -> None:
    trust = mesh.trust
    made = signed_list(mesh, "servers", 1, word(WEB1))
    bare = SignedDistrustList(statement=made.statement)
    with pytest.raises(Unavailable, match="left out"):
        read_list(bare, trust)
    trust.distrust.take(replace(made, signed=made.signed - timedelta(seconds=100)))
    heard = read_list(bare, trust)
    assert heard is not None and heard.entries == made.entries


def test_a_list_of_another_signer_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    trust = mesh.trust
    # The platform's authority speaks in the servers' name; so does an authority of another mesh.
    platform = mesh.authorities["platform"]
    forged = make_list("servers.telltale.test", 7, [word(WEB1)], platform.sign)
    with pytest.raises(Unauthenticated, match="not one of servers"):
        read_list(as_sent(forged), trust)
    stranger = Mesh.create(tmp_path / "other", "servers")
    with pytest.raises(Unauthenticated, match="not one of servers"):
        read_list(as_sent(signed_list(stranger, "servers", 7, word(WEB1))), trust)
    # The key's name is free for anybody to write, the signature is not.
    key_id = mesh.authorities["servers"]._token_key_id
    claims = {"iss": "servers.telltale.test", "iat": 1, "seq": 7, "entries_sha256": ""}
    statement = jwt.encode(
        claims, platform._token_key, algorithm="ES256", headers={"kid": key_id, "typ": TYPE}
    )
    with pytest.raises(Unauthenticated, match="does not hold"):
        read_list(SignedDistrustList(statement=statement, entries=b""), trust)


def test_an_authority_speaks_of_its_own_trust_domain_alone(mesh: Mesh) -> None:
    made = make_list("platform.telltale.test", 1, [word(WEB1)], mesh.authorities["platform"].sign)
    with pytest.raises(Unauthenticated, match="another trust domain"):
        read_list(as_sent(made), mesh.trust)


def test_other_entries_than_those_signed_are_refused(mesh: Mesh) -> None:
    made = signed_list(mesh, "servers", 1, word(WEB1))
    changed = as_sent(made)
    changed.entries = DistrustEntries().SerializeToString()
    with pytest.raises(Unauthenticated, match="not those"):
        read_list(changed, mesh.trust)


async def test_a_token_is_no_list_and_a_list_no_token(mesh: Mesh) -> None:
    me = mesh.workload("servers", "/agent/web1")
    token = await me.token("servers.telltale.test")
    with pytest.raises(Unauthenticated, match="no list of distrust"):
        read_list(SignedDistrustList(statement=token, entries=b""), mesh.trust)
    verifier = TokenVerifier(mesh.trust, "servers.telltale.test")
    with pytest.raises(Unauthenticated):
        verifier.verify(signed_list(mesh, "servers", 1).statement, None)
    # Even one that says all that a token says, signed by the right key.
    claims = jwt.decode(token, options={"verify_signature": False})
    with pytest.raises(Unauthenticated, match="no token"):
        verifier.verify(mesh.authorities["servers"].sign(claims, TYPE), None)


@pytest.mark.parametrize("seq", [-1, 1 << 63, "many", None])
def test_a_list_without_a_sequence_is_refused(mesh: Mesh, seq: object) -> None:
    made = signed_list(mesh, "servers", 1)
    claims = {**jwt.decode(made.statement, options={"verify_signature": False}), "seq": seq}
    statement = mesh.authorities["servers"].sign(claims, TYPE)
    with pytest.raises(Unauthenticated):
        read_list(SignedDistrustList(statement=statement, entries=made.encoded), mesh.trust)


@pytest.mark.parametrize("statement", ["", "x", "a.b.c", "x" * 5_000, "\udcff", "{}.{}.{}"])
def test_rubbish_is_refused(mesh: Mesh, statement: str) -> None:
    sent = SignedDistrustList(statement=statement.encode("utf-8", "replace").decode(), entries=b"")
    with pytest.raises(Unauthenticated):
        read_list(sent, mesh.trust)


def test_a_list_is_bounded(mesh: Mesh) -> None:
    entries = [word(SpiffeId("servers.telltale.test", f"/agent/web{n}")) for n in range(MOST_ENTRIES)]
    made = signed_list(mesh, "servers", 1, *entries)
    heard = read_list(as_sent(made), mesh.trust)
    assert heard is not None and len(heard.entries) == MOST_ENTRIES
    with pytest.raises(LimitExceeded):
        signed_list(mesh, "servers", 1, *entries, word(WEB1))


def test_what_was_heard_outlives_a_restart_and_cannot_be_rolled_back_then(mesh: Mesh, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first, second = signed_list(mesh, "servers", 1), signed_list(mesh, "servers", 2, word(WEB1))
    keep_list(state, first)
    keep_list(state, second)
    (kept,) = (state / "distrust").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    trust = mesh.trust
    load_lists(state, trust)
    assert trust.distrust.name(WEB1) is not None
    assert read_list(as_sent(first), trust) is None


def test_a_damaged_list_stops_the_start_instead_of_being_forgotten(mesh: Mesh, tmp_path: Path) -> None:
    keep_list(tmp_path, signed_list(mesh, "servers", 2, word(WEB1)))
    (kept,) = (tmp_path / "distrust").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    with pytest.raises(ConfigurationError, match="remove it"):
        load_lists(tmp_path, mesh.trust)


def test_a_peer_and_its_tokens_are_believed_until_the_word_and_not_after(mesh: Mesh) -> None:
    trust = mesh.trust
    leaf, *issuers = mesh.credentials("servers", "/agent/web1").certificates
    assert trust.identify_peer(leaf, issuers) == WEB1
    say(trust, mesh, word(WEB1))
    with pytest.raises(Unauthenticated, match=r"is distrusted since .*\(stolen\).*--lift"):
        trust.identify_peer(leaf, issuers)
    # Who it is remains known: what it sealed before is another question.
    assert trust.identify(leaf, issuers, datetime.now(UTC)) == WEB1
    lift(trust, mesh, WEB1)
    with pytest.raises(Unauthenticated, match="for new keys only"):
        trust.identify_peer(leaf, issuers)


async def test_a_token_that_was_verified_before_is_refused_after_the_word(mesh: Mesh) -> None:
    trust, me = mesh.trust, mesh.workload("servers", "/agent/web1")
    verifier = TokenVerifier(trust, "servers.telltale.test")
    token = await me.token("servers.telltale.test")
    for thumbprint in (me.credentials.thumbprint, None):
        assert verifier.verify(token, thumbprint).subject == WEB1
    say(trust, mesh, word(WEB1))
    for thumbprint in (me.credentials.thumbprint, None):
        with pytest.raises(Unauthenticated, match="is distrusted since"):
            verifier.verify(token, thumbprint)


def test_a_leaf_of_the_lift_is_believed(mesh: Mesh) -> None:
    trust = mesh.trust
    lifted_at = datetime.now(UTC).replace(microsecond=0)
    say(trust, mesh, word(WEB1, until=lifted_at))
    authority = mesh.authorities["servers"]
    # Backdated as ever, it would look like one of before.
    leaf, issuer = authority.issue(Profile(WEB1), new_key().public_key())
    with pytest.raises(Unauthenticated):
        trust.identify_peer(leaf, [issuer])
    say(authority.trust, mesh, word(WEB1, until=lifted_at))
    leaf, issuer = authority.issue(Profile(WEB1), new_key().public_key())
    assert trust.identify_peer(leaf, [issuer]) == WEB1


async def test_an_authority_issues_nothing_to_whom_it_distrusts(mesh: Mesh) -> None:
    authority, me = mesh.authorities["servers"], mesh.workload("servers", "/agent/web1")
    say(authority.trust, mesh, word(WEB1))
    with pytest.raises(Unauthenticated, match="nothing is issued"):
        authority.issue(Profile(WEB1), new_key().public_key())
    with pytest.raises(Unauthenticated, match="nothing is issued"):
        await me.token("servers.telltale.test")


def test_the_oldest_list_is_the_one_to_worry_about(mesh: Mesh) -> None:
    trust = mesh.trust
    assert oldest(trust.distrust) is None
    trust.distrust.take(signed_list(mesh, "servers", 0))
    late = signed_list(mesh, "platform", 0)
    trust.distrust.take(replace(late, signed=late.signed - timedelta(hours=1)))
    found = oldest(trust.distrust)
    assert found is not None and found.issuer == "platform.telltale.test"


def test_a_time_is_read_as_people_write_it() -> None:
    assert moment("2026-01-02T03:04:05Z") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert moment("2026-01-02T03:04:05+02:00") == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    for text, seconds in (("90s", 90), ("45m", 2_700), ("2h", 7_200), ("1.5h", 5_400), ("7d", 604_800)):
        span, before = timedelta(seconds=seconds), datetime.now(UTC)
        assert before - span <= moment(text) <= datetime.now(UTC) - span


@pytest.mark.parametrize(
    "text", ["", "soon", "2h ago", "-2h", "2026-01-02", "2026-01-02T03:04:05", "9e9d", "999999999d"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no time"):
        moment(text)


def test_a_time_that_lies_ahead_is_refused() -> None:
    with pytest.raises(InvalidInput, match="lies ahead"):
        moment("2999-01-01T00:00:00Z")


def test_a_statement_says_nothing_but_the_list(mesh: Mesh) -> None:
    made = signed_list(mesh, "servers", 3, word(WEB1))
    claims = jwt.decode(made.statement, options={"verify_signature": False})
    assert set(claims) == {"iss", "iat", "seq", "entries_sha256"}
    assert jwt.get_unverified_header(made.statement)["typ"] == TYPE
    assert len(json.dumps(claims)) < 300
