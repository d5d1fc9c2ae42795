"""`servers.logins`: what login programs append to wtmp (sessions, boots) and btmp (failures)."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from google.protobuf.message import Message

from agent.collectors import CannotCollect, Collector, Host, timestamp
from agent.host.growing_file import GrowingFile
from agent.host.local_accounts import AccountNames
from agent.host.utmp import RECORD, Entry, Kind, parse_utmp
from telltale.api.servers.v1.logins_pb2 import (
    LOGIN_EVENT_BOOT,
    LOGIN_EVENT_FAILED,
    LOGIN_EVENT_LOGIN,
    LOGIN_EVENT_LOGOUT,
    LOGIN_EVENT_SHUTDOWN,
    LoginEvent,
    LoginsRecord,
)

# How far back the sessions are looked for that are open when the agent starts.
HISTORY_BYTES = 4096 * RECORD.size
MASKED = "***"


class Logins(Collector):
    """What was appended since the last reading; the very first one starts at the end of the files."""

    product = "servers.logins"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._positions = host.positions
        self._accounts = AccountNames(host.etc)
        # The account and the other end of each open session, by terminal: a logout names neither.
        self._sessions: dict[str, Entry] = {}
        self._wtmp_path = host.var / "log" / "wtmp"
        self._btmp_path = host.var / "log" / "btmp"
        self._wtmp: GrowingFile | None = None
        self._btmp: GrowingFile | None = None

    def collect(self) -> Iterator[Message]:
        try:
            if self._wtmp is None:
                self._wtmp = self._open(self._wtmp_path)
                for entry in parse_utmp(self._wtmp.before(HISTORY_BYTES)):
                    self._session_event(entry)
            wtmp, losses = self._wtmp.read()
        except FileNotFoundError:
            raise CannotCollect(
                f"{self._wtmp_path} does not exist: this host keeps no login records"
            ) from None
        except PermissionError:
            raise CannotCollect(f"{self._wtmp_path} may not be read; add the agent to its group") from None
        yield from losses
        for entry in parse_utmp(wtmp):
            record = self._session_event(entry)
            if record is not None:
                yield record
        yield from self._failures()
        self._save()

    def _failures(self) -> Iterator[Message]:
        try:
            if self._btmp is None:
                self._btmp = self._open(self._btmp_path)
            btmp, losses = self._btmp.read()
        except OSError as denied:
            self.limited = f"{self._btmp_path}: {denied.strerror}; failed logins are not seen"
            return
        self.limited = ""
        yield from losses
        known = self._accounts.known()
        for entry in parse_utmp(btmp):
            # A name that is none may be a password, typed one question too early.
            account = entry.account if entry.account in known else MASKED
            yield _record(LOGIN_EVENT_FAILED, entry, account)

    def _session_event(self, entry: Entry) -> LoginsRecord | None:
        match entry.kind:
            case Kind.BOOT_TIME:
                self._sessions.clear()
                return _record(LOGIN_EVENT_BOOT, entry, "")
            case Kind.RUN_LEVEL if entry.account == "shutdown":
                return _record(LOGIN_EVENT_SHUTDOWN, entry, "")
            case Kind.USER_PROCESS:
                self._sessions[entry.terminal] = entry
                return _record(LOGIN_EVENT_LOGIN, entry, entry.account)
            case Kind.DEAD_PROCESS:
                login = self._sessions.pop(entry.terminal, None)
                # A getty that ends without a login leaves an entry too.
                if login is None and not entry.account:
                    return None
                login = login or entry
                left = entry._replace(
                    process_id=login.process_id, remote_host=login.remote_host, address=login.address
                )
                return _record(LOGIN_EVENT_LOGOUT, left, login.account)
        return None

    def _open(self, path: Path) -> GrowingFile:
        saved = json.loads(self._positions.get(self.product) or "{}").get(path.name)
        return GrowingFile(path, RECORD.size, tuple(saved) if saved else None)

    def _save(self) -> None:
        files = [file for file in (self._wtmp, self._btmp) if file is not None]
        self._positions.set(self.product, json.dumps({file.path.name: file.position for file in files}))


def _record(event: LoginEvent, entry: Entry, account: str) -> LoginsRecord:
    remote = event in (LOGIN_EVENT_LOGIN, LOGIN_EVENT_LOGOUT, LOGIN_EVENT_FAILED)
    return LoginsRecord(
        time=timestamp(entry.unix_ns),
        event=event,
        account=account,
        terminal=entry.terminal if remote else "",
        process_id=(entry.process_id or None) if remote else None,
        # A boot writes the kernel's release here.
        remote_host=entry.remote_host if remote else "",
        remote_address=entry.address if remote else "",
    )
