"""Which process holds a listening socket, from the descriptors in /proc; searched only when a socket is new.

A listener may outlive the process that opened it in one that inherited it, so every reading checks that the
descriptor is still there.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.kernel.process import process_numbers


class Owner(NamedTuple):
    """A process that holds a socket."""

    process_id: int
    name: str
    executable: str
    account_id: int


class ListenerOwners:
    """Remembers where a socket was found, so that an unchanged host costs two readings a socket."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        # By inode: the process and the path of its descriptor.
        self._found: dict[int, tuple[int, str]] = {}
        # Sockets that no visible process holds, such as the kernel's own.
        self._unheld: frozenset[int] = frozenset()
        # Why some owners are unknown, in one sentence; empty when all could be looked for.
        self.limited = ""

    def find(self, inodes: Collection[int]) -> dict[int, Owner]:
        """The owners of sockets, without those that cannot be found."""
        self._found = {
            inode: (process_id, path)
            for inode, (process_id, path) in self._found.items()
            if inode in inodes and _target(path) == f"socket:[{inode}]"
        }
        unknown = set(inodes) - self._found.keys()
        if unknown - self._unheld:
            denied = self._search(unknown)
            unknown -= self._found.keys()
            self.limited = ""
            if unknown and denied:
                self.limited = (
                    "the descriptors of other accounts' processes may not be read, so some sockets lack "
                    "their process; run the agent as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                )
        elif not unknown:
            self.limited = ""
        self._unheld = frozenset(unknown)
        owners = {}
        for inode, (process_id, _) in self._found.items():
            owner = self._describe(process_id)
            if owner is not None:
                owners[inode] = owner
        return owners

    def _search(self, inodes: set[int]) -> int:
        """Notes the lowest process that holds each socket; returns how many processes could not be read."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes}
        denied = 0
        for process_id in process_numbers(self._proc):
            try:
                for path in self._descriptors(process_id):
                    inode = wanted.get(_target(path))
                    if inode is not None and inode not in self._found:
                        self._found[inode] = (process_id, path)
            except PermissionError:
                denied += 1
            except OSError:  # the process has ended
                continue
        return denied

    def _descriptors(self, process_id: int) -> Iterator[str]:
        directory = f"{self._proc}/{process_id}/fd"
        for name in os.listdir(directory):
            yield f"{directory}/{name}"

    def _describe(self, process_id: int) -> Owner | None:
        directory = self._proc / str(process_id)
        try:
            return Owner(
                process_id,
                (directory / "comm").read_text(errors="replace").rstrip("\n"),
                _target(str(directory / "exe")).removesuffix(" (deleted)"),
                directory.stat().st_uid,
            )
        except OSError:  # it has ended
            return None


def _target(link: str) -> str:
    """What a link of /proc points to; empty when it is gone or denied."""
    try:
        return os.readlink(link).encode(errors="surrogateescape").decode(errors="replace")
    except OSError:
        return ""
