"""What `/proc` says of one process, read quickly and within bounds: it may end at any moment."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

# Read of the arguments at most; a command line can be megabytes long.
MAX_COMMAND_LINE_BYTES = 8192
_MAX_FILE_BYTES = 4096
# An account number that means nobody.
_NOBODY_LOGGED_IN = 0xFFFFFFFF

# What root has everywhere but in a container: CAP_DAC_READ_SEARCH (2) and CAP_SYS_PTRACE (19).
_SEES_ALL = 1 << 2 | 1 << 19
_EFFECTIVE = re.compile(r"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)

_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_UNIX98_TERMINALS = range(136, 144)


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of `/proc/<pid>/stat` that say who the process is."""

    name: str
    parent: int
    session: int
    terminal: str
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process as far as it could be read. `complete`: it was alive and readable throughout."""

    complete: bool
    executable: str = ""
    arguments: tuple[str, ...] = ()
    arguments_cut: bool = False
    working_directory: str = ""
    control_group: str = ""
    stat: Stat | None = None
    account_id: int | None = None
    effective_account_id: int | None = None
    login_account_id: int | None = None


def parse_stat(text: str) -> Stat | None:
    """Reads `/proc/<pid>/stat`; the name stands in parentheses and may itself contain any character.

    None for a process that the kernel is just burying: it prints -1 for the parent and the session then.
    """
    before, _, rest = text.rpartition(")")
    fields = rest.split()
    if len(fields) < 20 or "(" not in before:
        return None
    parent, session = int(fields[1]), int(fields[3])
    if parent < 0 or session < 0:
        return None
    return Stat(
        name=before.partition("(")[2],
        parent=parent,
        session=session,
        terminal=terminal_name(int(fields[4])),
        start_ticks=int(fields[19]),
    )


def terminal_name(device: int) -> str:
    """The name below `/dev` of a terminal's device number; empty for none."""
    major, minor = os.major(device), os.minor(device)
    if major in _UNIX98_TERMINALS:
        return f"pts/{(major - _UNIX98_TERMINALS.start) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return "" if device == 0 else f"{major}:{minor}"


def parse_accounts(status: str) -> tuple[int, int] | None:
    """The real and the effective account number in `/proc/<pid>/status`."""
    at = status.find("\nUid:")
    fields = status[at + 5 : at + 100].split(maxsplit=2) if at >= 0 else []
    return (int(fields[0]), int(fields[1])) if len(fields) >= 2 else None


def parse_command_line(data: bytes) -> tuple[str, ...]:
    """The arguments in `/proc/<pid>/cmdline`."""
    if not data:
        return ()
    return tuple(data.removesuffix(b"\0").decode("utf-8", "replace").split("\0"))


def parse_control_group(text: str) -> str:
    """The path in `/proc/<pid>/cgroup`: of the unified hierarchy, else the most telling of the old ones."""
    paths = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers if number != "0" else ""] = path
    unified = paths.get("", "")
    return unified if len(unified) > 1 else max([unified, *paths.values()], key=len)


def container_of(control_group: str) -> str:
    """The identifier of the container that a control group names; empty when it names none."""
    found = _CONTAINER.findall(control_group)
    return found[-1] if found else ""


def read_process(proc: Path, number: int) -> Process:
    """Reads a process; of one that is gone, or that may not be looked at, only what can still be had."""
    try:
        directory = os.open(proc / str(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Process(complete=False)
    # Files opened below the directory are this process's, even when its number is given to another.
    try:
        # What vanishes first is read first: memory and files go at the exit, the rest when it is reaped.
        command_line = _read(directory, "cmdline", MAX_COMMAND_LINE_BYTES)
        process = Process(
            complete=True,
            executable=_link(directory, "exe"),
            arguments=parse_command_line(command_line),
            arguments_cut=len(command_line) == MAX_COMMAND_LINE_BYTES,
            working_directory=_link(directory, "cwd"),
            stat=parse_stat(_text(directory, "stat")),
            control_group=parse_control_group(_text(directory, "cgroup")),
        )
        accounts = parse_accounts(_text(directory, "status"))
        login = _text(directory, "loginuid").strip()
    except ValueError:
        # Not what the kernel writes: nothing of it can be relied upon.
        return Process(complete=False)
    finally:
        os.close(directory)
    real, effective = accounts or (None, None)
    return replace(
        process,
        complete=bool(process.executable and process.stat and accounts),
        account_id=real,
        effective_account_id=effective,
        login_account_id=int(login) if login.isdecimal() and int(login) != _NOBODY_LOGGED_IN else None,
    )


def read_stat(proc: Path, number: int) -> Stat | None:
    """Who a process is; None when it is gone."""
    try:
        with open(proc / str(number) / "stat", "rb", buffering=0) as file:
            return parse_stat(file.read(_MAX_FILE_BYTES).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def process_numbers(proc: Path) -> list[int]:
    """Every process that is there now, in rising order."""
    return sorted(int(name) for name in os.listdir(proc) if name.isdecimal())


def hidden_details(status: Path = Path("/proc/self/status")) -> str:
    """What of other accounts' processes the kernel hides from this one, in a sentence; empty for nothing."""
    found = _EFFECTIVE.search(status.read_text(encoding="ascii", errors="replace"))
    if found and int(found[1], 16) & _SEES_ALL == _SEES_ALL:
        return ""
    return (
        "programs and sockets of other accounts' processes are hidden from the agent: run it as root or with "
        "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
    )


def _read(directory: int, name: str, limit: int) -> bytes:
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.read(file, limit)
    except OSError:
        return b""
    finally:
        os.close(file)


def _text(directory: int, name: str) -> str:
    return _read(directory, name, _MAX_FILE_BYTES).decode("utf-8", "replace")


def _link(directory: int, name: str) -> str:
    try:
        return (
            os.readlink(name, dir_fd=directory).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        )
    except OSError:
        return ""
