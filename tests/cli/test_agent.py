"""`telltale agent`: what an operator gets, and that every refusal on the host is one line."""

import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telltale.cli.agent import Invitation, join_line, run
from telltale.cli.ending import FAILED, MISUSED
from telltale.cli.home import Home, Mesh
from telltale.cli.main import main
from telltale.identity.enrolment import JoinToken
from telltale.naming import SpiffeId
from tests.support.domain import free_port
from tests.support.mesh import Mesh as ThrowawayMesh

TOKEN = JoinToken("s3cret", SpiffeId("servers.telltale.test", "/agent/web1"))
ROOT = "ab" * 32


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on the standard error."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert isinstance(end.value.code, int)
    return end.value.code, told


def test_the_line_to_type_on_the_host_is_whole() -> None:
    invitation = Invitation(TOKEN, bytes.fromhex(ROOT), datetime.now(UTC), "192.0.2.1:7411")
    words = shlex.split(join_line(invitation))
    assert words == ["telltale", "agent", "join", "192.0.2.1:7411", "--token", str(TOKEN), "--root", ROOT]


def test_a_token_comes_as_option_or_as_file_and_not_as_both(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(str(TOKEN))
    for given in ([], ["--token", str(TOKEN), "--token-file", str(file)]):
        code, told = ended(capsys, "agent", "join", "127.0.0.1:1", "--root", ROOT, *given)
        assert code == MISUSED
        assert "either --token or --token-file" in told


@pytest.mark.parametrize(
    ("address", "token", "root", "expected"),
    [
        ("nowhere", str(TOKEN), ROOT, "expected HOST:PORT"),
        ("127.0.0.1:7411", "rubbish", ROOT, "this is no join token"),
        ("127.0.0.1:7411", str(TOKEN), "abc", "copy the 64 digits"),
        ("127.0.0.1:7411", str(TOKEN), "zz" * 32, "copy the 64 digits"),
    ],
)
def test_what_was_copied_badly_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str, token: str, root: str, expected: str
) -> None:
    state = str(tmp_path / "state")
    code, told = ended(
        capsys, "agent", "join", address, "--token", token, "--root", root, "--state", state, "--no-run"
    )
    assert code == FAILED
    assert expected in told
    assert "s3cret" not in told
    assert not (tmp_path / "state").exists()


def test_an_unreachable_address_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    code, told = ended(
        capsys,
        *("agent", "join", f"127.0.0.1:{free_port()}", "--token-file", str(file), "--root", ROOT),
        *("--state", str(tmp_path / "state"), "--no-run"),
    )
    assert code == FAILED
    assert "check that it is the address of enrolment" in told


def test_a_domain_that_is_not_there_is_named_with_those_that_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = Home.at(tmp_path / "home")
    home.create()
    with home.locked():
        home.write_mesh(Mesh("telltale.test", "g:1", "a:1", "e:1", 1, {"servers": "a:2", "platform": "a:3"}))
        assert home.mesh().authorities["servers"] == "a:2"
        assert json.loads((home.path / "mesh.json").read_text())["authorities"]["platform"] == "a:3"
        code, told = ended(capsys, "--home", str(home.path), "agent", "token", "web1", "--domain", "network")
    assert code == FAILED
    assert "there is no domain 'network'; the mesh has: platform, servers" in told


@pytest.mark.parametrize(
    ("path", "module"), [("/agent/web1", "agent"), ("/receiver/edge1", "agent.receiver")]
)
def test_who_has_joined_becomes_what_its_identity_is_for(
    path: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    ThrowawayMesh.create(tmp_path / "home", "network").credentials("network", path).save(state)
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    monkeypatch.setenv("TELLTALE_STATE", "")
    run(state)
    assert [words[-1] for words in started] == [module]
    assert os.environ["TELLTALE_STATE"] == str(state)
