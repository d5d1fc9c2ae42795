"""The README's commands and programs run as they stand there, and print what it shows."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.running_mesh import BIN, ROOT, RunningMesh, environment, eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

README = (ROOT / "README.md").read_text()
# They start a mesh of their own, change this tree or this shell: other tests do what they do.
ELSEWHERE = ("make ", "docker ", "telltale product new", ". .venv")
# What later commands use: run before each of them.
SETUP = re.compile(r"\w+=|\w+\(\) \{")


@dataclass(frozen=True)
class Shown:
    """A command, and the first line that the page shows of its output."""

    command: str
    begins: str


def shown() -> list[Shown]:
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Shown(command, output.partition("\n")[0]))
    return found


def here(text: str, mesh: RunningMesh) -> str:
    """What the page says, with the place and the port of this mesh."""
    port = mesh.gateway.rpartition(":")[2]
    return (
        text.replace("localhost:7443", f"localhost:{port}")
        .replace(".telltale/", f"{mesh.home}/")
        .replace('".telltale"', repr(str(mesh.home)))
    )


def settings(mesh: RunningMesh) -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**environment(), "PATH": path, "TELLTALE_HOME": str(mesh.home)}


COMMANDS = [one for one in shown() if not one.command.startswith(ELSEWHERE) and not SETUP.match(one.command)]
SETTING_UP = [one.command for one in shown() if SETUP.match(one.command)]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def operator(mesh: RunningMesh) -> None:
    """The page's `telltale credentials operator`; its token is good for as long as these tests take."""
    mesh.credentials("operator")


@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: re.sub(r"\W+", "-", one.command)[:40])
def test_a_command_of_the_readme_prints_what_it_shows(one: Shown, mesh: RunningMesh) -> None:
    script = here("\n".join([*SETTING_UP, one.command]), mesh)
    said = ""

    def look() -> bool:
        nonlocal said
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=ROOT,
            env=settings(mesh),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout
        print(said)  # for the one who reads of a failure
        return done.returncode == 0

    # A product has no row yet when the mesh has just started.
    eventually(look, f"a success of `{one.command}`", mesh)
    for word in _stable(one.begins):
        assert word in said


def _stable(line: str) -> list[str]:
    """What every run prints of a line: the names of a table's columns, else the first word."""
    words = line.split()
    if line == "Nothing was found.":
        return []
    if len(words) > 1 and all(re.fullmatch(r"[A-Z_/]+", word) for word in words):
        return words
    return words[:1]


@pytest.mark.parametrize("program", PROGRAMS, ids=["grpcio", "kit"])
def test_a_program_of_the_readme_receives_records(program: str, mesh: RunningMesh, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(here(program, mesh))
    running = subprocess.Popen(
        [sys.executable, str(file)],
        cwd=ROOT,
        env=settings(mesh),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        first = running.stdout.readline()
    finally:
        running.kill()
        _, complaint = running.communicate()
    assert "spiffe://servers.telltale.internal/agent/" in first, complaint


def test_the_first_program_takes_about_ten_lines() -> None:
    lines = [line for line in PROGRAMS[0].splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10
