"""`telltale distrust` before it asks anybody: what it takes, and what it says of the rest."""

import pytest

from telltale.cli.home import Mesh
from telltale.cli.main import main
from telltale.errors import NotFound

WEB1 = "spiffe://servers.telltale.internal/agent/web1"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["--home", "/nonexistent", "distrust", *words])
    (line,) = capsys.readouterr().err.splitlines()
    return int(ended.value.code or 0), line


@pytest.mark.parametrize("words", [("--lift",), ("--since", "2h"), ("--reason", "stolen")])
def test_without_an_identity_there_is_nothing_to_say(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, line = said(capsys, *words)
    assert code == 2
    assert "name the SPIFFE-ID" in line


@pytest.mark.parametrize("words", [("--since", "2h"), ("--reason", "stolen")])
def test_a_lift_has_no_beginning_and_no_reason(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, line = said(capsys, WEB1, "--lift", *words)
    assert code == 2
    assert "it takes no --since and no --reason" in line


@pytest.mark.parametrize("name", ["web1", "servers.telltale.internal/agent/web1", "spiffe://x"])
def test_what_is_no_spiffe_id_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, line = said(capsys, name)
    assert code == 1
    assert "is no SPIFFE ID" in line


@pytest.mark.parametrize(("since", "says"), [("soon", "is no time"), ("2999-01-01T00:00:00Z", "lies ahead")])
def test_a_time_that_is_none_or_lies_ahead_is_refused(
    capsys: pytest.CaptureFixture[str], since: str, says: str
) -> None:
    code, line = said(capsys, WEB1, "--since", since)
    assert code == 1
    assert says in line


def test_where_no_mesh_runs_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(capsys, WEB1)
    assert code == 1
    assert "no mesh runs" in line


def test_a_domain_without_authority_is_named_with_those_that_have_one() -> None:
    mesh = Mesh("telltale.internal", "", "", "", 1, {"servers": "127.0.0.1:1", "platform": "127.0.0.1:2"})
    with pytest.raises(NotFound, match="no domain 'cloud'; the mesh has: platform, servers"):
        mesh.authority_of("cloud")
