"""Lists of distrust as they travel: signed by their authority, read by everybody, kept on disk.

The list and the statement that signs it are apart: the statement is small and is made anew all the time,
so that its age shows a list that is withheld, and the list goes over a wire once.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from telltale.api.mesh.v1.authority_pb2 import DistrustEntries, DistrustEntry, SignedDistrustList
from telltale.errors import ConfigurationError, InvalidInput, LimitExceeded, Unauthenticated, Unavailable
from telltale.identity.distrust import Distrust, DistrustList, Entry
from telltale.identity.keys import thumbprint as sha256
from telltale.identity.keys import write_secret
from telltale.identity.tokens import ALGORITHM, UNREADABLE
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId

# No token has this type, and a list must have it: neither passes for the other.
TYPE = "telltale-distrust+jwt"
MOST_ENTRIES = 2_000
LONGEST_REASON = 200
_MOST_BYTES = 2 << 20
_LONGEST_STATEMENT = 2 << 10
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DIRECTORY = "distrust"
_SUFFIX = ".binpb"

# Signs claims as a JWS of this type.
Sign = Callable[[dict[str, Any], str], str]


def make_list(issuer: str, sequence: int, entries: Sequence[Entry], sign: Sign) -> DistrustList:
    """A trust domain's list, signed now. Raises LimitExceeded when it would be too long to be read."""
    if len(entries) > MOST_ENTRIES:
        raise LimitExceeded("distrust_entries", f"a list holds at most {MOST_ENTRIES} words of distrust")
    encoded = DistrustEntries(entries=[message_of(entry) for entry in entries]).SerializeToString()
    signed = datetime.now(UTC).replace(microsecond=0)
    claims = {
        "iss": issuer,
        "iat": int(signed.timestamp()),
        "seq": sequence,
        "entries_sha256": sha256(encoded).hex(),
    }
    return DistrustList(issuer, sequence, signed, tuple(entries), sign(claims, TYPE), encoded)


def read_list(signed: SignedDistrustList, trust: Trust) -> DistrustList | None:
    """A list that its trust domain signed; None when a later one is known.

    Raises Unauthenticated when it is signed by somebody else or says too much, and Unavailable when it
    leaves out entries that are not known here.
    """
    claims = _claims(signed.statement, trust)
    issuer = str(claims["iss"])
    known = trust.distrust.of(issuer)
    if known is not None and _place(claims) <= (known.sequence, int(known.signed.timestamp())):
        return None
    encoded = signed.entries if signed.HasField("entries") else known.encoded if known is not None else b""
    if sha256(encoded).hex() != claims["entries_sha256"]:
        if not signed.HasField("entries"):
            raise Unavailable(f"the entries of {issuer} were left out and are not known here")
        raise Unauthenticated(f"the entries are not those that {issuer} signed")
    return _parsed(issuer, claims, signed.statement, encoded)


def issuer_of(signed: SignedDistrustList) -> str:
    """Whose list it is, of one that `read_list` found to hold."""
    return str(jwt.decode(signed.statement, options={"verify_signature": False})["iss"])


def load_lists(state: Path, trust: Trust) -> None:
    """Takes what was kept. It was verified before it was written, and nobody else writes here. Blocks."""
    for path in sorted((state / _DIRECTORY).glob(f"[!.]*{_SUFFIX}")):
        try:
            kept = SignedDistrustList.FromString(path.read_bytes())
            claims = jwt.decode(kept.statement, options={"verify_signature": False})
            trust.distrust.take(_parsed(str(claims["iss"]), claims, kept.statement, kept.entries))
        except (OSError, DecodeError, jwt.PyJWTError, KeyError, Unauthenticated) as broken:
            # Going on without would be to believe whom nobody should.
            raise ConfigurationError(
                f"{path} holds no list of distrust ({broken}); remove it, and it is fetched anew"
            ) from broken


def keep_list(state: Path, heard: DistrustList) -> None:
    """Keeps a list over restarts. Blocks."""
    data = SignedDistrustList(statement=heard.statement, entries=heard.encoded).SerializeToString()
    write_secret(state / _DIRECTORY / f"{heard.issuer}{_SUFFIX}", data)


def oldest(distrust: Distrust) -> DistrustList | None:
    """The list that was signed longest ago."""
    return min(distrust.lists, key=lambda one: one.signed, default=None)


