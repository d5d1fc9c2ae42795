"""Identities in bulk, issued by the domain's real authority: as if so many hosts had joined."""

from collections.abc import Iterable
from pathlib import Path

from certs.issuing import IssuingAuthority
from certs.profiles import Profile
from telltale.identity.credentials import Credentials
from telltale.identity.keys import new_key
from telltale.naming import SpiffeId
from tests.chaos.load import TRUST_DOMAIN


def join(home: Path, hosts: Iterable[tuple[str, Path]]) -> None:
    """Makes the directory of each host, with a new identity in it."""
    authority = IssuingAuthority.load(home / "authorities" / "servers")
    for name, directory in hosts:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = new_key()
        profile = Profile(SpiffeId(TRUST_DOMAIN, f"/agent/{name}"))
        Credentials(key, authority.issue(profile, key.public_key())).save(directory)
