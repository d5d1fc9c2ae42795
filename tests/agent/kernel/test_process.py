import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.clock import unix_ns_of_monotonic, unix_ns_of_ticks
from agent.kernel.process import (
    MAX_COMMAND_LINE_BYTES,
    container_of,
    hidden_details,
    parse_accounts,
    parse_command_line,
    parse_control_group,
    parse_stat,
    read_process,
    terminal_name,
)

PROC = Path("/proc")
STAT = "4711 (a) b (c) S 17 4711 4600 34816 4711 4194304 96 0 0 0 0 0 0 0 20 0 1 0 235332 2732032 202"
CONTAINER = "a3" * 32


def test_a_name_may_hold_blanks_and_parentheses() -> None:
    stat = parse_stat(STAT)
    assert stat is not None
    assert (stat.name, stat.parent, stat.session, stat.terminal, stat.start_ticks) == (
        "a) b (c", 17, 4600, "pts/0", 235332,
    )  # fmt: skip


@pytest.mark.parametrize("buried", [STAT.replace(" 4600 ", " -1 "), STAT.replace(" 17 ", " -1 ")])
def test_a_process_that_is_being_buried_has_no_stat(buried: str) -> None:
    assert parse_stat(buried) is None


@given(st.text(max_size=200))
def test_a_strange_file_is_no_process_or_a_value_error(text: str) -> None:
    try:
        parse_stat(text)
        parse_accounts(text)
    except ValueError:
        pass
    parse_control_group(text)


def test_terminals_have_their_names() -> None:
    names = [terminal_name(os.makedev(*device)) for device in ((136, 3), (137, 1), (4, 1), (4, 65), (0, 0))]
    assert names == ["pts/3", "pts/257", "tty1", "ttyS1", ""]


def test_accounts_are_the_real_and_the_effective() -> None:
    assert parse_accounts("Name:\tsu\nUid:\t1000\t0\t0\t0\nGid:\t1000\t0\t0\t0\n") == (1000, 0)
    assert parse_accounts("Name:\tsu\n") is None


def test_empty_arguments_are_kept() -> None:
    assert parse_command_line(b"app\0\0--x\0") == ("app", "", "--x")
    assert parse_command_line(b"") == ()


def test_the_unified_control_group_comes_first() -> None:
    assert parse_control_group("0::/system.slice/a.service\n") == "/system.slice/a.service"
    assert parse_control_group("9:name=systemd:/\n4:memory:/box/x\n0::/\n") == "/box/x"
    assert parse_control_group("") == ""


def test_a_control_group_may_name_a_container() -> None:
    assert container_of(f"/kubepods.slice/cri-containerd-{CONTAINER}.scope") == CONTAINER
    assert container_of("/user.slice/user-1000.slice") == ""


def test_this_process_is_read_whole() -> None:
    process = read_process(PROC, os.getpid())
    assert process.complete and process.stat is not None
    assert process.executable == os.path.realpath(sys.executable)
    assert (process.account_id, process.effective_account_id) == (os.getuid(), os.geteuid())
    assert (process.stat.parent, process.stat.session) == (os.getppid(), os.getsid(0))
    assert process.working_directory == os.getcwd()


def test_a_process_that_is_gone_is_incomplete() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert read_process(PROC, child.pid).complete is False


def test_a_process_that_ended_and_waits_for_its_parent_still_has_a_name() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        process = read_process(PROC, child.pid)
        assert not process.complete and not process.arguments
        assert process.stat is not None and process.stat.name == "true"
        assert process.account_id == os.getuid()


def test_a_long_command_line_is_read_up_to_its_bound() -> None:
    with subprocess.Popen(["sleep", "100", *["0"] * 10_000]) as child:
        try:
            # The program has taken over once the kernel shows its name.
            while (process := read_process(PROC, child.pid)).arguments[:1] != ("sleep",):
                pass
            assert process.arguments_cut
            assert sum(map(len, process.arguments)) <= MAX_COMMAND_LINE_BYTES
        finally:
            child.kill()


def test_the_kernel_s_clocks_become_unix_time() -> None:
    now = time.time_ns()
    assert abs(unix_ns_of_monotonic(time.monotonic_ns()) - now) < 10**9
    stat = read_process(PROC, os.getpid()).stat
    assert stat is not None and unix_ns_of_ticks(stat.start_ticks) < now


@pytest.mark.parametrize(
    ("capabilities", "hides"),
    [("000001ffffffffff", False), ("0000000000081004", False), ("0000000000001004", True), ("0" * 16, True)],
)
def test_what_is_hidden_depends_on_the_powers_and_not_on_the_account(
    tmp_path: Path, capabilities: str, hides: bool
) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tagent\nCapPrm:\t{'f' * 16}\nCapEff:\t{capabilities}\nCapBnd:\t{'f' * 16}\n")
    assert bool(hidden_details(status)) == hides