def message_of(entry: Entry) -> DistrustEntry:
    """An entry as it travels."""
    message = DistrustEntry(spiffe_id=str(entry.spiffe_id), reason=entry.reason, by=entry.by)
    message.since_time.FromDatetime(entry.since)
    message.issue_time.FromDatetime(entry.issued)
    if entry.until is not None:
        message.until_time.FromDatetime(entry.until)
    return message


def entry_of(message: DistrustEntry) -> Entry:
    """An entry that has travelled; raises InvalidInput when it is none."""
    if len(message.reason) > LONGEST_REASON:
        raise InvalidInput(f"a reason has at most {LONGEST_REASON} characters")
    return Entry(
        SpiffeId.parse(message.spiffe_id),
        time_of(message.since_time),
        time_of(message.until_time) if message.HasField("until_time") else None,
        message.reason,
        message.by[:512],
        time_of(message.issue_time),
    )


def time_of(moment: Timestamp) -> datetime:
    """A time of a message; raises InvalidInput when it lies in no calendar."""
    try:
        found: datetime = moment.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput("a time of the message lies outside of the calendar") from None
    return found


def moment(text: str) -> datetime:
    """A time in the past as people write it: RFC 3339, or a span such as `2h` ago. Raises InvalidInput."""
    span = _SPAN.fullmatch(text.strip())
    try:
        if span is not None:
            return datetime.now(UTC) - timedelta(seconds=float(span[1]) * _SECONDS[span[2]])
        found = datetime.fromisoformat(text.strip())
        if found.tzinfo is None or ("T" not in text.upper() and " " not in text.strip()):
            raise ValueError
        found = found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:80]!r} is no time; write 2026-11-25T09:30:00Z, or a span such as 90s, 45m, 2h or 7d ago"
        ) from None
    if found > datetime.now(UTC):
        raise InvalidInput(f"{text[:80]!r} lies ahead; say since when, not from when on")
    return found


def _claims(statement: str, trust: Trust) -> dict[str, Any]:
    if len(statement) > _LONGEST_STATEMENT:
        raise Unauthenticated("the statement of a list of distrust is too long")
    try:
        header = jwt.get_unverified_header(statement)
        issuer = jwt.decode(statement, options={"verify_signature": False}).get("iss")
        if not isinstance(issuer, str) or header.get("typ") != TYPE:
            raise Unauthenticated("this is no list of distrust")
        key = trust.token_keys(issuer).get(str(header.get("kid")))
        if key is None:
            raise Unauthenticated(f"the key of the list is not one of {issuer}")
        claims: dict[str, Any] = jwt.decode(
            statement,
            key,
            # Never what the header says.
            algorithms=[ALGORITHM],
            issuer=issuer,
            # Its time is compared with that of the list before it, not with this clock.
            options={"require": ["iss", "iat", "seq", "entries_sha256"], "verify_iat": False},
        )
        return claims
    except UNREADABLE as refused:
        raise Unauthenticated(f"the list of distrust does not hold ({refused})") from None


def _place(claims: dict[str, Any]) -> tuple[int, int]:
    try:
        return int(claims["seq"]), int(claims["iat"])
    except (TypeError, ValueError, OverflowError):
        raise Unauthenticated("the list of distrust has no sequence or no time") from None


def _parsed(issuer: str, claims: dict[str, Any], statement: str, encoded: bytes) -> DistrustList:
    try:
        sequence, signed = int(claims["seq"]), datetime.fromtimestamp(int(claims["iat"]), UTC)
        if len(encoded) > _MOST_BYTES:
            raise ValueError(f"{len(encoded)} bytes are more than any list has")
        entries = tuple(entry_of(one) for one in DistrustEntries.FromString(encoded).entries)
        if len(entries) > MOST_ENTRIES or not 0 <= sequence < 1 << 63:
            raise ValueError("it has too many entries, or no sequence")
        if any(entry.spiffe_id.trust_domain != issuer for entry in entries):
            raise ValueError("it speaks of identities of another trust domain")
    except (DecodeError, InvalidInput, KeyError, TypeError, ValueError, OverflowError, OSError) as wrong:
        raise Unauthenticated(f"the list of {issuer[:200]} cannot be read: {wrong}") from None
    return DistrustList(issuer, sequence, signed, entries, statement, encoded)
