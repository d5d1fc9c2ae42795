"""The names of the mesh and how they belong together.

A domain `cloud_iam` of the mesh `telltale.internal` has the trust domain
`cloud-iam.telltale.internal`, the product prefix `cloud_iam.`, the proto package
`telltale.api.cloud_iam.v1` and its files below `telltale/api/cloud_iam/`.
"""

import fnmatch
import re
from dataclasses import dataclass

from telltale.errors import InvalidInput

PLATFORM = "platform"
OPERATORS = "operators"
# Policy group of the operators that work where the mesh's own keys lie.
RESPONDERS = "responders"
# What the mesh says about itself has a name of its own; the platform team owns it.
_PREFIX_OF_DOMAIN = {PLATFORM: "mesh"}
_DOMAIN_OF_PREFIX = {prefix: domain for domain, prefix in _PREFIX_OF_DOMAIN.items()}

_DOMAIN = re.compile(r"[a-z][a-z0-9_]{0,38}")
_PRODUCT = re.compile(r"[a-z][a-z0-9_]{0,38}\.[a-z][a-z0-9_]{0,62}")
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_PATTERN = re.compile(r"[a-z0-9_.*]{1,104}")
_GROUP = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class SpiffeId:
    """A workload's name: `spiffe://<trust domain><path>`."""

    trust_domain: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """Reads a SPIFFE ID; raises InvalidInput when it is none."""
        scheme, separator, rest = text.partition("://")
        trust_domain, slash, path = rest.partition("/")
        if (
            scheme != "spiffe"
            or not separator
            or len(text) > 512
            or not _TRUST_DOMAIN.fullmatch(trust_domain)
            or not _PATH.fullmatch(slash + path)
            or any(part in (".", "..") for part in path.split("/"))
        ):
            raise InvalidInput(f"{text[:200]!r} is no SPIFFE ID; expected spiffe://<trust domain>/<path>")
        return cls(trust_domain, slash + path)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def trust_domain(domain: str, mesh: str) -> str:
    """The trust domain of a domain: `cloud_iam` -> `cloud-iam.<mesh>`."""
    if not _DOMAIN.fullmatch(domain):
        raise InvalidInput(f"{domain!r} is no domain name; use lower case letters, digits and underscores")
    return f"{domain.replace('_', '-')}.{mesh}"


def domain_of(trust_domain: str, mesh: str) -> str:
    """The domain of a trust domain of this mesh: `cloud-iam.<mesh>` -> `cloud_iam`."""
    label, dot, rest = trust_domain.partition(".")
    if not dot or rest != mesh:
        raise InvalidInput(f"{trust_domain!r} is no trust domain of the mesh {mesh!r}")
    return label.replace("-", "_")


def owner_of(product: str) -> str:
    """The domain that owns a product: `servers.cpu` -> `servers`, `mesh.processes` -> `platform`."""
    if not _PRODUCT.fullmatch(product):
        raise InvalidInput(f"{product[:200]!r} is no product name; expected <domain>.<product> in snake case")
    prefix = product.partition(".")[0]
    return _DOMAIN_OF_PREFIX.get(prefix, prefix)


def product_prefix(domain: str) -> str:
    """What the products of a domain begin with: `servers` -> `servers.`."""
    return _PREFIX_OF_DOMAIN.get(domain, domain) + "."


def proto_package(domain: str) -> str:
    """What the proto packages of a domain begin with: `servers` -> `telltale.api.servers.`."""
    return f"telltale.api.{domain}."


def server_name(service: str, trust_domain: str) -> str:
    """The DNS name that a server proves: `gateway`, `service`, `authority` or `writer` of a trust domain."""
    return f"{service}.{trust_domain}"


def matches(product: str, patterns: tuple[str, ...]) -> bool:
    """Whether a product is named by one of the patterns, where `*` matches any run of characters."""
    return any(fnmatch.fnmatchcase(product, pattern) for pattern in patterns)


def check_pattern(pattern: str) -> str:
    """Returns the pattern; raises InvalidInput when it is none."""
    if not _PATTERN.fullmatch(pattern):
        raise InvalidInput(
            f"{pattern[:200]!r} is no product name or pattern; `*` matches any run of characters"
        )
    return pattern


def patterns(text: str) -> tuple[str, ...]:
    """Products and patterns of a list separated by commas; raises InvalidInput when there is none."""
    found = tuple(check_pattern(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise InvalidInput("it names no product; leave it out for all of them")
    return found


def check_group(group: str) -> str:
    """Returns the name of a policy group; raises InvalidInput when it is none."""
    if not _GROUP.fullmatch(group):
        raise InvalidInput(
            f"{group[:80]!r} is no group; use lower case letters, digits, `.`, `-` and `_`, at most 63"
        )
    return group


def table_name(product: str) -> str:
    """The database table of a product: `servers.disk_usage` -> `servers_disk_usage`."""
    return product.replace(".", "_")
