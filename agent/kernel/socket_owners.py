"""Which process holds a socket: `/proc/<pid>/fd` read backwards, remembered, and searched sparingly."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.process import process_numbers, read_stat

# A search through every process reads every descriptor of the host: tens of milliseconds on a busy one. It
# may take this share of a processor. Its own time counts, not that for which others keep it waiting.
_MAX_SEARCH_SHARE = 0.05
# Time for searches that gathers while there is nothing to search for.
_MAX_SAVED_SECONDS = 0.25
_PREFIX = "socket:["
# Sockets that are remembered.
MAX_OWNERS = 262_144


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a socket."""

    process: int
    name: str


class SocketOwners:
    """Finds the processes that hold sockets. Those of other accounts are found by root only."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._owners: dict[int, Owner] = {}
        # Sockets that no search found: of the kernel, of another namespace, or hidden from this agent.
        self._unowned: set[int] = set()
        self._saved_seconds = _MAX_SAVED_SECONDS
        self._saved_at = time.monotonic()

    def find(self, inodes: Iterable[int]) -> dict[int, Owner]:
        """The owners of these sockets, as far as they are known or can be found now."""
        wanted = {inode for inode in inodes if inode}
        missing = wanted - self._owners.keys() - self._unowned
        if missing:
            # Most new sockets belong to a process that has others.
            missing -= self._search(sorted({owner.process for owner in self._owners.values()}), missing)
        if missing and self._may_search():
            began = time.thread_time()
            self._unowned |= missing - self._search(process_numbers(self._proc), missing)
            self._saved_seconds -= time.thread_time() - began
        return {inode: self._owners[inode] for inode in wanted if inode in self._owners}

    def keep(self, inodes: set[int]) -> None:
        """Forgets every socket but these: their inodes are given to others."""
        self._owners = {inode: owner for inode, owner in self._owners.items() if inode in inodes}
        self._unowned &= inodes

    def _may_search(self) -> bool:
        now = time.monotonic()
        saved = self._saved_seconds + (now - self._saved_at) * _MAX_SEARCH_SHARE
        self._saved_seconds, self._saved_at = min(saved, _MAX_SAVED_SECONDS), now
        return self._saved_seconds > 0

    def _search(self, processes: list[int], wanted: set[int]) -> set[int]:
        """Remembers the owners of the wanted sockets among these processes, and returns what was found."""
        found: set[int] = set()
        for process in processes:
            held = held_sockets(self._proc / str(process) / "fd") & wanted
            # The lowest process is the one that shares with its children.
            fresh = held - found
            if not fresh or len(self._owners) + len(fresh) > MAX_OWNERS:
                continue
            stat = read_stat(self._proc, process)
            if stat is not None:
                self._owners |= dict.fromkeys(fresh, Owner(process, stat.name))
                found |= fresh
            if found == wanted:
                break
        return found


def held_sockets(descriptors: Path) -> set[int]:
    """The inodes of the sockets among a process's descriptors; none when it may not be looked at."""
    inodes = set()
    try:
        with os.scandir(descriptors) as entries:
            for entry in entries:
                try:
                    target = os.readlink(entry.path)
                except OSError:
                    continue
                if target.startswith(_PREFIX):
                    inodes.add(int(target[len(_PREFIX) : -1]))
    except OSError:
        pass
    return inodes
