"""systemd unit files (systemd.unit(5)): where they lie, what they say, and what links them together."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.collectors import Host
from agent.masking import mask_text

UNIT_TYPES = frozenset(
    "service socket target timer mount automount swap path slice scope device snapshot".split()
)
COMMANDS = frozenset({"ExecStartPre", "ExecStart", "ExecStartPost"})
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Definition:
    """What a unit's file and drop-ins say, as far as it is told on; secrets masked."""

    description: str = ""
    account: str = ""
    commands: tuple[str, ...] = ()
    installable: bool = False


@dataclass
class UnitFiles:
    """Every unit file of a host, by unit name; of several the one that counts."""

    paths: dict[str, Path] = field(default_factory=dict)
    # By unit name, in the order of reading.
    drop_ins: dict[str, list[Path]] = field(default_factory=dict)
    # Names that other units pull in, by links below the host's own configuration.
    wanted: set[str] = field(default_factory=set)
    masked: set[str] = field(default_factory=set)

    def file_of(self, unit: str) -> Path | None:
        """The unit's file; that of its template when it is an instance."""
        return self.paths.get(unit) or self.paths.get(template_of(unit))

    def drop_ins_of(self, unit: str) -> list[Path]:
        found = {path.name: path for path in self.drop_ins.get(template_of(unit), ())}
        found.update((path.name, path) for path in self.drop_ins.get(unit, ()))
        return [found[name] for name in sorted(found)]


def search_path(host: Host) -> tuple[Path, ...]:
    """The directories of the system's unit files; a file hides those of its name in later ones."""
    return (
        host.etc / "systemd/system.control",
        host.run / "systemd/system.control",
        host.run / "systemd/transient",
        host.run / "systemd/generator.early",
        host.etc / "systemd/system",
        host.run / "systemd/system",
        host.run / "systemd/generator",
        host.usr / "local/lib/systemd/system",
        host.usr / "lib/systemd/system",
        host.run / "systemd/generator.late",
    )


def is_unit(name: str) -> bool:
    return name.rpartition(".")[2] in UNIT_TYPES


def template_of(unit: str) -> str:
    """`getty@tty1.service` -> `getty@.service`; the name itself when it is no instance."""
    prefix, at, rest = unit.partition("@")
    return f"{prefix}@.{rest.rpartition('.')[2]}" if at else unit


def find_unit_files(host: Host) -> UnitFiles:
    """Lists the unit directories; opens no file."""
    files = UnitFiles()
    drop_ins: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    own = (host.etc, host.run)
    for directory in search_path(host):
        for entry in _entries(directory):
            if is_unit(entry.name):
                _add_unit(files, entry, in_own=directory.is_relative_to(own[0]))
            elif entry.name.endswith(".d") and is_unit(unit := entry.name.removesuffix(".d")):
                for drop_in in _entries(Path(entry.path)):
                    if drop_in.name.endswith(".conf"):
                        drop_ins[unit].setdefault(drop_in.name, Path(drop_in.path))
            elif entry.name.endswith((".wants", ".requires", ".upholds")):
                if any(directory.is_relative_to(root) for root in own):
                    files.wanted.update(
                        link.name for link in _entries(Path(entry.path)) if is_unit(link.name)
                    )
    files.drop_ins = {unit: [paths[name] for name in sorted(paths)] for unit, paths in drop_ins.items()}
    return files


def _add_unit(files: UnitFiles, entry: os.DirEntry[str], *, in_own: bool) -> None:
    unit = entry.name
    if unit in files.paths or unit in files.masked:
        return
    if entry.is_symlink():
        target = os.readlink(entry.path)
        if target == "/dev/null":
            files.masked.add(unit)
            return
        name = target.rpartition("/")[2]
        if name != unit and is_unit(name):
            # An alias. One that the host's own configuration made enables what it names.
            if in_own:
                files.wanted.add(name)
            return
    files.paths[unit] = Path(entry.path)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def parse_definition(*texts: str) -> Definition:
    """What a unit's file and then its drop-ins say together."""
    description, account, commands, installable = "", "", list[str](), False
    for text in texts:
        for section, name, value in _assignments(text):
            if section == "Install":
                installable = True
            elif (section, name) == ("Unit", "Description"):
                description = value
            elif (section, name) == ("Service", "User"):
                account = value
            elif section == "Service" and name in COMMANDS:
                # An empty assignment takes back what was assigned before.
                commands = [*commands, f"{name}={value}"] if value else _without(commands, name)
    return Definition(
        description=mask_text(description),
        account=account,
        commands=tuple(mask_text(line.partition("=")[2]) for line in commands),
        installable=installable,
    )


def _without(commands: list[str], name: str) -> list[str]:
    return [line for line in commands if not line.startswith(f"{name}=")]


def _assignments(text: str) -> Iterator[tuple[str, str, str]]:
    section = ""
    continued = ""
    for line in text.splitlines():
        line = continued + line.strip()
        continued = ""
        if not line or line[0] in "#;":
            continue
        if line.endswith("\\"):
            continued = line[:-1].rstrip() + " "
        elif line[0] == "[" and line[-1] == "]":
            section = line[1:-1]
        else:
            name, separator, value = line.partition("=")
            if separator:
                yield section, name.strip(), value.strip()


class Definitions:
    """Reads definitions, each again only when one of its files has changed."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[object, Definition, str]] = {}

    def of(self, unit: str, paths: list[Path]) -> tuple[Definition, str]:
        """What the files say, and their SHA-256 in hexadecimal, one after the other."""
        stamp = tuple(_stamp(path) for path in paths)
        known = self._read.get(unit)
        if known is not None and known[0] == stamp:
            return known[1:]
        contents = [_content(path) for path in paths]
        digest = hashlib.sha256(b"".join(contents)).hexdigest()
        definition = parse_definition(*(content.decode(errors="replace") for content in contents))
        self._read[unit] = (stamp, definition, digest)
        return definition, digest

    def keep(self, units: set[str]) -> None:
        """Forgets units that are no more."""
        for unit in self._read.keys() - units:
            del self._read[unit]


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:  # a link into nothing
        return str(path), 0, 0, 0
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError:
        return b""
