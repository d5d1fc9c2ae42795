"""One mesh a home, and how the command line finds it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from telltale.cli.home import Home, Mesh
from telltale.errors import ConfigurationError, Precondition

MESH = Mesh("telltale.test", "127.0.0.1:7443", "127.0.0.1:1", "127.0.0.1:2", 1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    home.create()
    return home


def test_a_home_is_for_its_owner_only(home: Home) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.logs.stat().st_mode) == 0o700


def test_a_directory_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    Home.at(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_directory_that_everybody_may_write_to_is_no_home_and_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="everybody may write to"):
        Home.at(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert not any(tmp_path.iterdir())


def test_a_home_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Not a directory; choose another --home"):
        Home.at(tmp_path / "file" / "home").create()


def test_the_path_of_a_home_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.at(".telltale").path == tmp_path / ".telltale"


def test_a_home_without_a_mesh_says_how_to_start_one(home: Home) -> None:
    with pytest.raises(Precondition, match="start one with `telltale up`"):
        home.mesh()


def test_the_mesh_is_found_while_it_runs_and_not_after(home: Home) -> None:
    with home.locked():
        home.write_mesh(MESH)
        assert home.mesh() == MESH
    with pytest.raises(Precondition):
        home.mesh()


def test_a_second_mesh_in_the_same_home_is_refused_with_the_first_ones_process(home: Home) -> None:
    script = (
        "import sys\nfrom telltale.cli.home import Home\n"
        "with Home.at(sys.argv[1]).locked():\n    print('locked', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        with pytest.raises(Precondition, match=rf"process {first.pid}\); stop it"), home.locked():
            pass
    with home.locked():
        pass


def test_a_mesh_whose_supervisor_was_killed_does_not_run(home: Home) -> None:
    script = (
        "import os, signal, sys\nfrom telltale.cli.home import Home, Mesh\n"
        "home = Home.at(sys.argv[1])\n"
        "with home.locked():\n"
        "    home.write_mesh(Mesh('m', 'g', 'a', 'e', 1))\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(home.path)], check=False).returncode == -9
    with pytest.raises(Precondition, match="no mesh runs"):
        home.mesh()


def test_a_damaged_file_says_what_to_do(home: Home) -> None:
    with home.locked():
        (home.path / "mesh.json").write_text("{")
        with pytest.raises(ConfigurationError, match="run `telltale up` again"):
            home.mesh()


def test_the_lock_is_not_inherited(home: Home) -> None:
    with home.locked():
        child = subprocess.run(["ls", "-l", f"/proc/{os.getpid()}/fd"], capture_output=True, check=True)
        assert b"lock" in child.stdout
        inherited = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, check=True)
        assert str(home.path).encode() not in inherited.stdout
