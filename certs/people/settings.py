"""What an authority is told about the people of its mesh: one JSON file, checked by the name of each key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from telltale.errors import ConfigurationError, InvalidInput
from telltale.identity.tokens import MOST_GROUPS
from telltale.naming import check_group

# Asymmetric ones alone: with a secret that both know, whoever verifies could forge.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _url(text: str) -> str:
    """An address of the provider: plain HTTP is for a provider on this very machine."""
    parts = urlsplit(text)
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not (parts.scheme == "https" or plain) or not parts.hostname or parts.fragment or parts.username:
        raise ValueError("is no https:// address")
    return text


def _location(text: str) -> str:
    return text if text.startswith("/") else _url(text)


def _groups(mapping: Mapping[str, str]) -> Mapping[str, str]:
    try:
        known = {check_group(group) for group in mapping.values()}
    except InvalidInput as wrong:
        raise ValueError(str(wrong)) from None
    if len(known) > MOST_GROUPS:
        raise ValueError(f"names {len(known)} groups of the mesh; {MOST_GROUPS} are the most")
    return mapping


# Names of somebody else's groups -> policy groups of this mesh. What is not in it means nothing here.
GroupTable = Annotated[dict[str, str], AfterValidator(_groups)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProviderSettings(_Section):
    """The OpenID Connect provider, and what its claims mean here."""

    # As it stands in its tokens, to the letter.
    issuer: Annotated[str, AfterValidator(_url)]
    # A public client: a person's machine keeps no secret of the mesh's.
    client_id: str = Field(min_length=1, max_length=256)
    # The provider's public keys: an https:// address, or the path of a file.
    jwks: Annotated[str, AfterValidator(_location)]
    # Certificates that prove the address of `jwks`; the system's own when not set.
    ca: Path | None = None
    scopes: tuple[str, ...] = ("openid", "profile")
    algorithms: tuple[str, ...] = Field(("RS256", "ES256"), min_length=1)
    # The claim that becomes the person's name, unique at the provider.
    name_claim: str = "preferred_username"
    # The claim with the person's groups; null where only a directory knows them.
    groups_claim: str | None = "groups"
    groups: GroupTable = Field(default_factory=dict)
    # An ID token is exchanged right after the login that it is of.
    longest_age_seconds: int = Field(600, ge=10, le=3600)

    @model_validator(mode="after")
    def _check(self) -> "ProviderSettings":
        if "openid" not in self.scopes:
            raise ValueError("scopes must hold `openid`: without it there is no ID token")
        foreign = sorted(set(self.algorithms) - set(ALGORITHMS))
        if foreign:
            raise ValueError(f"algorithms must be of {', '.join(ALGORITHMS)}, got {', '.join(foreign)}")
        if self.groups_claim is not None and not self.groups:
            raise ValueError("groups must map at least one group, or groups_claim be null")
        return self


class DirectorySettings(_Section):
    """An LDAP directory that knows people's groups."""

    # ldaps://host[:port], or ldap://host[:port], where StartTLS comes before anything else.
    url: str = Field(pattern=r"^ldaps?://[A-Za-z0-9.\[\]:-]+$")
    # Certificates that prove the directory; the system's own when not set.
    ca: Path | None = None
    bind_dn: str = Field(min_length=1)
    password_file: Path
    # Where people are looked for, and by which filter; `{name}` is the person's name, escaped.
    base: str
    user_filter: str = "(uid={name})"
    # The attribute of a person that names groups, such as `memberOf`,
    group_attribute: str | None = None
    # or where groups are looked for; `{dn}` is the person's entry, escaped.
    group_base: str | None = None
    group_filter: str = "(member={dn})"
    # By the distinguished name of the group.
    groups: GroupTable = Field(min_length=1)
    # For each answer. In whole seconds, as the library takes them.
    timeout_seconds: int = Field(5, ge=1, le=30)

    @model_validator(mode="after")
    def _check(self) -> "DirectorySettings":
        if (self.group_attribute is None) == (self.group_base is None):
            raise ValueError("set either group_attribute or group_base")
        if "{name}" not in self.user_filter or "{dn}" not in self.group_filter:
            raise ValueError("user_filter must hold {name}, and group_filter {dn}")
        return self


class PeopleSettings(_Section):
    """Who may log in at an authority, and for how long."""

    provider: ProviderSettings
    directory: DirectorySettings | None = None
    # A person logs in again after this.
    session_seconds: int = Field(8 * 3600, ge=60, le=7 * 24 * 3600)

    @model_validator(mode="after")
    def _check(self) -> "PeopleSettings":
        if self.provider.groups_claim is None and self.directory is None:
            raise ValueError("nobody knows any group: set provider.groups_claim or directory")
        return self

    @classmethod
    def read(cls, path: Path) -> "PeopleSettings":
        """Reads the file; raises ConfigurationError naming every key that is missing or wrong. Blocks."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as unreadable:
            raise ConfigurationError(f"cannot read {path}: {unreadable.strerror}") from unreadable
        except ValidationError as refused:
            problems = [
                f"{'.'.join(map(str, error['loc'])) or 'file'}: {error['msg'].removeprefix('Value error, ')}"
                for error in refused.errors()
            ]
            raise ConfigurationError(f"{path}: {'; '.join(problems)}") from None
