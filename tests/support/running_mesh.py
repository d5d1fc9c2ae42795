"""A whole mesh of real processes, started the way an operator starts it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.domain import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Generous: a machine that runs other tests beside these is slow, and none of these tests is about time.
PATIENCE_SECONDS = 100.0


@dataclass
class RunningMesh:
    """`telltale up` in its own process, and everything to look at it from outside."""

    home: Path
    process: "subprocess.Popen[str]"
    root: Path = ROOT

    def telltale(self, *arguments: str, check: bool = True) -> str:
        """What a command of the command line prints; raises with its stderr when it fails."""
        done = subprocess.run(
            [str(BIN / "telltale"), "--home", str(self.home), *arguments],
            cwd=self.root,
            env=environment(self.root),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"telltale {' '.join(arguments)}: {done.stderr}\n{self.logs()}")
        return done.stdout if check else done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.telltale(*arguments, "--json"))

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the database; none while the table is not there yet."""
        done = self.telltale("query", sql, "--json", check=False)
        try:
            rows = json.loads(done)
        except ValueError:
            if "does not exist" in done or "there is no database" in done:
                return []
            raise RuntimeError(f"{sql}: {done}\n{self.logs()}") from None
        assert isinstance(rows, list)
        return rows

    def credentials(self, name: str = "operator") -> dict[str, Any]:
        made = self.json("credentials", name)
        assert isinstance(made, dict)
        return made

    @property
    def flows(self) -> tuple[str, int]:
        """Where its receiver listens for flows."""
        manifest = tomllib.loads((self.home.parent / "receiver.toml").read_text())
        host, _, port = str(manifest["flows"][0]["listen"]).rpartition(":")
        return host, int(port)

    @property
    def gateway(self) -> str:
        return str(json.loads((self.home / "mesh.json").read_text())["gateway"])

    def pid(self, name: str) -> int:
        """Process id of a member of the mesh, by its module."""
        found = self.pids(name)
        if not found:
            raise RuntimeError(f"no process {name}\n{self.logs()}")
        return found[0]

    def pids(self, name: str) -> list[int]:
        """The same, and nothing while it starts anew."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
        return found

    def logs(self) -> str:
        """The last lines of every process, for a failed test."""
        parts = []
        for path in sorted((self.home / "logs").glob("*.log")):
            parts.append(f"== {path.name}\n" + "\n".join(path.read_text().splitlines()[-8:]))
        return "\n".join(parts)


def environment(root: Path = ROOT) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELLTALE_")}
    return {**kept, "PYTHONPATH": str(root)}


@contextlib.contextmanager
def up(
    home: Path, *arguments: str, root: Path = ROOT, settings: dict[str, str] | None = None
) -> Iterator[RunningMesh]:
    """Runs `telltale up` while the body runs, then ends it as Ctrl-C does and checks that nothing is left."""
    command = [str(BIN / "telltale"), "--home", str(home), "up", "--port", str(free_port()), *arguments]
    with (home.parent / f"{home.name}.out").open("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**environment(root), **(settings or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield RunningMesh(home, process, root)
            members = []
            if process.poll() is None:
                members = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
                process.wait(PATIENCE_SECONDS)
            assert not [member for member in members if member.is_running()]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def write_manifest(directory: Path) -> Path:
    """The manifest of a receiver: one port on loopback, where one address may send and others may not."""
    file = directory / "receiver.toml"
    file.write_text(
        f'[[flows]]\nlisten = "127.0.0.1:{free_port(socket.SOCK_DGRAM)}"\nexporters = ["127.0.0.1"]\n'
    )
    return file


def eventually(look: Callable[[], Any], what: str, mesh: RunningMesh | None = None) -> Any:
    """The first true answer of `look`; fails with the logs when it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen\n{mesh.logs() if mesh else ''}")
        time.sleep(0.3)
