"""The local account files: names for numbers, without asking a directory, which could mean dialling one."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Account(NamedTuple):
    """One line of /etc/passwd."""

    name: str
    account_id: int
    group_id: int
    home: str
    shell: str


class Group(NamedTuple):
    """One line of /etc/group."""

    name: str
    group_id: int
    members: tuple[str, ...]


def parse_passwd(text: str) -> Iterator[Account]:
    """Every account; what is no line of seven fields, such as NIS compatibility marks, is left out."""
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[2].isdecimal() and fields[3].isdecimal():
            yield Account(fields[0], int(fields[2]), int(fields[3]), fields[5], fields[6])


def parse_group(text: str) -> Iterator[Group]:
    """Every group."""
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 4 and fields[2].isdecimal():
            yield Group(fields[0], int(fields[2]), tuple(member for member in fields[3].split(",") if member))


class AccountNames:
    """The name of an account's number, from a passwd file that is read again when it changes."""

    def __init__(self, etc: Path) -> None:
        self._passwd = etc / "passwd"
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[int, str] = {}

    def __call__(self, account_id: int) -> str:
        """The name; the number as text when no local account has it."""
        return self._current().get(account_id, str(account_id))

    def known(self) -> frozenset[str]:
        """Every local account's name."""
        return frozenset(self._current().values())

    def _current(self) -> dict[int, str]:
        try:
            found = self._passwd.stat()
        except FileNotFoundError:
            return {}
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp != self._stamp:
            accounts = parse_passwd(self._passwd.read_text(errors="replace"))
            # The first of several accounts with one number is the one that the system shows.
            self._names = {account.account_id: account.name for account in reversed(list(accounts))}
            self._stamp = stamp
        return self._names
