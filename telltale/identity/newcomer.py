"""A fresh host joins: from an address, a join token and the root's SHA-256 to a directory to start from."""

import asyncio
import json
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from telltale.errors import ConfigurationError, InvalidInput, Precondition
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient, JoinToken
from telltale.identity.joining import enrolled, enrolling_key
from telltale.identity.keys import write_secret
from telltale.identity.presented import presented_root
from telltale.identity.trust import ROOT_FILE, Trust

# What joining told, as settings by name; the environment overrides it.
_TOLD = "agent.json"
_TRUST = "trust"
_ADDRESS = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")


async def join(
    address: str,
    token: JoinToken,
    root_sha256: bytes,
    state: Path,
    *,
    authority: str = "",
    service: str = "",
    renamed: bool = False,
) -> Credentials:
    """Enrols at `address` and writes all that an agent needs into `state`.

    `authority` and `service` are host:port of both where the authority's own word does not hold here.
    A retry with the same directory comes with the same key, and so does not find its token used.
    With `renamed` the directory may be one of another identity, which then ends.
    Raises Unavailable, Unauthenticated, InvalidInput or Precondition, each with what to do.
    """
    for given in filter(None, (address, authority, service)):
        checked_address(given)
    root_pem = await presented_root(address, root_sha256)
    mesh = token.spiffe_id.trust_domain.partition(".")[2]
    # From here on the root is believed and nothing else is: whoever answers has to prove to be the authority.
    client = AuthorityClient(Trust(mesh, root_pem), "", address)
    key = await asyncio.to_thread(_key, state, token, renamed)
    joined = await client.join(token, key)
    told = {
        "mesh": mesh,
        "authority": known_address("authority", authority or joined.authority),
        "enrollment": address,
        "service": known_address("service", service or joined.service),
    }
    await asyncio.to_thread(_write, state, root_pem, told, joined.credentials)
    return joined.credentials


def told(state: Path) -> dict[str, str]:
    """The settings of an agent that has joined in this directory; empty when it has not. Blocks."""
    path = state / _TOLD
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as broken:
        raise ConfigurationError(f"{path} cannot be read; join again with `telltale agent join`") from broken
    # Beside it, wherever the directory was moved.
    return {**settings, "trust": str(state / _TRUST)}


def _key(state: Path, token: JoinToken, renamed: bool) -> ec.EllipticCurvePrivateKey:
    held = Credentials.load(state)
    if held is None or (renamed and held.spiffe_id != token.spiffe_id):
        return enrolling_key(state)
    if held.spiffe_id != token.spiffe_id:
        raise Precondition(
            f"{state} belongs to {held.spiffe_id} and the join token is for {token.spiffe_id}; "
            "choose another --state"
        )
    # It has joined, and joins again: the token may be the same one.
    return held.key


def _write(state: Path, root_pem: bytes, told: dict[str, str], credentials: Credentials) -> None:
    write_secret(state / _TRUST / ROOT_FILE, root_pem)
    write_secret(state / _TOLD, json.dumps(told, indent=2).encode() + b"\n")
    # The identity last: it marks the directory as complete.
    enrolled(state, credentials)


def known_address(which: str, address: str, remedy: str = "") -> str:
    """The address of a service, given or told by an authority; raises Precondition when it is neither.

    remedy: what to do, where an option of the same name does not help.
    """
    if not address:
        remedy = remedy or f"give it with --{which} HOST:PORT, once more"
        raise Precondition(f"the authority does not know the {which}'s address; {remedy}")
    return checked_address(address)


def checked_address(address: str) -> str:
    """An address is host and port: other schemes of gRPC could mean a file or a directory service."""
    if not _ADDRESS.fullmatch(address):
        raise InvalidInput(f"{address[:200]!r} is no address; expected HOST:PORT")
    return address
