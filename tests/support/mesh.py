"""A throwaway mesh for tests: real authorities on disk, and identities without a running authority."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from certs.home import Home
from certs.issuing import LEAF_LIFE, IssuingAuthority
from certs.profiles import Profile, profile_of
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import IssuedToken
from telltale.identity.keys import new_key
from telltale.identity.tokens import LONGEST_LIFE
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId, trust_domain

MESH = "telltale.test"


@dataclass
class Mesh:
    """`Mesh.create(tmp_path, "servers", "platform")`, then `mesh.workload("servers", "/agent/web1")`."""

    home: Home
    name: str
    authorities: dict[str, IssuingAuthority]
    leaf_life: timedelta = LEAF_LIFE
    token_life: timedelta = LONGEST_LIFE

    @classmethod
    def create(
        cls,
        directory: Path,
        *domains: str,
        name: str = MESH,
        leaf_life: timedelta = LEAF_LIFE,
        token_life: timedelta = LONGEST_LIFE,
    ) -> "Mesh":
        """Makes root, issuing authorities and token keys for these domains, as `certs init` does."""
        home = Home(directory)
        home.init(name, domains)
        authorities = {
            domain: IssuingAuthority.load(home.authority(domain), leaf_life=leaf_life, token_life=token_life)
            for domain in domains
        }
        return cls(home, name, authorities, leaf_life, token_life)

    @property
    def trust(self) -> Trust:
        """A trust bundle read anew."""
        return Trust.load(self.home.trust, self.name)

    def trust_domain(self, domain: str) -> str:
        return trust_domain(domain, self.name)

    def spiffe_id(self, domain: str, path: str) -> SpiffeId:
        return SpiffeId(self.trust_domain(domain), path)

    def server_name(self, service: str, domain: str) -> str:
        return f"{service}.{self.trust_domain(domain)}"

    def credentials(self, domain: str, path: str, dns_names: Sequence[str] = ()) -> Credentials:
        """A new key and a leaf of the domain's authority."""
        key = new_key()
        profile = Profile(self.spiffe_id(domain, path), tuple(dns_names))
        return Credentials(key, self.authorities[domain].issue(profile, key.public_key()))

    def workload(
        self, domain: str, path: str, dns_names: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> Workload:
        """A ready workload. Servers need DNS names: `[mesh.server_name("service", "servers")]`."""
        credentials = self.credentials(domain, path, dns_names)
        return Workload(credentials, self.trust, MeshIssuer(self, groups))


class MeshIssuer:
    """Issues like the authority of whoever asks, without a wire in between."""

    def __init__(self, mesh: Mesh, groups: Sequence[str] = ()) -> None:
        self._mesh = mesh
        self._groups = groups

    def _authority(self, credentials: Credentials) -> IssuingAuthority:
        wanted = credentials.spiffe_id.trust_domain
        return next(one for one in self._mesh.authorities.values() if one.trust_domain == wanted)

    async def renew(self, credentials: Credentials) -> Credentials:
        key = new_key()
        authority = self._authority(credentials)
        return Credentials(key, authority.issue(profile_of(credentials.leaf), key.public_key()))

    async def token(self, credentials: Credentials, audiences: Sequence[str]) -> IssuedToken:
        return self._authority(credentials).issue_token(
            credentials.spiffe_id, credentials.thumbprint, audiences, credentials.not_after, self._groups
        )
