"""The command as people call it: exit codes, and errors that are one line."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from telltale.cli import ending, options
from telltale.cli import main as command
from telltale.cli.home import Home, Mesh
from telltale.errors import PermissionMissing, Unavailable


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


COMMANDS = ["products", "status", "describe servers.cpu", "tail servers.cpu", "inventory servers.units"]
COMMANDS += ["credentials operator", "governance"]


@pytest.mark.parametrize("words", COMMANDS)
def test_without_a_mesh_every_command_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    code, out, err = run(capsys, "--home", str(tmp_path), *words.split())
    assert code == 1
    assert out == ""
    assert err == f"telltale: no mesh runs in {tmp_path}; start one with `telltale up`\n"


@pytest.mark.parametrize("words", ["findings", "query SELECT"])
def test_without_a_database_reading_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    code, _, err = run(capsys, "--home", str(tmp_path), *words.split())
    assert code == 1
    assert err == f"telltale: there is no database in {tmp_path}; run `telltale up` for a while first\n"


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "up --for yesterday",
        "up --for -3s",
        "up --port 0",
        "tail",
        "tail p --limit 0",
        "--nonsense",
    ],
)
def test_misuse_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], words: str) -> None:
    code, out, err = run(capsys, *words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("telltale: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", "A", "", "a.b", "-a", "x" * 64, "é", "a\n"])
def test_an_operators_name_can_mean_no_other_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    home = Home.at(tmp_path)
    home.create()
    with home.locked():
        home.write_mesh(Mesh("telltale.test", "127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", 1))
        code, _, err = run(capsys, "--home", str(tmp_path), "credentials", "--", name)
    assert code == 1
    assert "is no operator's name" in err
    assert not home.path.joinpath("credentials").exists()


def test_the_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run(capsys, "--home", str(tmp_path), "up", "--port", str(port))
    assert (code, err) == (1, f"telltale: port {port} is taken; choose another with --port\n")


def test_a_mesh_is_named_like_a_domain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLTALE_MESH", "Bad Mesh")
    code, _, err = run(capsys, "--home", str(tmp_path), "up")
    assert code == 1
    assert err.startswith("telltale: TELLTALE_MESH: 'Bad Mesh' is no mesh; ")


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (Unavailable("the gateway\nis away"), 1, "telltale: the gateway is away\n"),
        (PermissionMissing("me", "list", "p"), 1, "telltale: me lacks the permission `list` on p"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "/x"), 1, "telltale: /x: No space left on device\n"),
        (
            ExceptionGroup("tasks", [ExceptionGroup("more", [ValueError("no")])]),
            1,
            "telltale: ValueError: no",
        ),
    ],
)
def test_every_failure_is_a_line_and_a_code(
    capsys: pytest.CaptureFixture[str], failure: BaseException, code: int, said: str
) -> None:
    def fail() -> None:
        raise failure

    assert ending.exit_code(fail) == code
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == (1 if said else 0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("2", 2.0), ("0.5s", 0.5)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert options.Seconds().convert(text, None, None) == seconds


MUCH = (
    "import click, sys\nfrom telltale.cli import main\n"
    "@main.cli.command()\ndef much():\n    for line in range(100000): click.echo(f'line {line}')\n"
    "main.main(['much'])"
)


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MUCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        assert writer.stdout.readline() == "line 0\n"
        writer.stdout.close()
        assert writer.stderr.read() == ""
        assert writer.wait() == 0


def test_an_output_that_is_closed_is_no_error() -> None:
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", MUCH]
    ran = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_full_disk_is_said_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", MUCH], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ran.returncode, ran.stderr) == (1, "telltale: No space left on device\n")


@pytest.mark.parametrize("words", [[], ["product"]])
def test_without_a_command_the_help_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: telltale") and "\nCommands:\n" in err


def test_help_imports_neither_grpc_nor_rich_nor_duckdb() -> None:
    script = (
        "import sys\nfrom telltale.cli.main import cli\n"
        "cli.main(args=['--help'], standalone_mode=False)\n"
        "print(sorted({'grpc', 'rich', 'duckdb', 'cryptography'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_every_command_and_option_is_documented() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "cli.md").read_text()
    for name, one in command.cli.commands.items():
        nested = getattr(one, "commands", {})
        for words, leaf in {f"{name} {sub}": leaf for sub, leaf in nested.items()}.items() or [(name, one)]:
            assert f"telltale {words}" in text, words
            for option in leaf.params:
                for spelling in option.opts:
                    if spelling.startswith("--"):
                        assert spelling in text, f"{words} {spelling}"
    assert not re.search(r"\bTODO\b", text)


def test_the_home_comes_from_the_environment(tmp_path: Path) -> None:
    environment = {**os.environ, "TELLTALE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "telltale.cli.main", "products"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert str(tmp_path) in run.stderr
