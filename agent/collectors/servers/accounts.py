"""`servers.accounts`: the local accounts, from passwd, group and, where permitted, shadow."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from agent.collectors import CannotCollect, Collector, Host, timestamp
from agent.host.local_accounts import Account, Group, parse_group, parse_passwd
from telltale.api.servers.v1.accounts_pb2 import (
    PASSWORD_EMPTY,
    PASSWORD_LOCKED,
    PASSWORD_SET,
    AccountsRecord,
    Password,
)

SECONDS_PER_DAY = 86_400
NO_LOGIN = frozenset({"nologin", "false", "sync", "halt", "shutdown", "true"})


class Shadow(NamedTuple):
    """What the shadow file says of one account; the password's hash itself never leaves the parser."""

    password: Password
    changed_day: int | None
    expire_day: int | None


def parse_shadow(text: str) -> dict[str, Shadow]:
    """The state of each account's password (shadow(5)), without anything that would help to guess it."""
    states = {}
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) != 9:
            continue
        name, secret = fields[:2]
        if not secret:
            password = PASSWORD_EMPTY
        elif secret[0] in "!*" or len(secret) < 13:  # shorter than the shortest hash that crypt(3) makes
            password = PASSWORD_LOCKED
        else:
            password = PASSWORD_SET
        states[name] = Shadow(password, _day(fields[2]), _day(fields[7]))
    return states


def groups_of(accounts: Iterable[Account], groups: Iterable[Group]) -> Mapping[str, list[str]]:
    """The names of every account's groups, in alphabetical order."""
    members: defaultdict[str, set[str]] = defaultdict(set)
    by_id: dict[int, str] = {}
    for group in groups:
        by_id.setdefault(group.group_id, group.name)
        for member in group.members:
            members[member].add(group.name)
    for account in accounts:
        members[account.name].add(by_id.get(account.group_id, str(account.group_id)))
    return {name: sorted(names) for name, names in members.items()}


class Accounts(Collector):
    """Every account in the local files."""

    product = "servers.accounts"
    interval = timedelta(seconds=60)

    def __init__(self, host: Host) -> None:
        self._etc = host.etc

    def collect(self) -> Iterator[AccountsRecord]:
        time = timestamp()
        try:
            accounts = list(parse_passwd((self._etc / "passwd").read_text(errors="replace")))
        except FileNotFoundError as missing:
            raise CannotCollect(
                f"{missing.filename} does not exist: this host has no local accounts"
            ) from None
        groups = groups_of(accounts, parse_group((self._etc / "group").read_text(errors="replace")))
        shadow = self._shadow()
        for account in {account.name: account for account in accounts}.values():
            record = AccountsRecord(
                time=time,
                account=account.name,
                account_id=account.account_id,
                group_id=account.group_id,
                groups=groups[account.name],
                home=account.home,
                shell=account.shell,
                can_log_in=account.shell.rpartition("/")[2] not in NO_LOGIN,
            )
            if (state := shadow.get(account.name)) is not None:
                record.password = state.password
                if state.changed_day is not None:
                    record.password_changed_time.CopyFrom(_midnight(state.changed_day))
                if state.expire_day is not None:
                    record.expire_time.CopyFrom(_midnight(state.expire_day))
            yield record

    def _shadow(self) -> dict[str, Shadow]:
        try:
            states = parse_shadow((self._etc / "shadow").read_text(errors="replace"))
        except (PermissionError, FileNotFoundError) as denied:
            why = (denied.strerror or "").lower()
            self.limited = f"{denied.filename}: {why}; whether accounts have passwords is unknown"
            return {}
        self.limited = ""
        return states


def _day(text: str) -> int | None:
    """A day since 1970; None for an empty field, and for the 0 that asks for a change at the next login."""
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _midnight(day: int) -> Timestamp:
    return Timestamp(seconds=day * SECONDS_PER_DAY)
