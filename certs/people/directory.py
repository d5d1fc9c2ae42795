"""Groups from an LDAP directory, over TLS alone. Whatever is not certain there ends the login: no guess."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ldap3
from ldap3.core.exceptions import LDAPException, LDAPInvalidCredentialsResult, LDAPInvalidDnError
from ldap3.core.results import RESULT_SUCCESS
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import parse_dn

from certs.people.settings import DirectorySettings
from telltale.errors import ConfigurationError, Unauthenticated, Unavailable

# Each look-up holds a thread for as long as the directory takes.
_MOST_AT_ONCE = 4
_MOST_GROUPS = 1000


class Directory:
    """Knows the groups of people by their names."""

    def __init__(self, settings: DirectorySettings) -> None:
        """Reads the password and the certificates; raises ConfigurationError. Blocks."""
        self._settings = settings
        self._password = _password(settings.password_file)
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._tls = _Tls(_context(settings.ca))

    async def groups(self, name: str) -> frozenset[str]:
        """The policy groups of a person. Raises Unauthenticated for nobody, Unavailable without an answer."""
        async with self._turns:
            try:
                found = await asyncio.to_thread(self._found, name)
            except LDAPInvalidCredentialsResult as refused:
                raise Unavailable(
                    f"the directory refuses {self._settings.bind_dn}; mend its password in "
                    f"{self._settings.password_file}, then log in again"
                ) from refused
            except (LDAPException, OSError, ssl.SSLError) as failed:
                raise Unavailable(
                    f"the directory {self._settings.url} does not answer as it should "
                    f"({type(failed).__name__}: {failed}); nobody logs in without it, try again later"
                ) from failed
        table = {canonical(group): ours for group, ours in self._settings.groups.items()}
        return frozenset(table[group] for group in found if group in table)

    def _found(self, name: str) -> set[str]:
        """The distinguished names of the groups of one person, as `canonical` writes them."""
        settings = self._settings
        condition = settings.user_filter.replace("{name}", escape_filter_chars(name))
        attributes = [settings.group_attribute] if settings.group_attribute else []
        with self._bound() as connection:
            people = _entries(connection, settings.base, condition, attributes, most=1)
            if len(people) != 1:
                found = "several people" if people else "nobody"
                raise Unauthenticated(
                    f"the directory knows {found} of the name {name[:200]!r}; mend it there"
                )
            if settings.group_attribute:
                values = people[0]["attributes"].get(settings.group_attribute, [])
                return {canonical(value) for value in ([values] if isinstance(values, str) else values)}
            condition = settings.group_filter.replace("{dn}", escape_filter_chars(people[0]["dn"]))
            groups = _entries(connection, settings.group_base or "", condition, [], most=_MOST_GROUPS)
            if len(groups) > _MOST_GROUPS:
                raise Unauthenticated(
                    f"{name[:200]!r} is in more than {_MOST_GROUPS} groups of the directory"
                )
            return {canonical(group["dn"]) for group in groups}

    @contextmanager
    def _bound(self) -> Iterator[ldap3.Connection]:
        """A connection that has proven the directory, and then said who asks."""
        settings = self._settings
        # Its own for each: neither server nor connection may be shared by threads.
        server = ldap3.Server(
            settings.url, connect_timeout=settings.timeout_seconds, get_info=ldap3.NONE, tls=self._tls
        )
        connection = ldap3.Connection(
            server,
            settings.bind_dn,
            self._password,
            receive_timeout=settings.timeout_seconds,
            read_only=True,
            # Another server that this one names is not the one that was configured.
            auto_referrals=False,
            raise_exceptions=True,
        )
        try:
            connection.open(read_server_info=False)
            if not server.ssl and not connection.start_tls(read_server_info=False):
                raise LDAPException("it does not start TLS")
            if not connection.bind(read_server_info=False):
                raise LDAPException("it does not say whether the password is right")
            yield connection
            connection.unbind()
        finally:
            # Whatever went wrong, it leaves no socket behind; the library does.
            if connection.socket is not None:
                connection.socket.close()


class _Tls(ldap3.Tls):  # type: ignore[misc]  # ships no types
    """TLS with the standard library's own checks; those of ldap3 are of a time before it had any."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket = self._context.wrap_socket(
            connection.socket, server_hostname=connection.server.host, do_handshake_on_connect=do_handshake
        )


def canonical(name: str) -> str:
    """A distinguished name as it compares: types and values without regard to case and outer spaces."""
    try:
        parts = parse_dn(name, escape=True, strip=True)
    except LDAPInvalidDnError:
        # Not a distinguished name, which then compares as it is.
        return name
    return ",".join(f"{kind}={value}".casefold() for kind, value, _ in parts)


def _entries(
    connection: ldap3.Connection, base: str, condition: str, attributes: list[str], *, most: int
) -> list[dict[str, Any]]:
    """What matches, at most one more than `most`. An answer that is not whole raises LDAPException."""
    connection.search(base, condition, ldap3.SUBTREE, attributes=attributes, size_limit=most + 1)
    # The library raises for most results, and not for an answer that stops half way.
    found, result = connection.response, connection.result
    entries = [entry for entry in found if entry["type"] == "searchResEntry"]
    if result["result"] != RESULT_SUCCESS and len(entries) <= most:
        raise LDAPException(f"it answers {result['description']}")
    return entries


def _password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as unreadable:
        raise ConfigurationError(f"cannot read the directory's password {path}: {unreadable}") from unreadable
    if not password:
        # A bind without a password succeeds as nobody, with many servers.
        raise ConfigurationError(f"the directory's password file {path} is empty; put the password into it")
    return password


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as unreadable:
        raise ConfigurationError(
            f"cannot read the directory's certificates {ca}: {unreadable}"
        ) from unreadable
