"""What `certs init` and `certs join-token` leave on disk, and what they refuse."""

import json
import sqlite3
from pathlib import Path

import pytest
from cryptography import x509

from certs.__main__ import main
from certs.home import Home
from certs.issuing import IssuingAuthority
from certs.profiles import Profile
from telltale.errors import ConfigurationError, InvalidInput
from telltale.identity.keys import new_key
from telltale.naming import SpiffeId


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_init_may_be_repeated_and_changes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.init("telltale.test", ["servers", "cloud_iam"]) == ["servers", "cloud_iam"]
    before = contents(tmp_path)
    assert home.init("telltale.test", ["servers", "cloud_iam"]) == []
    assert contents(tmp_path) == before
    assert (home.trust / "cloud-iam.telltale.test.jwks.json").exists()


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    Home(tmp_path).init("telltale.test", ["servers"])
    keys = [path for path in tmp_path.rglob("*.key")]
    assert len(keys) == 4
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert {path.parent.stat().st_mode & 0o777 for path in keys} == {0o700}


def test_the_trust_bundle_holds_no_secret(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init("telltale.test", ["servers"])
    entries = json.loads((home.trust / "servers.telltale.test.jwks.json").read_text())["keys"]
    assert len(entries) == 2 and all("d" not in entry for entry in entries)
    assert all(b"PRIVATE" not in content for content in contents(home.trust).values())


def test_the_root_key_may_leave_and_comes_back_for_a_new_domain(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init("telltale.test", ["servers"])
    key = home.root / "root.key"
    away = key.rename(tmp_path / "usb-stick")
    assert home.init("telltale.test", ["servers"]) == []
    with pytest.raises(ConfigurationError, match="network cannot be added without the root key"):
        home.init("telltale.test", ["servers", "network"])
    away.rename(key)
    assert home.init("telltale.test", ["servers", "network"]) == ["network"]


def test_a_root_whose_directory_was_taken_away_is_not_replaced_by_another(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init("telltale.test", ["servers"])
    before, sha256 = contents(home.trust), home.root_sha256()
    home.root.rename(tmp_path / "usb-stick")
    assert home.init("telltale.test", ["servers"]) == []
    assert contents(home.trust) == before and home.root_sha256() == sha256
    with pytest.raises(ConfigurationError, match="without the root key"):
        home.init("telltale.test", ["servers", "network"])


def test_a_directory_belongs_to_one_mesh(tmp_path: Path) -> None:
    Home(tmp_path).init("telltale.test", ["servers"])
    with pytest.raises(ConfigurationError, match="belongs to another mesh"):
        Home(tmp_path).init("other.test", ["servers"])


def test_issuing_authorities_are_critically_constrained(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init("telltale.test", ["servers", "platform"])
    pem = (home.authority("platform") / "issuing.pem").read_bytes()
    extension = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert {str(tree.value) for tree in extension.value.permitted_subtrees or ()} == {
        "platform.telltale.test",
        "localhost",
    }
    assert {str(tree.value) for tree in extension.value.excluded_subtrees or ()} == {"0.0.0.0/0", "::/0"}


def test_only_names_of_the_own_domain_are_issued(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init("telltale.test", ["servers", "operators"])
    servers = IssuingAuthority.load(home.authority("servers"))
    public_key = new_key().public_key()
    for profile in (
        Profile(SpiffeId("platform.telltale.test", "/gateway")),
        Profile(SpiffeId("servers.telltale.test", "/service"), ("gateway.platform.telltale.test",)),
        Profile(SpiffeId("servers.telltale.test", "/service"), ("localhost",)),
        Profile(SpiffeId("servers.telltale.test", "/service"), ("evilservers.telltale.test",)),
    ):
        with pytest.raises(InvalidInput):
            servers.issue(profile, public_key)
    operators = IssuingAuthority.load(home.authority("operators"))
    with pytest.raises(InvalidInput, match="operators are people"):
        operators.issue(
            Profile(SpiffeId("operators.telltale.test", "/bob"), ("x.operators.telltale.test",)), public_key
        )


def test_a_join_token_is_shown_once_and_stored_as_a_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--home", str(tmp_path)]
    assert main(["init", *arguments, "--mesh", "telltale.test", "--domains", "servers"]) == 0
    capsys.readouterr()
    join = ["join-token", *arguments, "--domain", "servers", "--path", "/agent/web1"]
    assert main([*join, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["token"].endswith("@servers.telltale.test/agent/web1")
    assert facts["root_sha256"] == Home(tmp_path).root_sha256()
    state = tmp_path / "authorities" / "servers" / "state.sqlite"
    assert state.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(state)
    stored = "\n".join(connection.iterdump())
    connection.close()
    assert "agent/web1" in stored
    assert facts["token"] not in stored and facts["token"].partition("@")[0] not in stored


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--domain", "servers", "--path", "/authority"], "is the authority itself"),
        (["--domain", "servers", "--path", "agent"], "is no SPIFFE ID"),
        (["--domain", "network", "--path", "/agent/r1"], "holds no authority"),
        (["--domain", "servers", "--path", "/service", "--dns", "a.other.test"], "is not below"),
    ],
)
def test_a_wrong_join_token_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Home(tmp_path).init("telltale.test", ["servers"])
    assert main(["join-token", "--home", str(tmp_path), *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and said in shown.err


def test_serving_without_settings_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TELLTALE_AUTHORITIES", raising=False)
    assert main(["serve"]) == 2
    assert "TELLTALE_AUTHORITIES" in capsys.readouterr().err
    monkeypatch.setenv("TELLTALE_AUTHORITIES", "servers")
    assert main(["serve"]) == 2
    assert "json list" in capsys.readouterr().err


def test_an_init_that_stopped_half_way_is_finished_by_the_next(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init("telltale.test", ["servers"])
    (home.root / "root.pem").unlink()
    (home.authority("servers") / "issuing.pem").unlink()
    assert home.init("telltale.test", ["servers"]) == ["servers"]
    assert IssuingAuthority.load(home.authority("servers")).trust_domain == "servers.telltale.test"
