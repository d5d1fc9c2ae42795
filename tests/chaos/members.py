"""The processes of a campaign by name: their ids, their memory, and the signals that they get."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.chaos.damage import Damage
from tests.chaos.schedule import EVERYTHING, MEMBERS


class Members:
    """The children of `telltale up` and the load processes, which another supervisor restarts."""

    def __init__(self, supervisor: int, loads: Mapping[str, Path]) -> None:
        """supervisor: id of the process of `telltale up`. loads: directory of each load process."""
        self._supervisor = psutil.Process(supervisor)
        self._loads = {str(directory): name for name, directory in loads.items()}
        # Of all processes that have had the name.
        self.peak_bytes: dict[str, int] = {}
        self.kills: dict[str, int] = {}

    def running(self) -> dict[str, int]:
        """Process ids by name, of those that run at this moment."""
        modules = {module: name for name, module in MEMBERS.items()}
        found: dict[str, int] = {}
        for parent, names in ((self._supervisor, modules), (psutil.Process(), self._loads)):
            for child in parent.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    # A child that is not its program yet is a leash, with the program's words.
                    words = child.cmdline()
                    for word in words if not any("leash" in one for one in words) else ():
                        if word in names and child.status() != psutil.STATUS_ZOMBIE:
                            found.setdefault(names[word], child.pid)
        return found

    def kill(self, name: str) -> list[str]:
        """Kills by SIGKILL; the names of whom it met: nobody, while the process is not there."""
        running = self.running()
        killed = []
        for one in list(running) if name == EVERYTHING else [name]:
            if one in running and _signal(running[one], signal.SIGKILL):
                self.kills[one] = self.kills.get(one, 0) + 1
                killed.append(one)
        return killed

    def stop(self, name: str) -> int | None:
        """Stalls a process and returns its id; None while it is not there."""
        process = self.running().get(name)
        return process if process is not None and _signal(process, signal.SIGSTOP) else None

    def damage(self, name: str, damage: Damage, file: Path, choice: int) -> str | None:
        """Kills a process and damages its file before it is started again; what was done, None if nothing."""
        process = self.running().get(name)
        if process is None or not self.kill(name):
            return None
        # Its last write is over when it is. Waiting for a child would take its end from its supervisor.
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.005)
        return damage(file, choice) or "nothing: the file is empty"

    def go_on(self, process: int) -> None:
        """Ends a stall; the process may have been killed meanwhile."""
        _signal(process, signal.SIGCONT)

    def signal_loads(self, number: signal.Signals) -> None:
        for name, process in self.running().items():
            if name in self._loads.values():
                _signal(process, number)

    def measure(self) -> None:
        """Takes the highest resident memory of each process so far."""
        for name, process in self.running().items():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process}/status").read_text().splitlines()
                high = next(line for line in lines if line.startswith("VmHWM:"))
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), int(high.split()[1]) << 10)


def _signal(process: int, number: signal.Signals) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True
